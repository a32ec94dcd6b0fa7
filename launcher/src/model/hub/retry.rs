//! When to try again. Pure policy, and the one loop that applies it.
//!
//! Called by `client`'s callers around requests that may fail for a while. What is not transient is
//! never repeated.

use std::time::Duration;

use tracing::warn;

use super::error::HubError;
use super::stop::Stop;

/// Attempts in a row without any progress before giving up.
pub(super) const ATTEMPTS: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// A Hub that asks for more patience than this is not waited for any longer.
const LONGEST_WISH: Duration = Duration::from_secs(300);

/// How long to wait after the `n_failed`-th failure in a row (from 1); the Hub's own wish wins.
pub(super) fn pause(n_failed: u32, retry_after: Option<Duration>) -> Duration {
    match retry_after {
        Some(wish) => wish.min(LONGEST_WISH),
        None => (FIRST_WAIT * 2u32.saturating_pow(n_failed.saturating_sub(1))).min(LONGEST_WAIT),
    }
}

/// Calls `operation` until it succeeds, fails for good, or has failed `attempts` times in a row without
/// `progress` changing. `what` names it in the log.
pub(super) fn retrying<T>(
    what: &str,
    attempts: u32,
    stop: &Stop,
    mut operation: impl FnMut() -> (Result<T, HubError>, u64),
) -> Result<T, HubError> {
    let (mut n_failed, mut reached) = (0, None);
    loop {
        let (result, progress) = operation();
        let (reason, retry_after) = match result {
            Err(HubError::Transient { reason, retry_after }) => (reason, retry_after),
            done => return done,
        };
        if reached.is_some_and(|reached| progress > reached) {
            n_failed = 0;
        }
        reached = Some(progress);
        n_failed += 1;
        if n_failed >= attempts {
            let times = if attempts > 1 { format!(" ({n_failed} attempts in a row)") } else { String::new() };
            return Err(HubError::Transient { reason: format!("{reason}{times}"), retry_after });
        }
        let wait = pause(n_failed, retry_after);
        warn!("{what}: {reason}; trying again in {:.1} s", wait.as_secs_f32());
        if stop.wait(wait) {
            return Err(HubError::Stopped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        let seconds: Vec<f32> = (1..=8).map(|n| pause(n, None).as_secs_f32()).collect();
        assert_eq!(seconds, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]);
        assert_eq!(pause(40, None), LONGEST_WAIT);
        assert_eq!(pause(1, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(pause(1, Some(Duration::from_secs(86_400))), LONGEST_WISH);
    }

    /// Runs `outcomes` (progress, failure) through the loop; the result and how many were used.
    fn run(outcomes: &[(u64, Option<HubError>)], attempts: u32) -> (Result<(), HubError>, usize) {
        let mut used = 0;
        let result = retrying("test", attempts, &Stop::default(), || {
            let (progress, error) = outcomes[used].clone();
            used += 1;
            (error.map_or(Ok(()), Err), progress)
        });
        (result, used)
    }

    #[test]
    fn repeats_only_what_may_pass() {
        let again = || Some(HubError::Transient { reason: "busy".into(), retry_after: Some(Duration::ZERO) });
        let gone = || Some(HubError::NoAccess("gone".into()));
        assert_eq!(run(&[(0, None)], 3), (Ok(()), 1));
        assert_eq!(run(&[(0, again()), (0, again()), (0, None)], 3), (Ok(()), 3));
        assert_eq!(
            run(&[(0, again()), (0, gone()), (0, None)], 3),
            (Err(HubError::NoAccess("gone".into())), 2)
        );
        let (failed, used) = run(&[(0, again()), (0, again()), (0, again()), (0, None)], 3);
        assert_eq!(
            (failed.expect_err("gave up").to_string().as_str(), used),
            ("busy (3 attempts in a row)", 3)
        );
        // Whoever makes progress is never given up.
        let slow: Vec<_> = (0..20).map(|n| (n, again())).chain([(20, None)]).collect();
        assert_eq!(run(&slow, 2), (Ok(()), 21));
    }

    #[test]
    fn a_stop_ends_the_wait() {
        let stop = Stop::default();
        stop.set();
        let result: Result<(), _> = retrying("test", 9, &stop, || (Err(HubError::transient("busy")), 0));
        assert_eq!(result, Err(HubError::Stopped));
    }
}
