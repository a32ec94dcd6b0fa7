//! The one task that owns the engine: a loop over a closed `enum Event`.
//!
//! HTTP handlers hold an `EngineHandle`; dropping a `Generation` cancels its request. Text never
//! gets here. This file holds time and channels, `engine` holds every decision.

use crate::request::{EngineStatus, GenerationEvent, ValidRequest};

/// Submits requests to the driver. Cloned into every handler.
#[derive(Clone)]
pub struct EngineHandle {}

/// One submitted request. Dropping it cancels the request and frees its blocks.
pub struct Generation {}

impl EngineHandle {
    /// Queues a request. Fails only when the driver is gone (the process is stopping).
    pub fn submit(&self, _request: ValidRequest) -> Result<Generation, crate::request::GenerationError> {
        Err(crate::request::GenerationError::ShuttingDown)
    }
    pub fn status(&self) -> EngineStatus {
        EngineStatus { shard_ready: false, running: 0, waiting: 0, last_step_age: std::time::Duration::ZERO }
    }
}

impl Generation {
    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<GenerationEvent> {
        None
    }
}
