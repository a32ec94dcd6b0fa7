//! The one error of a conversion. Built by every file of `convert`; shown by main as one line.
//! Must never hide which file and which tensor or key was at fault.

use std::path::{Path, PathBuf};

/// Why a GGUF could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The operating system refused a read or write.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's words. Not a `source`: the message already has them.
        reason: std::io::Error,
    },
    /// The file is not a GGUF, or contradicts itself or its size.
    #[error("damaged GGUF: {0}")]
    Damaged(String),
    /// The file is well-formed, but of a kind that cannot be converted.
    #[error("unsupported GGUF: {0}")]
    Unsupported(String),
    /// The folder could not be written.
    #[error(transparent)]
    Write(#[from] text_generation_checkpoint::WriteError),
    /// A weight that the chosen format cannot hold.
    #[error("tensor {tensor:?}: {reason}")]
    Weight {
        /// Its name in the GGUF.
        tensor: String,
        /// What does not fit.
        reason: String,
    },
    /// One of the above, with the file it is about.
    #[error("{}: {reason}", path.display())]
    InFile {
        /// The GGUF.
        path: PathBuf,
        /// What is wrong with it.
        reason: Box<ConvertError>,
    },
    /// An argument of the subcommand.
    #[error("{0}")]
    Argument(String),
}

impl ConvertError {
    /// For `map_err`: names the file or folder that an operation was about.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |reason| Self::Io { path: path.to_path_buf(), reason }
    }

    /// For `map_err`: adds the GGUF's path to an error that names no file yet.
    pub(super) fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Damaged(_) | Self::Unsupported(_) | Self::Weight { .. } => {
                Self::InFile { path: path.to_path_buf(), reason: Box::new(self) }
            }
            Self::Io { .. } | Self::Write(_) | Self::InFile { .. } | Self::Argument(_) => self,
        }
    }
}
