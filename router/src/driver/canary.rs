//! When to compute a token for nobody, to see that the shard still can, and what came of it. Pure: time
//! comes as the driver's ticks.
//!
//! Health is then never older than the interval, and an idle shard that hangs is found before a client does.

use std::time::Duration;

use crate::engine::SeqId;

/// After a failure, before the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// Failures in a row after which the shard is replaced.
const MAX_FAILURES: u32 = 3;

#[derive(Debug)]
pub struct Canary {
    /// Without work for so long; zero = never.
    interval: Duration,
    idle: Duration,
    hurried: bool,
    running: Option<SeqId>,
    n_failures: u32,
}

impl Canary {
    pub fn new(interval: Duration) -> Self {
        Self { interval, idle: Duration::ZERO, hurried: false, running: None, n_failures: 0 }
    }

    /// A period is over, in which the engine was `idle` or not. True when a canary is due.
    pub fn tick(&mut self, idle: bool, period: Duration) -> bool {
        self.idle = if idle { self.idle.saturating_add(period) } else { Duration::ZERO };
        let due = match self.n_failures {
            _ if self.hurried => Duration::ZERO,
            0 => self.interval,
            _ => RETRY,
        };
        idle && self.running.is_none() && !self.interval.is_zero() && self.idle >= due
    }

    /// A new shard: due as soon as there is no work for it.
    pub fn hurry(&mut self) {
        self.hurried = true;
    }

    pub fn started(&mut self, seq_id: SeqId) {
        self.running = Some(seq_id);
        self.idle = Duration::ZERO;
        self.hurried = false;
    }

    /// The one that has not ended yet.
    pub fn running(&self) -> Option<SeqId> {
        self.running
    }

    /// The running one ended: by a token, or not.
    pub fn ended(&mut self, passed: bool) {
        self.running = None;
        self.n_failures = if passed { 0 } else { self.n_failures + 1 };
    }

    /// A request got a token, which says as much as a canary.
    pub fn token_seen(&mut self) {
        self.n_failures = 0;
        self.hurried = false;
    }

    pub fn has_failed(&self) -> bool {
        self.n_failures > 0
    }

    /// The shard answers, but not with tokens: another one might. True once for each time it is so.
    pub fn condemns(&mut self) -> bool {
        let condemned = self.n_failures >= MAX_FAILURES;
        if condemned {
            self.n_failures = 1;
        }
        condemned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(1);

    #[test]
    fn due_after_the_interval_without_work() {
        let mut canary = Canary::new(Duration::from_secs(3));
        let due = |canary: &mut Canary, idle: &[bool]| -> Vec<bool> {
            idle.iter().map(|&idle| canary.tick(idle, PERIOD)).collect()
        };
        assert_eq!(
            due(&mut canary, &[true, true, false, true, true, true]),
            [false, false, false, false, false, true]
        );
        canary.started(SeqId(1));
        assert_eq!(due(&mut canary, &[true; 4]), [false; 4], "one at a time");
        canary.ended(true);
        canary.hurry();
        assert!(!canary.tick(false, PERIOD) && canary.tick(true, PERIOD));
        let mut never = Canary::new(Duration::ZERO);
        never.hurry();
        assert!(!never.tick(true, Duration::MAX));
    }

    #[test]
    fn failures_are_repeated_soon_and_condemn_in_the_end() {
        let mut canary = Canary::new(Duration::from_secs(30));
        for n in 1..=3 {
            canary.started(SeqId(n));
            canary.ended(false);
            assert!(canary.has_failed() && canary.tick(true, PERIOD));
            assert_eq!(canary.condemns(), n == 3);
        }
        assert!(canary.has_failed(), "until a token comes");
        canary.token_seen();
        assert!(!canary.has_failed() && !canary.tick(true, PERIOD));
    }
}
