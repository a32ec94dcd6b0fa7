//! The life of the process: bind, load, serve, drain. Called by `main`; tests drive the parts.
//!
//! The port is bound at once and answers 503 until the shard is planned. A signal drains: health and new
//! requests get 503, running ones finish, and what still runs when the grace time ends gets a last event. A
//! second signal ends at once. When no shard is left the process ends with an error after its requests have
//! been told. Under a launcher every further signal is that launcher's own, passed on, and it kills on a second one.

mod compute_type;
mod connection;
mod http;
pub mod logging;
pub mod parent;
mod signals;
mod startup;
pub mod telemetry;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::bail;
use tokio::net::TcpListener;

use crate::api;
use crate::api::state::App;
use crate::args::Args;
use crate::driver::EngineHandle;
use http::Http;
use signals::Signals;
use startup::Started;

/// How long the last events of requests that cannot finish may take to reach their clients.
const FAREWELL: Duration = Duration::from_secs(2);

/// Runs the server to its end.
///
/// # Errors
/// When arguments contradict each other, the port is taken, the model cannot be served or the shard is lost.
pub async fn run(args: Args) -> anyhow::Result<()> {
    args.check()?;
    let mut signals = Signals::listen(parent::has_launcher())?;
    let listener = bind(&args.hostname, args.aip_http_port.unwrap_or(args.port)).await?;
    let app = App::loading(startup::edge_settings(&args)?);
    let mut http = Http::start(listener, api::router(app.clone()));
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
        () = drain(&mut http, &app, &engine) => {}
        () = signals.next() => tracing::warn!("second signal received, stopping at once"),
        () = tokio::time::sleep(grace) => {
            tracing::warn!("requests still run after {grace:?}, ending them");
            engine.abort();
            http.stop(FAREWELL).await;
        }
        Err(lost) = &mut driver => {
            http.stop(FAREWELL).await;
            return Err(lost.into());
        }
    }
    Ok(())
}

/// Refuses new requests, which find a server that says so, and lets every open one finish. The engine comes
/// late: a request that was being sent or tokenized at the signal has not reached it yet.
async fn drain(http: &mut Http, app: &App, engine: &EngineHandle) {
    app.admission().close();
    app.admission().emptied().await;
    engine.drain().await;
    http.stop(FAREWELL).await;
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
