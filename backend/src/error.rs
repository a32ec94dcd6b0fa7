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
    /// A JSON file of the model folder says something impossible.
    #[error("{path}: {detail}")]
    Config { path: PathBuf, detail: String },
    /// A weight file, or the index of several, is damaged or lies about itself.
    #[error("{path}: {detail}")]
    Safetensors { path: PathBuf, detail: String },
    /// A tensor is missing, or is not what the model's configuration asks for.
    #[error("tensor `{name}`: {detail}")]
    Tensor { name: String, detail: String },
    /// A sound checkpoint of a kind that is not served.
    #[error("{0}")]
    Unsupported(String),
    /// The limits asked for cannot be met by this model or this machine.
    #[error("{0}")]
    Plan(String),
    #[error("not enough memory for {what}: {bytes} bytes")]
    Memory { what: &'static str, bytes: usize },
    /// The device refused a call or failed while it was made ready.
    #[error("{op}: {detail}")]
    Device { op: &'static str, detail: String },
}

/// A step that failed as a whole. The router treats it as the loss of every sequence in the step.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("step {step_id}: {detail}")]
    BadStep { step_id: u64, detail: String },
    #[error("{op}: {detail}")]
    Device { op: &'static str, detail: String },
}
