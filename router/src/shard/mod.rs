//! The link to the shards. `grpc` is the only place with protobuf types.
//!
//! `server` connects to the first shard and plans it, then hands the open link to the driver, its only
//! user, with the source of the next one. A link carries steps and decides nothing.

mod convert;
pub mod grpc;
mod step_thread;
pub mod supervisor;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::PathBuf;

use tokio::runtime::Handle;

use crate::engine::{PlannedStep, StepOutcome};
use crate::request::{Limits, ShardInfo};

/// A shard that cannot be used (any more).
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    #[error("cannot start the thread of the step loop: {0}")]
    Thread(std::io::Error),
    #[error("the shard's socket path {0:?} is not UTF-8")]
    Path(PathBuf),
    /// The shard understood the call and says no.
    #[error("{call} failed on the shard: {message}")]
    Refused { call: &'static str, message: String },
    #[error("the shard's protocol is not ours: {0}")]
    Protocol(String),
    #[error("the connection to the shard broke: {0}")]
    Lost(String),
    #[error("no shard will come any more")]
    GivenUp,
}

/// An open stream of steps to one shard.
pub trait ShardLink: Send + 'static {
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

/// What a plan gives: the open link and the numbers that the engine works with.
pub struct PlannedShard<L> {
    pub link: L,
    /// As the shard said, with the plan's `n_blocks`.
    pub info: ShardInfo,
    /// As asked for, with the plan's `max_batch_total_tokens`.
    pub limits: Limits,
    /// Names the shard to whoever started it.
    pub pid: u32,
}

/// Where the next shard comes from when one is lost.
pub trait ShardSource: Send + 'static {
    type Link: ShardLink;

    /// Where the links' sockets are served, and so the place for the driver; by default the caller's runtime.
    fn runtime(&self) -> Handle {
        Handle::current()
    }

    /// Says that the shard is of no use any more. False when nobody will bring another one.
    fn replace(&self, pid: u32, reason: &str) -> bool;

    /// Waits for a shard other than `lost` and plans it as the first one was.
    ///
    /// # Errors
    /// Only [`ShardError::GivenUp`]: a shard that cannot be planned is replaced too.
    fn next(
        &self,
        lost: u32,
    ) -> impl Future<Output = Result<PlannedShard<Self::Link>, ShardError>> + Send + 'static;

    /// Says that the shard has answered.
    fn serving(&self, pid: u32);
}
