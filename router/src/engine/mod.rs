//! The pure state machine: sequences, queue, scheduler, block pool. No tokio, no clock, no I/O, no text.
//!
//! The driver owns the one `Engine`: it submits and cancels requests, sends planned steps to the
//! shard, feeds the outcomes back and delivers the events. Time is an argument everywhere.

mod block_pool;
mod config;
mod queue;
mod scheduler;
mod sequence;
mod step;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Instant;

pub use config::{EngineConfig, EngineConfigError};
pub use sequence::SeqId;
pub use step::{PlannedRow, PlannedStep, RowInput, RowOutcome, SampledToken, StartSequence, StepOutcome};

use crate::request::{GenerationError, GenerationEvent, ValidRequest};
use queue::Waiting;
use scheduler::Scheduler;

/// Events for the requests' receivers, in order of generation.
pub type Events = Vec<(SeqId, GenerationEvent)>;

/// A reply that does not answer the oldest step in flight: the shard cannot be trusted any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepMismatch {
    #[error("the shard answered step {got}, expected step {expected:?}")]
    Step { expected: Option<u64>, got: u64 },
    #[error("the shard's answer to step {step_id} has no result for sequence {seq_id}")]
    Missing { step_id: u64, seq_id: u64 },
    #[error("the shard's answer to step {step_id} has a result for sequence {seq_id} that was not asked for")]
    Unexpected { step_id: u64, seq_id: u64 },
}

#[derive(Debug)]
pub struct Engine {
    scheduler: Scheduler,
    /// Oldest first; at most `max_steps_in_flight`.
    in_flight: VecDeque<InFlightStep>,
    /// Ended since the last planned step.
    forget: Vec<SeqId>,
    next_step_id: u64,
}

#[derive(Debug)]
struct InFlightStep {
    step_id: u64,
    rows: Vec<InFlightRow>,
}

#[derive(Debug)]
struct InFlightRow {
    seq_id: SeqId,
    sample: bool,
}

impl Engine {
    pub fn new(config: EngineConfig) -> Self {
        Self {
            scheduler: Scheduler::new(config),
            in_flight: VecDeque::new(),
            forget: Vec::new(),
            next_step_id: 1,
        }
    }

    /// Queues a request under an id that was never used before.
    pub fn submit(&mut self, seq_id: SeqId, request: ValidRequest, now: Instant) {
        self.scheduler.queue.push(Waiting { seq_id, request, queued: now });
    }

    /// The next step to send, or `None` when enough steps are in flight or there is nothing to do.
    pub fn plan_step(&mut self, now: Instant) -> Option<PlannedStep> {
        if self.in_flight.len() >= self.scheduler.config.max_steps_in_flight as usize {
            return None;
        }
        let rows = self.scheduler.plan_rows(now);
        if rows.is_empty() {
            return None;
        }
        let step_id = self.next_step_id;
        self.next_step_id += 1;
        let sent = rows.iter().map(|row| InFlightRow { seq_id: row.seq_id, sample: row.sample });
        self.in_flight.push_back(InFlightStep { step_id, rows: sent.collect() });
        Some(PlannedStep { step_id, forget: std::mem::take(&mut self.forget), rows })
    }

    /// Takes the shard's answer to the oldest step in flight.
    ///
    /// # Errors
    /// When it is no such answer; the caller must treat the shard as lost.
    pub fn apply(&mut self, outcome: StepOutcome, now: Instant) -> Result<Events, StepMismatch> {
        let step_id = outcome.step_id;
        let step = match self.in_flight.pop_front() {
            Some(step) if step.step_id == step_id => step,
            other => {
                return Err(StepMismatch::Step { expected: other.map(|step| step.step_id), got: step_id });
            }
        };
        let mut events = Events::with_capacity(outcome.results.len());
        let mut results = outcome.results.into_iter().peekable();
        for row in step.rows {
            let result = results.next_if(|result| result.seq_id == row.seq_id).map(|r| r.result);
            match result {
                None if row.sample => {
                    return Err(StepMismatch::Missing { step_id, seq_id: row.seq_id.0 });
                }
                Some(Ok(_)) if !row.sample => {
                    return Err(StepMismatch::Unexpected { step_id, seq_id: row.seq_id.0 });
                }
                result => events.extend(self.apply_row(row.seq_id, result, now)),
            }
        }
        match results.next() {
            Some(extra) => Err(StepMismatch::Unexpected { step_id, seq_id: extra.seq_id.0 }),
            None => Ok(events),
        }
    }

    fn apply_row(
        &mut self,
        seq_id: SeqId,
        result: Option<Result<SampledToken, String>>,
        now: Instant,
    ) -> Option<(SeqId, GenerationEvent)> {
        let sequence = self.scheduler.running.get_mut(&seq_id)?;
        let was_live = sequence.row_replied();
        let event = match result {
            Some(Ok(sampled)) if was_live => Some(sequence.accept(sampled, now)),
            Some(Err(message)) if was_live => {
                sequence.end();
                Some(GenerationEvent::Failed(GenerationError::Shard(message)))
            }
            _ => None,
        };
        self.forget_if_done(seq_id);
        event.map(|event| (seq_id, event))
    }

    /// Ends a request whose receiver is gone: no event follows. Ended or unknown ids are ignored.
    pub fn cancel(&mut self, seq_id: SeqId) {
        if self.scheduler.queue.remove(seq_id) {
            return;
        }
        if let Some(sequence) = self.scheduler.running.get_mut(&seq_id) {
            sequence.end();
            self.forget_if_done(seq_id);
        }
    }

    fn forget_if_done(&mut self, seq_id: SeqId) {
        if self.scheduler.running.get(&seq_id).is_some_and(|sequence| sequence.can_be_forgotten()) {
            self.scheduler.forget(seq_id);
            self.forget.push(seq_id);
        }
    }

    /// Fails every running and waiting request; afterwards the engine is as new, with all blocks free.
    pub fn shard_lost(&mut self, reason: &str) -> Events {
        let mut events = Events::new();
        for (seq_id, sequence) in std::mem::take(&mut self.scheduler.running) {
            if sequence.is_live() {
                events.push((seq_id, GenerationEvent::Failed(GenerationError::Shard(reason.to_string()))));
            }
            self.scheduler.pool.release(sequence.into_blocks());
        }
        while let Some(waiting) = self.scheduler.queue.pop() {
            let failed = GenerationEvent::Failed(GenerationError::Shard(reason.to_string()));
            events.push((waiting.seq_id, failed));
        }
        self.in_flight.clear();
        self.forget.clear();
        events
    }

    /// Sequences that own blocks.
    pub fn n_running(&self) -> usize {
        self.scheduler.running.len()
    }

    pub fn n_waiting(&self) -> usize {
        self.scheduler.queue.len()
    }

    pub fn n_steps_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// KV tokens in the blocks that sequences own.
    pub fn n_reserved_tokens(&self) -> u64 {
        u64::from(self.scheduler.pool.n_reserved()) * u64::from(self.scheduler.config.block_size)
    }

    /// True when no request is running or waiting.
    pub fn is_idle(&self) -> bool {
        self.scheduler.running.is_empty() && self.scheduler.queue.is_empty()
    }
}
