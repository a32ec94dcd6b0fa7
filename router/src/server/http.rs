//! The HTTP server: a task that accepts connections, a task for each, and how all of them end. Used by `server::run`.
//!
//! HTTP/1.1 alone. What a client may take its time for is bounded by `Patience`; a request's body by `api::extract`.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tower::Service;

use super::connection::{Connection, Patience, Phase};

/// A server that runs.
pub struct Http {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Http {
    pub fn start(listener: TcpListener, routes: Router) -> Self {
        Self::start_with(listener, routes, Patience::DEFAULT)
    }

    fn start_with(listener: TcpListener, routes: Router, patience: Patience) -> Self {
        let (stop, stopped) = watch::channel(false);
        // Once for all connections: handlers are then put together now, not for each request.
        let routes = routes.with_state(());
        Self {
            stop,
            task: tokio::spawn(
                Server { routes, patience, open: GracefulShutdown::new() }.run(listener, stopped),
            ),
        }
    }

    /// Waits for the server to end by itself, which it should not.
    pub async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(()) => anyhow::anyhow!("the HTTP server stopped unasked"),
            Err(error) => anyhow::Error::new(error).context("the HTTP server panicked"),
        }
    }

    /// Stops accepting, then waits until the open requests' answers are sent, at most `grace`.
    pub async fn stop(&mut self, grace: Duration) {
        let _ = self.stop.send(true); // fails when the server has ended
        if !self.task.is_finished() {
            let _ = tokio::time::timeout(grace, &mut self.task).await; // whoever is not done by then is cut off
        }
    }
}

/// What every connection needs.
struct Server {
    routes: Router,
    patience: Patience,
    /// The connections that are open.
    open: GracefulShutdown,
}

impl Server {
    /// Accepts until told to stop, then waits for the answers that are on their way.
    async fn run(self, mut listener: TcpListener, mut stopped: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                (socket, _) = Listener::accept(&mut listener) => {
                    tokio::spawn(self.converse(socket));
                }
                _ = stopped.wait_for(|stop| *stop) => break, // an error means that the server is going away
            }
        }
        drop(listener);
        self.open.shutdown().await;
    }

    /// Answers the requests of one connection, one after the other.
    fn converse(&self, socket: TcpStream) -> impl Future<Output = ()> + use<> {
        // Without TCP_NODELAY a stream's first event would wait for the client's delayed ACK.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!("TCP_NODELAY: {error}");
        }
        let (phase, routes) = (Phase::default(), self.routes.clone());
        let io = TokioIo::new(Connection::new(socket, phase.clone(), self.patience));
        let answer = service_fn(move |request| answer(routes.clone(), request, phase.clone()));
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(self.patience.idle);
        let connection = self.open.watch(http.serve_connection(io, answer));
        async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection ended: {error}");
            }
        }
    }
}

async fn answer(
    mut routes: Router,
    request: Request<Incoming>,
    phase: Phase,
) -> Result<Response, Infallible> {
    phase.handling();
    let response = routes.call(request.map(Body::new)).await;
    phase.handled();
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Barrier;

    use super::*;

    const SHORT: Duration = Duration::from_millis(60);
    /// Far longer than a test; only a failing one waits for it.
    const LONG: Duration = Duration::from_secs(600);

    /// A server, a connection to it, and the gate that requests to /slow wait at.
    async fn start(patience: Patience) -> (Http, TcpStream, Arc<Barrier>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new(Barrier::new(2));
        let slow = {
            let gate = gate.clone();
            async move |body: String| {
                gate.wait().await;
                gate.wait().await;
                body
            }
        };
        let routes = Router::new().route("/", get(async || "here")).route("/slow", post(slow));
        (Http::start_with(listener, routes, patience), TcpStream::connect(address).await.unwrap(), gate)
    }

    const SLOW: &[u8] = b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nslow";

    /// What comes until a response ends with `end`.
    async fn response(client: &mut TcpStream, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            let mut bytes = [0; 512];
            let n = client.read(&mut bytes).await.unwrap();
            assert!(n > 0, "the end after {text:?}");
            text += std::str::from_utf8(&bytes[..n]).unwrap();
        }
        text
    }

    #[tokio::test]
    async fn a_stop_lets_open_requests_end_and_closes_idle_connections() {
        let (mut http, mut client, gate) = start(Patience::DEFAULT).await;
        let address = client.peer_addr().unwrap();
        let mut idle = TcpStream::connect(address).await.unwrap();
        for client in [&mut client, &mut idle] {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            assert!(response(client, "here").await.starts_with("HTTP/1.1 200 OK"));
        }
        client.write_all(SLOW).await.unwrap();
        gate.wait().await; // it is being handled
        let answer = async {
            assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
            gate.wait().await;
            response(&mut client, "slow").await
        };
        let (_, text) = tokio::join!(http.stop(LONG), answer);
        assert!(text.contains("connection: close"), "{text}");
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_connection_without_a_request_ends() {
        for (sent, idle, head) in [(&b""[..], SHORT, LONG), (b"GET / HTTP/1.1\r\nHo", LONG, SHORT)] {
            let begun = Instant::now();
            let (_http, mut client, _) = start(Patience { idle, head, stall: LONG }).await;
            client.write_all(sent).await.unwrap();
            assert!(matches!(client.read(&mut [0; 1]).await, Ok(0) | Err(_)));
            assert!(begun.elapsed() >= SHORT, "{sent:?}: {:?}", begun.elapsed());
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_no_longer_used_ends() {
        // The shortest may be over before a busy machine has sent the request.
        for factor in [1, 10, 100] {
            let idle = factor * SHORT;
            let (_http, mut client, _) = start(Patience { idle, head: LONG, stall: LONG }).await;
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut text = String::new();
            let end = client.read_to_string(&mut text).await;
            if text.ends_with("here") {
                return assert_eq!(end.unwrap(), text.len());
            }
        }
        panic!("no answer");
    }

    #[tokio::test]
    async fn a_body_and_an_answer_may_take_longer_than_a_head() {
        let (_http, mut client, gate) = start(Patience { idle: LONG, head: SHORT, stall: SHORT }).await;
        let (head, body) = SLOW.split_at(SLOW.len() - 4);
        client.write_all(head).await.unwrap();
        tokio::time::sleep(2 * SHORT).await;
        client.write_all(body).await.unwrap();
        gate.wait().await;
        tokio::time::sleep(2 * SHORT).await;
        gate.wait().await;
        response(&mut client, "slow").await;
    }
}
