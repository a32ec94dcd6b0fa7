//! The link to the shards. `grpc` is the only place with protobuf types.
//!
//! `main` connects and plans, then hands the open link to the driver, its only user. The link
//! carries steps and decides nothing.

mod convert;
pub mod grpc;
mod step_thread;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::PathBuf;

use tokio::runtime::Handle;

use crate::engine::{PlannedStep, StepOutcome};

/// A shard that cannot be used (any more).
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    #[error("cannot start the thread of the step loop: {0}")]
    Thread(std::io::Error),
    #[error("the shard's socket path {0:?} is not UTF-8")]
    Path(PathBuf),
    #[error("{call} failed on the shard: {message}")]
    Call { call: &'static str, message: String },
    #[error("the shard's protocol is not ours: {0}")]
    Protocol(String),
    #[error("the connection to the shard broke: {0}")]
    Lost(String),
}

/// An open stream of steps to one shard.
pub trait ShardLink: Send + 'static {
    /// Where the link's socket is served, and so the place for the driver; by default the caller's runtime.
    fn runtime(&self) -> Handle {
        Handle::current()
    }

    /// Queues a step behind those sent before. Never waits.
    ///
    /// # Errors
    /// When the stream has ended.
    fn send(&mut self, step: PlannedStep) -> Result<(), ShardError>;

    /// The shard's next answer, in the order of the steps. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the shard is lost; the link is of no use afterwards.
    fn recv(&mut self) -> impl Future<Output = Result<StepOutcome, ShardError>> + Send;
}
