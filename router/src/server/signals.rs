//! SIGTERM and SIGINT as one stream. Used by `server::run`.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that follow each other so closely are one wish: systemd and `timeout` signal every process of
/// a group, and the launcher passes its own signal on.
const ONE_WISH: Duration = Duration::from_secs(1);

pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    last: Option<Instant>,
}

impl Signals {
    /// From now on neither signal ends the process by itself.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> std::io::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)?, last: None })
    }

    /// Waits for the next signal that is no echo of the one before. Safe to cancel.
    pub async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            let now = Instant::now();
            if self.last.replace(now).is_none_or(|last| now - last > ONE_WISH) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal as Number, getpid, kill_process};

    #[tokio::test]
    async fn an_echo_is_no_second_signal() {
        let mut signals = Signals::listen().unwrap();
        kill_process(getpid(), Number::TERM).unwrap();
        signals.next().await;
        kill_process(getpid(), Number::TERM).unwrap();
        kill_process(getpid(), Number::INT).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(50), signals.next()).await.is_err());
        signals.last = Instant::now().checked_sub(2 * ONE_WISH);
        kill_process(getpid(), Number::INT).unwrap();
        signals.next().await;
    }
}
