//! Errors of the shard: what, expected, got, what to do. Made everywhere in the backend, shown by
//! `main` (loading) or sent in a StepReply (steps). A message never holds text of a request.

use std::path::PathBuf;

/// A checkpoint that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}: {detail}")]
    Config { path: PathBuf, detail: String },
    #[error("{path}: {detail}")]
    Safetensors { path: PathBuf, detail: String },
    #[error("tensor `{name}`: {detail}")]
    Tensor { name: String, detail: String },
    #[error("{0}")]
    Unsupported(String),
    #[error("not enough memory for {what}: {bytes} bytes")]
    Memory { what: &'static str, bytes: usize },
}

/// A step that failed as a whole. The router treats it as the loss of every sequence in the step.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("step {step_id}: {detail}")]
    BadStep { step_id: u64, detail: String },
    #[error("{op}: {detail}")]
    Device { op: &'static str, detail: String },
}
