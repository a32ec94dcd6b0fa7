//! What can go wrong between `--model-id OWNER/NAME` and its files on disk, in words for whoever started the server.
//!
//! Made by every file of `hub`; shown once, inside `LauncherError::Download`. Must never hold a token.

use std::path::Path;
use std::time::Duration;

use thiserror::Error;

/// Why a repository, or one of its files, could not be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HubError {
    /// It may work in a while: network trouble, an overloaded Hub.
    #[error("{reason}")]
    Transient {
        /// What happened.
        reason: String,
        /// How long the Hub asked to wait.
        retry_after: Option<Duration>,
    },
    /// The repository is not there, or not for this account.
    #[error("{0}")]
    NoAccess(String),
    /// The repository is there, the revision is not.
    #[error("{0}")]
    NoRevision(String),
    /// The repository holds nothing that can be served, or names that no repository has.
    #[error("{0}")]
    Unusable(String),
    /// What arrived is not what the Hub announced.
    #[error("{0}")]
    Damaged(String),
    /// The disk is full, read-only or otherwise unwilling.
    #[error("{0}")]
    Disk(String),
    /// Another thread of the same download failed.
    #[error("stopped")]
    Stopped,
}

impl HubError {
    /// A [`HubError::Transient`] without a wish of the Hub.
    pub(super) fn transient(reason: impl Into<String>) -> Self {
        Self::Transient { reason: reason.into(), retry_after: None }
    }

    /// For `map_err` on an operation on the file or folder `path`.
    pub(super) fn disk(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        move |error| {
            let advice = match error.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    ". Free some space, or choose another cache folder with HF_HOME; \
                     what has arrived so far is kept and not fetched again"
                }
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                    ". Choose a cache folder that can be written to with HF_HOME"
                }
                _ => "",
            };
            Self::Disk(format!("{}: {error}{advice}", path.display()))
        }
    }
}
