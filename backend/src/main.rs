//! `text-generation-shard`: loads a model, binds its socket, serves steps until told to stop.
//!
//! The socket exists from when the model is loaded until the process ends in an orderly way. A
//! fatal error is one last line on stderr and exit code 1; SIGTERM and SIGINT give exit code 0.
//! `text-generation-shard plan` only says what a model takes in memory.
#![deny(unsafe_code)]

use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;
use text_generation_backend::args::Args;
use text_generation_backend::device_thread::{Device, DeviceThread};
use text_generation_backend::plan::{self, PlanArgs};
use text_generation_backend::{parent, service};
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let plans = std::env::args_os().nth(1).is_some_and(|first| first == "plan");
    let done =
        if plans { plan(&PlanArgs::parse_from(std::env::args_os().skip(1))) } else { start(&Args::parse()) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what the model takes; fails after that if it does not fit.
fn plan(args: &PlanArgs) -> anyhow::Result<()> {
    let report = plan::run(args)?;
    match args.json {
        true => println!("{:#}", report.json()),
        false => println!("{report}"),
    }
    report.planned.map(drop).map_err(anyhow::Error::msg)
}

fn start(args: &Args) -> anyhow::Result<()> {
    parent::die_with_parent()?;
    start_logs(args.json_output)?;
    // One thread is enough for the socket: the work is the device thread's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stop = Stop::listen()?;
        tokio::select! {
            loaded = load(args) => serve(loaded?, &mut stop).await,
            () = stop.next() => Ok(()),
        }
    })
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn start_logs(json: bool) -> anyhow::Result<()> {
    // As in the launcher: an expression that cannot be read is no reason not to start.
    let level = std::env::var("LOG_LEVEL").ok().filter(|level| !level.trim().is_empty());
    let filter = level.and_then(|level| EnvFilter::try_new(level).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    match json {
        true => logs.json().flatten_event(true).init(),
        false => logs.init(),
    }
    Ok(())
}

/// A loaded model behind its socket.
struct Loaded {
    device: Device,
    thread: DeviceThread,
    listener: UnixListener,
    /// Dropping it removes the file.
    _socket: Socket,
}

async fn load(args: &Args) -> anyhow::Result<Loaded> {
    let started = Instant::now();
    let options = args.options()?;
    free(&args.uds_path)?;
    let thread = DeviceThread::spawn(options).context("cannot start the device thread")?;
    let (device, thread) = thread.ready().await?;
    let (listener, _socket) = bind(&args.uds_path)?;
    tracing::info!("Shard ready on {} in {:.2?}", args.uds_path.display(), started.elapsed());
    Ok(Loaded { device, thread, listener, _socket })
}

/// Serves until the device or the server fails. The first signal ends it once the router has left, which
/// still drains when both are signalled together; a second one at once.
async fn serve(loaded: Loaded, stop: &mut Stop) -> anyhow::Result<()> {
    let Loaded { device, thread, listener, _socket } = loaded;
    let (leave, told) = oneshot::channel::<()>();
    let served = service::serve(listener, device, async {
        let _ = told.await; // ends when `leave` is dropped
    });
    let failed = thread.failed();
    tokio::pin!(served, failed);
    tokio::select! {
        result = &mut served => return Ok(result?),
        error = &mut failed => return Err(error),
        () = stop.next() => drop(leave),
    }
    tokio::select! {
        result = served => Ok(result?),
        error = failed => Err(error),
        () = stop.next() => Ok(()),
    }
}

/// The socket's file, removed in the end.
struct Socket {
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("Cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Removes a socket that a dead process left at `path`: it would look like a shard that is ready.
fn free(path: &Path) -> anyhow::Result<()> {
    let name = path.display();
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            bail!("{name}: expected a free path for the shard's socket, found another file");
        }
        if UnixStream::connect(path).is_ok() {
            bail!("{name}: another shard serves on this socket");
        }
        std::fs::remove_file(path).with_context(|| format!("{name}: cannot remove the old socket"))?;
    }
    Ok(())
}

fn bind(path: &Path) -> anyhow::Result<(UnixListener, Socket)> {
    let name = path.display();
    let listener = UnixListener::bind(path).with_context(|| format!("{name}: cannot bind the socket"))?;
    Ok((listener, Socket { path: path.to_path_buf() }))
}
