//! The router: HTTP, validation, text to tokens and back, scheduling.
//!
//! `api` turns JSON into a request and events into JSON; `validation` is the only maker of
//! `ValidRequest`; `text` holds tokenizers, chat templates, detokenisation and stop strings;
//! `tools` tells functions to a model and reads its calls;
//! `engine` is a pure state machine; `driver` is the one task that owns it; `shard` is the link to
//! the shards; `server` is the life of the process, with `args`. The engine never sees
//! text, and nothing outside `shard::grpc` sees protobuf.
#![forbid(unsafe_code)]

pub mod api;
pub mod args;
pub mod constraint;
pub mod driver;
pub mod engine;
pub mod metrics;
pub mod request;
pub mod server;
pub mod shard;
pub mod text;
pub mod tools;
pub mod validation;
