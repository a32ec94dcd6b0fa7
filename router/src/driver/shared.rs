//! What the driver publishes for handlers to read without asking it: counts, progress, life.
//!
//! Written by the driver after each turn of its loop, read by `EngineHandle::status`. Each number is
//! exact by itself; two of them may be of neighbouring turns.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::engine::SeqId;
use crate::request::EngineStatus;

/// Marks that no step is in flight.
const IDLE: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Shared {
    next_seq_id: AtomicU64,
    stopped: AtomicBool,
    healthy: AtomicBool,
    running: AtomicUsize,
    waiting: AtomicUsize,
    /// Nanoseconds from `started` to the last progress of the steps in flight, or `IDLE`.
    progress: AtomicU64,
    started: Instant,
}

impl Shared {
    pub fn new(now: Instant) -> Self {
        Self {
            next_seq_id: AtomicU64::new(1),
            stopped: AtomicBool::new(false),
            healthy: AtomicBool::new(true),
            running: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            progress: AtomicU64::new(IDLE),
            started: now,
        }
    }

    pub fn next_seq_id(&self) -> SeqId {
        SeqId(self.next_seq_id.fetch_add(1, Relaxed))
    }

    pub fn set_counts(&self, running: usize, waiting: usize) {
        self.running.store(running, Relaxed);
        self.waiting.store(waiting, Relaxed);
    }

    /// `progress`: when the oldest step in flight was sent or the one before it answered, whichever
    /// was later; `None` when no step is in flight.
    pub fn set_progress(&self, progress: Option<Instant>) {
        let nanos = |at: Instant| at.saturating_duration_since(self.started).as_nanos() as u64;
        self.progress.store(progress.map_or(IDLE, nanos), Relaxed);
    }

    /// Whether a request would be served now: a shard is there, answers in time, and made a token when it
    /// was last asked for one.
    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Relaxed);
    }

    pub fn set_stopped(&self) {
        self.stopped.store(true, Relaxed);
        self.set_healthy(false);
        self.set_counts(0, 0);
        self.set_progress(None);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    pub fn status(&self, now: Instant) -> EngineStatus {
        let age = match self.progress.load(Relaxed) {
            IDLE => Duration::ZERO,
            nanos => now.saturating_duration_since(self.started + Duration::from_nanos(nanos)),
        };
        EngineStatus {
            healthy: self.healthy.load(Relaxed),
            stopped: self.is_stopped(),
            running: self.running.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            last_step_age: age,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_counts_from_the_last_progress_and_is_zero_when_idle() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let shared = Shared::new(start);
        for (progress, now, age_ms) in
            [(None, at(50), 0), (Some(at(10)), at(50), 40), (Some(at(60)), at(50), 0), (None, at(90), 0)]
        {
            shared.set_progress(progress);
            assert_eq!(shared.status(now).last_step_age, Duration::from_millis(age_ms));
        }
    }
}
