//! The line to the launcher: a socket that this process has as its stdin when `QUERN_CONTROL` is set.
//!
//! Used by `shard::grpc`. The router writes what only it can know: which shard answers, and which one is
//! useless and must be replaced. The launcher writes nothing; it closes its end when no shard will come
//! any more. Must never wait: the step loop writes here.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use tokio::net::UnixStream;

/// Set by the launcher when stdin is the line to it.
const VARIABLE: &str = "QUERN_CONTROL";
/// Longer reasons are cut: a line must fit into the socket's buffer at once.
const MAX_REASON_CHARS: usize = 500;

#[derive(Debug)]
pub struct Supervisor {
    /// Never blocks either, but needs no runtime to know that there is room.
    says: std::os::unix::net::UnixStream,
    hears: UnixStream,
}

impl Supervisor {
    /// The line to the launcher; `None` for a router that was started by hand, whose shard nobody replaces.
    ///
    /// # Errors
    /// When stdin is no socket although the variable says so.
    pub fn from_environment() -> io::Result<Option<Self>> {
        if std::env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        Self::new(io::stdin().as_fd().try_clone_to_owned()?).map(Some)
    }

    fn new(line: OwnedFd) -> io::Result<Self> {
        let line = std::os::unix::net::UnixStream::from(line);
        line.set_nonblocking(true)?;
        Ok(Self { says: line.try_clone()?, hears: UnixStream::from_std(line)? })
    }

    /// The shard with this process id has answered.
    pub fn serving(&self, pid: u32) {
        self.write(&format!("serving {pid}\n"));
    }

    /// The shard with this process id must be replaced, if it has not ended by itself.
    pub fn useless(&self, pid: u32, reason: &str) {
        let reason: String = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        let reason: String = reason.chars().take(MAX_REASON_CHARS).collect();
        self.write(&format!("useless {pid} {reason}\n"));
    }

    fn write(&self, line: &str) {
        match (&self.says).write(line.as_bytes()) {
            Ok(n) if n == line.len() => {}
            // Its end is noticed by `gave_up`, and ours follows it.
            result => tracing::debug!("the launcher does not listen: {result:?}"),
        }
    }

    /// Waits until the launcher says that no shard will come any more.
    pub async fn gave_up(&self) {
        let mut ignored = [0; 64];
        loop {
            match self.hears.readable().await.and_then(|()| self.hears.try_read(&mut ignored)) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::Duration;

    #[tokio::test]
    async fn reports_are_lines_and_the_end_is_noticed() {
        let (mut launcher, own) = std::os::unix::net::UnixStream::pair().unwrap();
        let supervisor = Supervisor::new(own.into()).unwrap();
        supervisor.serving(7);
        supervisor.useless(8, &format!("no\nanswer {}", "x".repeat(9999)));
        let mut said = vec![0; 4096];
        let n = launcher.read(&mut said).unwrap();
        let said = String::from_utf8(said[..n].to_vec()).unwrap();
        assert!(said.starts_with("serving 7\nuseless 8 no answer xx") && said.ends_with("x\n"), "{said}");
        assert_eq!(said.lines().count(), 2);
        assert!(tokio::time::timeout(Duration::from_millis(10), supervisor.gave_up()).await.is_err());
        drop(launcher);
        supervisor.gave_up().await;
        supervisor.serving(9); // nobody listens: not an error
    }
}
