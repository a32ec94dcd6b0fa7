//! Text to tokens and back: tokenizers, chat templates, incremental detokenisation, stop strings.
//!
//! Called by `validation` (encode, templates) and by the HTTP handlers (detokenise, stop). Pure but
//! for the `from_dir` constructors, which read a checkpoint folder once; never touches the network,
//! and never panics on what a file or a client holds.

mod chat_template;
mod detokenizer;
mod files;
mod stop;
#[cfg(test)]
pub(crate) mod testing;
mod tokenizer;

pub use chat_template::{
    Chat, ChatMessage, ChatTemplate, Ending, Prompt, PromptPart, TemplateOptions, ToolCall, ToolStyle,
    python_json,
};
pub use detokenizer::Detokenizer;
pub use stop::{StopMatcher, StopOutcome};
pub use tokenizer::{Encoding, Tokenizer};

/// A tokenizer, special tokens or template that cannot be read or applied.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    #[error("{path}: {detail}")]
    File { path: String, detail: String },
    #[error("tokenizer error {0}")]
    Encode(String),
    #[error("template not found")]
    NoTemplate,
    #[error("{0}")]
    Template(String),
}
