//! The life of the process: bind, load, serve, drain. Called by `main`; tests drive the parts.
//!
//! The port is bound at once and answers 503 until the shard is planned. A signal drains, a second one
//! ends at once; a lost shard ends the process with an error after its requests have been told.

mod compute_type;
pub mod logging;
pub mod parent;
mod signals;
mod startup;
pub mod telemetry;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::bail;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api;
use crate::api::state::App;
use crate::args::Args;
use crate::driver::EngineHandle;
use signals::Signals;
use startup::Started;

/// How long answers that tell of a lost shard may take to reach their clients.
const FAREWELL: Duration = Duration::from_secs(2);

/// Runs the server to its end.
///
/// # Errors
/// When arguments contradict each other, the port is taken, the model cannot be served or the shard is lost.
pub async fn run(args: Args) -> anyhow::Result<()> {
    args.check()?;
    let mut signals = Signals::listen()?;
    let listener = bind(&args.hostname, args.port).await?;
    let app = App::loading(startup::edge_settings(&args)?);
    let mut http = Http::start(listener, app.clone());
    let started = tokio::select! {
        started = startup::start(&args, &app) => started?,
        () = signals.next() => return Ok(()),
        error = http.failed() => return Err(error),
    };
    tracing::info!("Connected");
    let Started { engine, driver } = started;
    tokio::pin!(driver);
    tokio::select! {
        () = signals.next() => {}
        error = http.failed() => return Err(error),
        ended = &mut driver => {
            http.stop(FAREWELL).await;
            ended?;
            bail!("the engine stopped unasked");
        }
    }
    tracing::info!("signal received, starting graceful shutdown");
    let grace = Duration::from_secs(args.graceful_termination_timeout);
    tokio::select! {
        () = drain(&mut http, &engine) => {}
        () = signals.next() => tracing::warn!("second signal received, stopping at once"),
        () = tokio::time::sleep(grace) => tracing::warn!("requests still run after {grace:?}, stopping"),
        Err(lost) = &mut driver => {
            http.stop(FAREWELL).await;
            return Err(lost.into());
        }
    }
    Ok(())
}

/// Stops accepting and lets every open request finish. The engine comes last: a request that is still
/// being read or tokenized at the signal has not reached it yet.
async fn drain(http: &mut Http, engine: &EngineHandle) {
    http.stop(Duration::MAX).await;
    engine.drain().await;
}

/// Binds the port; a host name that is no address becomes 0.0.0.0, as in TGI.
async fn bind(hostname: &str, port: u16) -> anyhow::Result<TcpListener> {
    let ip = hostname.parse::<IpAddr>().unwrap_or_else(|_| {
        tracing::warn!("Invalid hostname, defaulting to 0.0.0.0");
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    });
    let address = SocketAddr::new(ip, port);
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow::anyhow!("address in use: another process listens on {address}")
        }
        _ => anyhow::anyhow!("cannot listen on {address}: {error}"),
    })
}

/// The HTTP server task.
struct Http {
    stop: watch::Sender<bool>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Http {
    fn start(listener: TcpListener, app: App) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        // Without TCP_NODELAY a stream's first event would wait for the client's delayed ACK.
        let listener = listener.tap_io(|socket| {
            if let Err(error) = socket.set_nodelay(true) {
                tracing::debug!("TCP_NODELAY: {error}");
            }
        });
        let serve = axum::serve(listener, api::router(app)).with_graceful_shutdown(async move {
            let _ = stopped.wait_for(|stop| *stop).await; // an error means that the server is going away
        });
        Self { stop, task: tokio::spawn(serve.into_future()) }
    }

    /// Waits for the server to end by itself, which it should not.
    async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Ok(())) => anyhow::anyhow!("the HTTP server stopped unasked"),
            Ok(Err(error)) => anyhow::Error::new(error).context("the HTTP server failed"),
            Err(error) => anyhow::Error::new(error).context("the HTTP server panicked"),
        }
    }

    /// Stops accepting, then waits for the open requests, at most `grace`.
    async fn stop(&mut self, grace: Duration) {
        let _ = self.stop.send(true); // fails when the server has ended
        if !self.task.is_finished() {
            let _ = tokio::time::timeout(grace, &mut self.task).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = bind("127.0.0.1", 0).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = bind("127.0.0.1", port).await.unwrap_err().to_string();
        assert_eq!(error, format!("address in use: another process listens on 127.0.0.1:{port}"));
    }

    #[tokio::test]
    async fn a_name_that_is_no_address_means_all_interfaces() {
        let listener = bind("localhost", 0).await.unwrap();
        assert_eq!(listener.local_addr().unwrap().ip(), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    }
}
