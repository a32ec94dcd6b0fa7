//! The pure state machine: sequences, queue, scheduler, block pool. No tokio, no clock, no I/O, no text.
//!
//! The driver owns the one `Engine`: it submits and cancels requests, sends planned steps to the
//! shard, feeds the outcomes back and delivers the events. Time is an argument everywhere.

mod admission;
mod allotment;
mod block_pool;
mod config;
mod counters;
mod in_flight;
mod preemption;
mod prefix_cache;
mod quarantine;
mod queue;
mod running;
mod scheduler;
mod sequence;
mod step;
mod suspicion;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

pub use config::{EngineConfig, EngineConfigError};
pub use counters::Counters;
pub use in_flight::StepMismatch;
pub use sequence::SeqId;
pub use step::{
    PlannedRow, PlannedStep, RowInput, RowOutcome, RowScores, SampledToken, StartSequence, StepOutcome,
};

use crate::constraint::TokenMask;
use crate::request::{GenerationError, GenerationEvent, ValidRequest};
use in_flight::{InFlightRow, InFlightStep};
use quarantine::Quarantine;
use scheduler::Scheduler;
use sequence::Sequence;

/// Events for the requests' receivers, in order of generation.
pub type Events = Vec<(SeqId, GenerationEvent)>;

#[derive(Debug)]
pub struct Engine {
    scheduler: Scheduler,
    /// Oldest first; at most `max_steps_in_flight`.
    in_flight: VecDeque<InFlightStep>,
    next_step_id: u64,
    /// False from the loss of a shard to the plan of the next one.
    has_shard: bool,
    /// Sequences that are replayed one by one, see `suspicion`.
    suspects: BTreeSet<SeqId>,
    quarantine: Quarantine,
    /// Of every request that has one.
    deadlines: BTreeSet<(Instant, SeqId)>,
}

impl Engine {
    pub fn new(config: EngineConfig) -> Self {
        Self {
            scheduler: Scheduler::new(config),
            in_flight: VecDeque::new(),
            next_step_id: 1,
            has_shard: true,
            suspects: BTreeSet::new(),
            quarantine: Quarantine::default(),
            deadlines: BTreeSet::new(),
        }
    }

    /// Queues a request under an id that was never used before. The event, if there is one, refuses it:
    /// it has killed the shard before.
    #[must_use]
    pub fn submit(&mut self, seq_id: SeqId, request: ValidRequest, now: Instant) -> Events {
        if self.quarantine.holds(&request, now) {
            return vec![(seq_id, GenerationEvent::Failed(GenerationError::Quarantined))];
        }
        self.deadlines.extend(request.caller.deadline.map(|deadline| (deadline, seq_id)));
        self.scheduler.queue.push(Sequence::new(seq_id, request, now));
        Events::new()
    }

    /// The next step to send, or `None` when enough steps are in flight or there is nothing to do.
    pub fn plan_step(&mut self, now: Instant) -> Option<PlannedStep> {
        let full = self.in_flight.len() >= self.scheduler.config.max_steps_in_flight as usize;
        let on_trial = self.suspects.first().copied();
        if full || !self.has_shard || on_trial.is_some_and(|suspect| self.has_others_in_flight(suspect)) {
            return None;
        }
        let rows = self.scheduler.plan_rows(on_trial, now);
        if rows.is_empty() {
            return None;
        }
        let step_id = self.next_step_id;
        self.next_step_id += 1;
        let sent = rows.iter().map(|row| InFlightRow {
            seq_id: row.seq_id,
            sample: row.sample,
            n_tokens: row.position as usize + row.input.n_tokens(),
            scores: (row.position as usize + 1, row.score_ids.len()),
        });
        self.in_flight.push_back(InFlightStep { step_id, rows: sent.collect() });
        Some(PlannedStep { step_id, forget: std::mem::take(&mut self.scheduler.forget), rows })
    }

    fn has_others_in_flight(&self, seq_id: SeqId) -> bool {
        self.in_flight.iter().flat_map(|step| &step.rows).any(|row| row.seq_id != seq_id)
    }

    /// Takes the shard's answer to the oldest step in flight.
    ///
    /// # Errors
    /// When it is no such answer; nothing is taken from it, and the caller must treat the shard as lost.
    pub fn apply(&mut self, outcome: StepOutcome, now: Instant) -> Result<Events, StepMismatch> {
        let step_id = outcome.step_id;
        let expected = self.in_flight.front().map(|step| step.step_id);
        let step = match self.in_flight.front() {
            Some(step) if step.step_id == step_id => step,
            _ => return Err(StepMismatch::Step { expected, got: step_id }),
        };
        let results = step.pair(outcome.results)?;
        let mut events: Events =
            outcome.scores.into_iter().filter_map(|scores| self.apply_scores(step, scores)).collect();
        let rows = self.in_flight.pop_front().map(|step| step.rows).unwrap_or_default();
        let replies = rows.into_iter().zip(results);
        events.extend(replies.filter_map(|(row, result)| self.apply_row(&row, result, now)));
        Ok(events)
    }

    /// The event of a row's scores; `None` for scores that nobody waits for.
    fn apply_scores(&self, step: &InFlightStep, scores: RowScores) -> Option<(SeqId, GenerationEvent)> {
        let RowScores { seq_id, scores } = scores;
        let row = step.rows.iter().find(|row| row.seq_id == seq_id)?;
        let (position, n) = row.scores;
        let wanted = n > 0 && n == scores.len() && self.scheduler.running.contains_key(&seq_id);
        wanted.then_some((seq_id, GenerationEvent::PromptScores { position, scores }))
    }

