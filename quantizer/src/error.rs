//! The one error of a quantisation. Built by every file of the crate; shown by main as one line.

use std::path::{Path, PathBuf};

use text_generation_backend::error::LoadError;
use text_generation_checkpoint::WriteError;
use text_generation_router::text::TextError;

/// Why a model could not be quantised.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The float checkpoint cannot be read or is of an unsupported kind.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The folder cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The model's tokenizer cannot be read.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The operating system refused a read or write.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's words. Not a `source`: the message already has them.
        reason: std::io::Error,
    },
    /// A flag that cannot work, or not with this model.
    #[error("{0}")]
    Argument(String),
    /// The model's numbers cannot be worked with.
    #[error("{0}")]
    Numbers(String),
}

impl QuantizeError {
    /// For `map_err`: names the file or folder that an operation was about.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |reason| Self::Io { path: path.to_path_buf(), reason }
    }
}
