//! A client's connection that cannot be held for ever: the head of a request must come in time, and a client that
//! is sent something must take it. Used by `http`; knows bytes and times, nothing of routes.
//!
//! Whoever opens many connections and says little (slow loris) would else keep their files and memory, and
//! whoever stops reading a stream its place.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a request, from the one before or the connection on. `http` passes it to the HTTP library.
    pub idle: Duration,
    /// From the first byte of a request to the end of its head.
    pub head: Duration,
    /// To take something of what is sent to it.
    pub stall: Duration,
}

impl Patience {
    /// `idle` is longer than load balancers keep a connection without a request (AWS 60 s, Google 600 s): if the
    /// server closed it first, a request already on its way would be lost.
    pub const DEFAULT: Self = Self {
        idle: Duration::from_secs(620),
        head: Duration::from_secs(30),
        stall: Duration::from_secs(120),
    };
}

const BETWEEN: u8 = 0;
const IN_HEAD: u8 = 1;
const HANDLING: u8 = 2;

/// Where a connection is: between requests, in a request's head, or past it. Told by both sides of the HTTP library:
/// by the connection what bytes come, by `http` when it has made a request of them.
#[derive(Debug, Clone, Default)]
pub struct Phase(Arc<AtomicU8>);

impl Phase {
    /// A head is complete. What comes until the response is there is the request's body.
    pub fn handling(&self) {
        self.0.store(HANDLING, Relaxed);
    }

    /// The response is there. What comes from now on is another request.
    pub fn handled(&self) {
        self.0.store(BETWEEN, Relaxed);
    }

    /// Bytes came; whether they begin a head.
    fn bytes_came(&self) -> bool {
        self.0.compare_exchange(BETWEEN, IN_HEAD, Relaxed, Relaxed).is_ok()
    }

    fn is_in_head(&self) -> bool {
        self.0.load(Relaxed) == IN_HEAD
    }
}

/// A socket with these limits: beyond them reading or writing fails, which ends the connection.
pub struct Connection<T> {
    io: T,
    phase: Phase,
    head: Limit,
    stall: Limit,
}

impl<T> Connection<T> {
    pub fn new(io: T, phase: Phase, patience: Patience) -> Self {
        Self { io, phase, head: Limit::new(patience.head), stall: Limit::new(patience.stall) }
    }

    /// What came of sending something; waiting has an end.
    fn sent<R>(&mut self, context: &mut Context<'_>, sent: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        match sent {
            Poll::Pending => {
                ready!(self.stall.over(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            done => {
                self.stall.clear();
                done
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Connection<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n_before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        if buffer.filled().len() > n_before && self.phase.bytes_came() {
            self.head.clear();
        }
        if read.is_pending() && self.phase.is_in_head() {
            ready!(self.head.over(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Connection<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.io).poll_write(context, bytes);
        self.sent(context, sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.io).poll_write_vectored(context, parts);
        self.sent(context, sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.io).poll_flush(context);
        self.sent(context, sent)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.io).poll_shutdown(context);
        self.sent(context, sent)
    }
}

/// A time that begins when somebody first waits in vain. Nothing is allocated for those who never do.
struct Limit {
    time: Duration,
    running: Option<Pin<Box<Sleep>>>,
}

impl Limit {
    fn new(time: Duration) -> Self {
        Self { time, running: None }
    }

    fn clear(&mut self) {
        self.running = None;
    }

    fn over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let time = self.time;
        self.running.get_or_insert_with(|| Box::pin(sleep(time))).as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(40);
    /// Far longer than a test; only a failing one waits for it.
    const LONG: Duration = Duration::from_secs(600);

    /// A client, and its connection with room for so many bytes on the way.
    fn pair(room: usize, head: Duration, stall: Duration) -> (DuplexStream, Connection<DuplexStream>, Phase) {
        let phase = Phase::default();
        let (client, io) = duplex(room);
        let patience = Patience { idle: LONG, head, stall };
        (client, Connection::new(io, phase.clone(), patience), phase)
    }

    async fn read(connection: &mut Connection<DuplexStream>) -> io::Result<usize> {
        connection.read(&mut [0; 16]).await
    }

    #[tokio::test]
    async fn a_head_has_its_time_from_its_first_byte() {
        let (mut client, mut connection, phase) = pair(16, SHORT, LONG);
        for _ in 0..2 {
            assert!(
                timeout(2 * SHORT, read(&mut connection)).await.is_err(),
                "idle time is not limited here"
            );
            client.write_all(b"GET /").await.unwrap();
            assert_eq!(read(&mut connection).await.unwrap(), 5);
            phase.handling();
            assert!(timeout(2 * SHORT, read(&mut connection)).await.is_err(), "nor is a body's");
            phase.handled();
        }
        let begun = Instant::now();
        // A byte now and then does not make it longer.
        let drip = tokio::spawn(async move {
            while client.write_all(b"G").await.is_ok() {
                tokio::time::sleep(SHORT / 8).await;
            }
        });
        let error = loop {
            match read(&mut connection).await {
                Ok(n) => assert!(n > 0),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= SHORT);
        drip.abort();
    }

    #[tokio::test]
    async fn a_client_must_take_what_it_is_sent() {
        let (_client, mut connection, _) = pair(4, LONG, SHORT);
        let begun = Instant::now();
        let error = connection.write_all(b"12345").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= SHORT);
    }

    #[tokio::test]
    async fn a_slow_client_is_waited_for() {
        let (mut client, mut connection, _) = pair(4, LONG, LONG);
        let take = async {
            tokio::time::sleep(SHORT).await;
            client.read_exact(&mut [0; 8]).await
        };
        let (sent, taken) = tokio::join!(connection.write_all(b"12345678"), take);
        assert!(sent.is_ok() && taken.is_ok());
        assert!(connection.stall.running.is_none(), "the next wait has all of its time");
    }
}
