//! SIGTERM and SIGINT as one stream. Used by `server::run`.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that follow each other so closely are one wish: systemd and `timeout` signal every process of
/// a group.
const ONE_WISH: Duration = Duration::from_secs(1);
/// The launcher passes its own signal on, however late; it is the one that kills on a second signal.
const ONE_WISH_UNDER_A_LAUNCHER: Duration = Duration::MAX;

pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    one_wish: Duration,
    last: Option<Instant>,
}

impl Signals {
    /// From now on neither signal ends the process by itself.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen(under_a_launcher: bool) -> std::io::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        let one_wish = if under_a_launcher { ONE_WISH_UNDER_A_LAUNCHER } else { ONE_WISH };
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)?, one_wish, last: None })
    }

    /// Waits for the next signal that is no echo of the one before. Safe to cancel.
    pub async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            if !self.is_echo(Instant::now()) {
                return;
            }
        }
    }

    /// Whether a signal that is seen `now` repeats the one before.
    fn is_echo(&mut self, now: Instant) -> bool {
        let last = self.last.replace(now);
        last.is_some_and(|last| now.saturating_duration_since(last) <= self.one_wish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal as Number, getpid, kill_process};

    #[tokio::test]
    async fn both_signals_are_seen() {
        let mut signals = Signals::listen(false).unwrap();
        for number in [Number::TERM, Number::INT] {
            kill_process(getpid(), number).unwrap();
            signals.next().await;
            signals.last = None;
        }
    }

    #[tokio::test]
    async fn an_echo_is_no_second_signal() {
        let day = Duration::from_secs(86_400);
        for (under_a_launcher, later, expected) in [
            (false, Duration::ZERO, true),
            (false, ONE_WISH, true),
            (false, 2 * ONE_WISH, false),
            (true, ONE_WISH, true),
            (true, day, true),
        ] {
            let mut signals = Signals::listen(under_a_launcher).unwrap();
            let first = Instant::now();
            assert!(!signals.is_echo(first));
            assert_eq!(signals.is_echo(first + later), expected, "{under_a_launcher} {later:?}");
        }
    }
}
