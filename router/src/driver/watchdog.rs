//! How long a step may take, and whether one takes too long. Pure: time comes as ticks.
//!
//! Waiting is counted in the driver's own ticks, not by a clock: a machine that was suspended, or a router
//! that was stopped together with its shard, has not waited.

use std::time::Duration;

/// By default: far above any step of a healthy device.
const PATIENCE: Duration = Duration::from_secs(60);
/// On a CPU a step of a large model takes as long as it has tokens.
const CPU_PATIENCE_PER_TOKEN: Duration = Duration::from_millis(250);
const LONGEST_PERIOD: Duration = Duration::from_secs(1);
const SHORTEST_PERIOD: Duration = Duration::from_millis(10);

/// The time that a step gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Zero = for ever.
    base: Duration,
    per_token: Duration,
}

impl Patience {
    /// `given` by the user, else fit for the device.
    pub fn new(given: Option<Duration>, device_type: &str) -> Self {
        let per_token = if device_type == "cpu" { CPU_PATIENCE_PER_TOKEN } else { Duration::ZERO };
        match given {
            Some(base) => Self { base, per_token: Duration::ZERO },
            None => Self { base: PATIENCE, per_token },
        }
    }

    fn for_step(self, n_tokens: usize) -> Duration {
        let n_tokens = u32::try_from(n_tokens).unwrap_or(u32::MAX);
        self.base.saturating_add(self.per_token.saturating_mul(n_tokens))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// More than half of the step's time is over: nobody should send requests here now.
    Slow,
    /// The step's time is over.
    Hung,
}

#[derive(Debug)]
pub struct Watchdog {
    patience: Patience,
    waited: Duration,
}

impl Watchdog {
    pub fn new(patience: Patience) -> Self {
        Self { patience, waited: Duration::ZERO }
    }

    /// Between two ticks.
    pub fn period(&self) -> Duration {
        if self.patience.base.is_zero() {
            return LONGEST_PERIOD;
        }
        (self.patience.base / 8).clamp(SHORTEST_PERIOD, LONGEST_PERIOD)
    }

    /// Since the shard's last answer, while it owes one.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// The shard answered.
    pub fn answered(&mut self) {
        self.waited = Duration::ZERO;
    }

    /// A period is over. `owed` is the number of tokens in the oldest step in flight.
    pub fn tick(&mut self, owed: Option<usize>) -> Verdict {
        let Some(n_tokens) = owed else {
            self.waited = Duration::ZERO;
            return Verdict::Fine;
        };
        self.waited = self.waited.saturating_add(self.period());
        // The step may have been sent just before the first of these ticks.
        let surely = self.waited.saturating_sub(self.period());
        let patience = self.patience.for_step(n_tokens);
        match self.patience.base.is_zero() {
            false if surely >= patience => Verdict::Hung,
            false if surely >= patience / 2 => Verdict::Slow,
            _ => Verdict::Fine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks_until(watchdog: &mut Watchdog, n_tokens: usize, wanted: Verdict) -> u32 {
        (1..=10_000).find(|_| watchdog.tick(Some(n_tokens)) == wanted).expect("in time")
    }

    #[test]
    fn a_step_gets_its_time_and_no_more() {
        let seconds = Duration::from_secs_f64;
        for (given, device, n_tokens, expected) in [
            (None, "cuda", 4096, 60.0),
            (None, "cpu", 0, 60.0),
            (None, "cpu", 4096, 60.0 + 1024.0),
            (Some(seconds(2.0)), "cpu", 4096, 2.0),
            (Some(seconds(0.5)), "cuda", 1, 0.5),
        ] {
            let mut watchdog = Watchdog::new(Patience::new(given, device));
            let period = watchdog.period();
            let slow = period * (ticks_until(&mut watchdog, n_tokens, Verdict::Slow) - 1);
            let more = ticks_until(&mut watchdog, n_tokens, Verdict::Hung);
            let hung = slow + period * more;
            assert!(slow >= seconds(expected / 2.0) && slow < seconds(expected / 2.0) + period, "{slow:?}");
            assert!(hung >= seconds(expected) && hung < seconds(expected) + period, "{hung:?} {expected}");
        }
    }

    #[test]
    fn an_answer_or_nothing_to_answer_begins_anew() {
        let mut watchdog = Watchdog::new(Patience::new(Some(Duration::from_secs(1)), "cuda"));
        let n_ticks = ticks_until(&mut watchdog, 1, Verdict::Hung);
        for begin_anew in [Watchdog::answered, |watchdog: &mut Watchdog| {
            assert_eq!(watchdog.tick(None), Verdict::Fine);
        }] {
            begin_anew(&mut watchdog);
            assert_eq!(ticks_until(&mut watchdog, 1, Verdict::Hung), n_ticks);
        }
    }

    #[test]
    fn zero_waits_for_ever() {
        let mut watchdog = Watchdog::new(Patience::new(Some(Duration::ZERO), "cpu"));
        assert!((0..100_000).all(|_| watchdog.tick(Some(1)) == Verdict::Fine));
        assert_eq!(watchdog.period(), LONGEST_PERIOD);
    }
}