    fn apply_row(
        &mut self,
        row: &InFlightRow,
        result: Option<Result<SampledToken, String>>,
        now: Instant,
    ) -> Option<(SeqId, GenerationEvent)> {
        let sequence = self.scheduler.sequence_mut(row.seq_id)?;
        sequence.row_replied(row.sample);
        let (event, ended) = match result {
            None => (None, false),
            Some(Ok(sampled)) => {
                let (event, ended) = sequence.accept(sampled, now);
                (Some(event), ended)
            }
            Some(Err(message)) => (Some(GenerationEvent::Failed(GenerationError::Shard(message))), true),
        };
        sequence.suspicion.passed(row.n_tokens);
        let cleared = !sequence.suspicion.is_suspect();
        if matches!(event, Some(GenerationEvent::Token { .. })) {
            self.scheduler.sampled(row.seq_id, row.n_tokens);
        }
        if ended {
            self.end(row.seq_id);
        } else if cleared && self.suspects.remove(&row.seq_id) && !self.suspects.is_empty() {
            // The next suspect must have the shard to itself.
            self.scheduler.preempt(row.seq_id);
        }
        event.map(|event| (row.seq_id, event))
    }

    /// Takes a sequence out for good.
    fn end(&mut self, seq_id: SeqId) -> Option<Sequence> {
        self.suspects.remove(&seq_id);
        let sequence = self.scheduler.remove(seq_id)?;
        if let Some(deadline) = sequence.request.caller.deadline {
            self.deadlines.remove(&(deadline, seq_id));
        }
        Some(sequence)
    }

    /// What may follow the token of a constrained sequence that came last. Ended or unknown ids are ignored.
    pub fn set_mask(&mut self, seq_id: SeqId, mask: TokenMask) {
        if let Some(sequence) = self.scheduler.sequence_mut(seq_id) {
            sequence.set_mask(mask);
        }
    }

    /// Whether a sequence could have a row in the next step, had it its mask.
    pub fn lacks_masks(&self) -> bool {
        self.scheduler.running.values().any(|running| running.sequence.lacks_only_mask())
    }

    /// Ends a request for a reason of its own. Ended or unknown ids are ignored.
    pub fn fail(&mut self, seq_id: SeqId, error: GenerationError) -> Events {
        self.end(seq_id).map(|_| (seq_id, GenerationEvent::Failed(error))).into_iter().collect()
    }

    /// Ends a request whose receiver is gone: no event follows, and its blocks are free for the next step.
    /// Ended or unknown ids are ignored.
    pub fn cancel(&mut self, seq_id: SeqId) {
        self.end(seq_id);
    }

    /// When `expire` has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Ends every request whose deadline is `now` or earlier.
    pub fn expire(&mut self, now: Instant) -> Events {
        let mut events = Events::new();
        while let Some((_, seq_id)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now)
        {
            self.end(seq_id);
            events.push((seq_id, GenerationEvent::Failed(GenerationError::DeadlinePassed)));
        }
        events
    }

    /// The shard is gone, and with it every block and every answer in flight. Sequences go back to the
    /// queue, to be replayed from their token ids once `plan_changed` tells of the next shard; requests
    /// may come, go and expire meanwhile. The events name those that are not tried again because they
    /// have killed the shard (see `suspicion`).
    pub fn shard_lost(&mut self, now: Instant) -> Events {
        self.has_shard = false;
        let mut in_fatal_step = BTreeMap::<SeqId, usize>::new();
        for row in self.in_flight.drain(..).flat_map(|step| step.rows) {
            let place = in_fatal_step.entry(row.seq_id).or_default();
            *place = row.n_tokens.max(*place);
        }
        self.scheduler.shard_lost();
        let alone = in_fatal_step.len() == 1;
        let mut events = Events::new();
        for (seq_id, place) in in_fatal_step {
            let Some(sequence) = self.scheduler.sequence_mut(seq_id) else { continue };
            sequence.suspicion.crashed(place, alone);
            let is_proven = sequence.suspicion.is_proven();
            if sequence.suspicion.is_suspect() {
                self.suspects.insert(seq_id);
            }
            if is_proven && let Some(culprit) = self.end(seq_id) {
                self.quarantine.add(&culprit.request, now);
                self.scheduler.counters.quarantined += 1;
                events.push((seq_id, GenerationEvent::Failed(GenerationError::Quarantined)));
            }
        }
        events
    }

    /// A shard is there (again), with `config`'s blocks, all of them free.
    pub fn plan_changed(&mut self, config: EngineConfig) {
        self.scheduler.plan_changed(config);
        self.has_shard = true;
    }

    /// Fails every request for the same reason, when no shard will come any more.
    pub fn fail_all(&mut self, error: &GenerationError) -> Events {
        self.scheduler.shard_lost();
        self.in_flight.clear();
        let ended = self.scheduler.queue.drain();
        self.deadlines.clear();
        self.suspects.clear();
        ended.into_iter().map(|sequence| (sequence.seq_id, GenerationEvent::Failed(error.clone()))).collect()
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

    /// What was done since the engine was made.
    pub fn counters(&self) -> Counters {
        self.scheduler.counters
    }

    /// KV tokens in blocks that hold cached beginnings, in use or not.
    pub fn n_cached_tokens(&self) -> u64 {
        self.scheduler.pool.n_cached() as u64 * u64::from(self.scheduler.config.block_size)
    }

    /// KV tokens in the blocks that sequences own.
    pub fn n_reserved_tokens(&self) -> u64 {
        self.scheduler.pool.n_used() as u64 * u64::from(self.scheduler.config.block_size)
    }

    /// True when no request is running or waiting.
    pub fn is_idle(&self) -> bool {
        self.scheduler.running.is_empty() && self.scheduler.queue.is_empty()
    }
}
