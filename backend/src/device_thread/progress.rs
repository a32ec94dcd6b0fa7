//! How the device thread is doing, readable while it works. Written by the thread after every step,
//! read by the service's Health call, which must never wait for a step. Time is an argument.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What the device thread has done, readable while it works.
#[derive(Debug)]
pub struct Progress {
    since: Instant,
    n_steps: AtomicU64,
    n_started: AtomicU64,
    /// When the last step finished, in milliseconds after `since`.
    last_step_ms: AtomicU64,
}

impl Progress {
    pub(super) fn new(since: Instant) -> Progress {
        Progress { since, n_steps: 0.into(), n_started: 0.into(), last_step_ms: 0.into() }
    }

    pub fn n_steps(&self) -> u64 {
        self.n_steps.load(Ordering::Acquire)
    }

    /// 0 before the first step.
    pub fn last_step_age_ms(&self, now: Instant) -> u64 {
        match self.n_steps() {
            0 => 0,
            _ => self.millis(now).saturating_sub(self.last_step_ms.load(Ordering::Acquire)),
        }
    }

    pub fn is_busy(&self) -> bool {
        // In this order, so that a step that ends meanwhile cannot make the difference negative.
        let n_finished = self.n_steps();
        self.n_started.load(Ordering::Acquire) > n_finished
    }

    pub(super) fn step_started(&self) {
        self.n_started.fetch_add(1, Ordering::AcqRel);
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_millis() as u64
    }

    pub(super) fn step_finished(&self, now: Instant) {
        self.last_step_ms.store(self.millis(now), Ordering::Release);
        self.n_steps.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn age_is_counted_from_the_last_step() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let progress = Progress::new(start);
        assert_eq!((progress.n_steps(), progress.last_step_age_ms(at(50))), (0, 0));
        assert!(!progress.is_busy());
        progress.step_started();
        progress.step_started();
        progress.step_finished(at(100));
        assert!(progress.is_busy());
        progress.step_finished(at(130));
        assert!(!progress.is_busy());
        assert_eq!((progress.n_steps(), progress.last_step_age_ms(at(150))), (2, 20));
        assert_eq!(progress.last_step_age_ms(at(1)), 0);
    }
}
