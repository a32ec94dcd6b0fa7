//! OpenAI's routes: POST /v1/chat/completions and /v1/completions.
//!
//! `job` is what both do with a request, `chat` and `completions` what differs, `called` reads calls from
//! chat answers, `stream` their server-sent events, `*types` the JSON. Requests are read as OpenAI defines them, answers are a
//! superset of TGI's and OpenAI's.

mod called;
pub mod chat;
mod chat_types;
pub mod completions;
mod completions_types;
mod job;
mod stream;
mod template_fields;
mod tool_types;
mod types;

pub use chat_types::ChatRequest;
pub use completions_types::CompletionRequest;
pub use job::text;
