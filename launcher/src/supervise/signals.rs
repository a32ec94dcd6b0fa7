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
            tokio::select! {
                _ = self.interrupt.recv() => (),
                _ = self.terminate.recv() => (),
                _ = self.hang_up.recv() => (),
            }
            let now = Instant::now();
            if self.last.replace(now).is_none_or(|last| now - last > ONE_WISH) {
                return;
            }
        }
    }
}
