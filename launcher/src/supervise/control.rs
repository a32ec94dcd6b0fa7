//! The line between router and launcher: a socket pair, one end of which is the router's stdin.
//!
//! The router writes what only it can know, one line each: `serving PID` when the shard with this process
//! id gave its first answer, `useless PID REASON` when it cannot be worked with any more and must be
//! replaced. The launcher writes nothing; closing its end says that no shard will come any more.
//! Used by `supervise::run` alone.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::UnixStream;

/// Set for a router that has this line as its stdin.
pub const VARIABLE: &str = "QUERN_CONTROL";

/// What the router says of the shard with this process id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    Serving { pid: u32 },
    Useless { pid: u32, reason: String },
}

/// The launcher's end.
#[derive(Debug)]
pub struct Control {
    /// `None` once it is closed, by either side.
    lines: Option<Lines<BufReader<UnixStream>>>,
}

impl Control {
    /// Makes the pair; the second end is for the router.
    ///
    /// # Errors
    /// When the system has no socket left.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (own, routers) = std::os::unix::net::UnixStream::pair()?;
        own.set_nonblocking(true)?;
        let lines = BufReader::new(UnixStream::from_std(own)?).lines();
        Ok((Self { lines: Some(lines) }, routers.into()))
    }

    /// The router's next report; never comes once the line is closed. Safe to cancel.
    pub async fn next(&mut self) -> Report {
        while let Some(lines) = &mut self.lines {
            match lines.next_line().await {
                Ok(Some(line)) => match parse(&line) {
                    Some(report) => return report,
                    None => tracing::debug!("the router says {line:?}"),
                },
                Ok(None) | Err(_) => self.lines = None,
            }
        }
        std::future::pending().await
    }

    /// Tells the router that no shard will come any more.
    pub fn close(&mut self) {
        self.lines = None;
    }
}

fn parse(line: &str) -> Option<Report> {
    let (kind, rest) = line.split_once(' ')?;
    let (pid, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let pid = pid.parse().ok()?;
    match kind {
        "serving" => Some(Report::Serving { pid }),
        "useless" => Some(Report::Useless { pid, reason: reason.to_owned() }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[tokio::test]
    async fn reports_come_through_and_closing_is_seen() {
        let (mut control, routers) = Control::pair().expect("a pair");
        let mut router = std::os::unix::net::UnixStream::from(routers);
        router.write_all(b"serving 7\nhello\nuseless x y\nuseless 8 no answer for 2 s\n").expect("written");
        assert_eq!(control.next().await, Report::Serving { pid: 7 });
        let reason = "no answer for 2 s".to_owned();
        assert_eq!(control.next().await, Report::Useless { pid: 8, reason });
        control.close();
        assert_eq!(router.read(&mut [0]).expect("the end"), 0);
    }

    #[tokio::test]
    async fn a_router_that_is_gone_reports_nothing() {
        let (mut control, routers) = Control::pair().expect("a pair");
        drop(routers);
        let waited = tokio::time::timeout(std::time::Duration::from_millis(20), control.next()).await;
        assert!(waited.is_err() && control.lines.is_none());
    }
}
