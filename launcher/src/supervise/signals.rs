//! The signals that end a launch, as one stream. Made by `launch`, read by it and by `supervise::run`.

use std::time::Duration;

use tokio::signal::unix::{self, SignalKind};
use tokio::time::Instant;

/// Signals that follow each other so closely are one wish: `timeout` signals its child and then its group.
const ONE_WISH: Duration = Duration::from_millis(100);

/// The signals that end a launch.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hang_up: unix::Signal,
    last: Option<Instant>,
}

impl StopSignals {
    /// Listens from now on; until then the signals kill the launcher.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            hang_up: unix::signal(SignalKind::hangup())?,
            last: None,
        })
    }

    /// Waits for one of SIGINT, SIGTERM, SIGHUP that is no echo of the one before. Safe to cancel.
    pub async fn next(&mut self) {
        loop {
            self.any().await;
            // Signals that are all there are one wish, too, however late this process sees them.
            while self.has_another().await {}
            let now = Instant::now();
            if !is_echo(self.last.replace(now), now) {
                return;
            }
        }
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => (),
            _ = self.terminate.recv() => (),
            _ = self.hang_up.recv() => (),
        }
    }

    /// Takes a signal that has come already; never waits.
    async fn has_another(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.any() => true,
            () = std::future::ready(()) => false,
        }
    }
}

/// Whether a signal that is seen `now` repeats the one before.
fn is_echo(last: Option<Instant>, now: Instant) -> bool {
    last.is_some_and(|last| now.saturating_duration_since(last) <= ONE_WISH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_closely_is_an_echo() {
        let last = Instant::now();
        let cases = [(Duration::ZERO, true), (ONE_WISH, true), (2 * ONE_WISH, false)];
        for (later, expected) in cases {
            assert_eq!(is_echo(Some(last), last + later), expected, "{later:?}");
        }
        assert!(!is_echo(None, last));
    }
}
