//! The ways in which a launch ends badly, each printed as TGI prints it: `Error: Variant("...")`.
//!
//! Made by the checks, the model resolution and the supervisor; printed once, by `main`. The text
//! must stay on one line and say what was found, what was expected and what to do.

use thiserror::Error;

/// Why the launcher exits with code 1.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LauncherError {
    /// A flag, a combination of flags, or the model that they name cannot work.
    #[error("ArgumentValidation(\"{}\")", one_line(.0))]
    ArgumentValidation(String),
    /// Sharding was asked for on a machine with fewer than two CUDA devices.
    #[error("NotEnoughCUDADevices(\"{}\")", one_line(.0))]
    NotEnoughCudaDevices(String),
    /// The model is not on this machine and cannot be brought here.
    #[error("DownloadError(\"{}\")", one_line(.0))]
    Download(String),
    /// The shard ended before it was ready.
    #[error("ShardCannotStart(\"{}\")", one_line(.0))]
    ShardCannotStart(String),
    /// The shard ended while serving.
    #[error("ShardFailed(\"{}\")", one_line(.0))]
    ShardFailed(String),
    /// The router could not be started at all.
    #[error("WebserverCannotStart(\"{}\")", one_line(.0))]
    WebserverCannotStart(String),
    /// The router ended without being asked to.
    #[error("WebserverFailed(\"{}\")", one_line(.0))]
    WebserverFailed(String),
}

impl LauncherError {
    /// An [`LauncherError::ArgumentValidation`] from anything that reads as text.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::ArgumentValidation(message.into())
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_tgi_does_on_one_line() {
        let cases = [
            (
                LauncherError::argument("`validation_workers` must be > 0"),
                "ArgumentValidation(\"`validation_workers` must be > 0\")",
            ),
            (LauncherError::ShardFailed("a\n\n  b\n".into()), "ShardFailed(\"a b\")"),
            (LauncherError::NotEnoughCudaDevices("x".into()), "NotEnoughCUDADevices(\"x\")"),
        ];
        for (error, expected) in cases {
            assert_eq!(error.to_string(), expected);
        }
    }
}
