//! Why a folder could not be written. Made by `staging`; must always name the file or folder.

use std::path::{Path, PathBuf};

/// Why a checkpoint folder could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The operating system refused a read or write.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's words. Not a `source`: the message already has them.
        reason: std::io::Error,
    },
    /// The folder to write cannot be used.
    #[error("{0}")]
    Target(String),
}

impl WriteError {
    /// For `map_err`: names the file or folder that an operation was about.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |reason| Self::Io { path: path.to_path_buf(), reason }
    }
}
