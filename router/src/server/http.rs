//! The HTTP server: a task that accepts, and how it is stopped. Used by `server::run`.

use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub struct Http {
    stop: watch::Sender<bool>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Http {
    pub fn start(listener: TcpListener, routes: Router) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        // Without TCP_NODELAY a stream's first event would wait for the client's delayed ACK.
        let listener = listener.tap_io(|socket| {
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!("TCP_NODELAY: {error}");
            }
        });
        let serve = axum::serve(listener, routes).with_graceful_shutdown(async move {
            let _ = stopped.wait_for(|stop| *stop).await; // an error means that the server is going away
        });
        Self { stop, task: tokio::spawn(serve.into_future()) }
    }

    /// Waits for the server to end by itself, which it should not.
    pub async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Ok(())) => anyhow::anyhow!("the HTTP server stopped unasked"),
            Ok(Err(error)) => anyhow::Error::new(error).context("the HTTP server failed"),
            Err(error) => anyhow::Error::new(error).context("the HTTP server panicked"),
        }
    }

    /// Stops accepting, then waits until the open requests' answers are sent, at most `grace`.
    pub async fn stop(&mut self, grace: Duration) {
        let _ = self.stop.send(true); // fails when the server has ended
        if !self.task.is_finished() {
            let _ = tokio::time::timeout(grace, &mut self.task).await;
        }
    }
}
