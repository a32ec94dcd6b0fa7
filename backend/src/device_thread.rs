//! The one blocking thread that owns the model. It loads, then executes commands in order; flume
//! channels join it to the async `service`. A device failure or a panic ends the thread, and `main`
//! ends the process with what it left behind: a shard without its device is worth nothing.

mod loading;
mod progress;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::error::{LoadError, StepError};
use crate::executor::{Budget, Done, Executor, Step, StepExecutor, StepOutcome};
use crate::memory_plan::MemoryPlan;
use crate::ops::cpu::{CpuOps, CpuSizes};
use crate::ops::reference::{ReferenceOps, ReferenceSizes};
use crate::startup::Startup;
use loading::load_model;
pub(crate) use loading::open_weights;
pub use loading::{DeviceFacts, Options, ShardInfo};
#[cfg(feature = "cuda")]
pub(crate) use loading::{progress, read_config};
pub use progress::Progress;

/// Steps that may wait in the channel; more make the stream of steps wait.
const MAX_QUEUED: usize = 16;

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DeviceKind {
    Cpu {
        n_threads: usize,
    },
    /// `memory_fraction` of the GPU's memory is the shard's.
    #[cfg(feature = "cuda")]
    Cuda {
        memory_fraction: f64,
    },
    Reference,
}

/// A plan, and the times that it took.
#[derive(Debug, Clone, Copy)]
pub struct PlanReply {
    pub plan: MemoryPlan,
    /// Those of loading, too.
    pub startup: Startup,
}

/// A step's outcome, with the time it took.
pub type StepReply = Result<(StepOutcome, Duration), StepError>;

/// What the device thread is told.
#[derive(Debug)]
pub enum Command {
    Plan {
        budget: Budget,
        reply: flume::Sender<Result<PlanReply, LoadError>>,
    },
    /// A new stream of steps: older streams are refused from now on.
    OpenStream {
        stream: u64,
    },
    Step {
        stream: u64,
        step: Step,
        reply: flume::Sender<StepReply>,
    },
}

/// A running device thread.
pub struct Device {
    pub info: ShardInfo,
    pub progress: Arc<Progress>,
    pub commands: flume::Sender<Command>,
}

/// A device thread that loads.
pub struct DeviceThread {
    thread: JoinHandle<anyhow::Result<()>>,
    ready: flume::Receiver<Device>,
    /// Disconnected when the thread has ended, however it did.
    ended: flume::Receiver<()>,
}

impl DeviceThread {
    pub fn spawn(options: Options) -> std::io::Result<DeviceThread> {
        let (ready_sender, ready) = flume::bounded(1);
        let (alive, ended) = flume::bounded(1);
        let body = move || {
            let _alive: flume::Sender<()> = alive;
            match options.device {
                DeviceKind::Cpu { n_threads } => {
                    let ops = CpuOps::new(n_threads);
                    tracing::info!("Computing on {n_threads} CPU threads with {}", ops.level().name());
                    let (decoder, info) = load_model(ops, &mut CpuSizes::default(), &options)?;
                    run(Executor::new(decoder), info, &ready_sender)
                }
                #[cfg(feature = "cuda")]
                DeviceKind::Cuda { memory_fraction } => {
                    let (executor, info) = crate::cuda::load(&options, memory_fraction)?;
                    run(executor, info, &ready_sender)
                }
                DeviceKind::Reference => {
                    let sizes = &mut ReferenceSizes::default();
                    let (decoder, info) = load_model(ReferenceOps::default(), sizes, &options)?;
                    run(Executor::new(decoder), info, &ready_sender)
                }
            }
        };
        let thread = std::thread::Builder::new().name("device".to_owned()).spawn(body)?;
        Ok(DeviceThread { thread, ready, ended })
    }

    /// The loaded device, or why there is none.
    pub async fn ready(self) -> anyhow::Result<(Device, DeviceThread)> {
        match self.ready.recv_async().await {
            Ok(device) => Ok((device, self)),
            Err(_) => Err(self.failure()),
        }
    }

    /// Waits until the thread has ended, which it never should while its device is in use.
    pub async fn failed(self) -> anyhow::Error {
        while self.ended.recv_async().await.is_ok() {}
        self.failure()
    }

    /// Why the thread ended.
    fn failure(self) -> anyhow::Error {
        match self.thread.join() {
            Ok(Ok(())) => anyhow::anyhow!("the device thread ended"),
            Ok(Err(error)) => error,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                anyhow::anyhow!("the device thread panicked: {text}")
            }
        }
    }
}

/// The thread's body once the model is loaded: announce it, obey until all senders are gone.
fn run(executor: impl StepExecutor, info: ShardInfo, ready: &flume::Sender<Device>) -> anyhow::Result<()> {
    let (commands, inbox) = flume::bounded(MAX_QUEUED);
    let progress = Arc::new(Progress::new(Instant::now()));
    let loaded = info.startup;
    let device = Device { info, progress: Arc::clone(&progress), commands };
    // Nobody waits any more when the process is on its way out.
    if ready.send(device).is_err() {
        return Ok(());
    }
    obey(executor, &inbox, &progress, loaded)
}

/// Executes commands until all senders are gone. Only a failing device ends it early.
fn obey(
    mut executor: impl StepExecutor,
    inbox: &flume::Receiver<Command>,
    progress: &Arc<Progress>,
    loaded: Startup,
) -> anyhow::Result<()> {
    let (failed, failures) = flume::unbounded();
    let mut current_stream = 0;
    // A caller that has gone does not want its reply: failed sends are fine below.
    while let Some(command) = next_command(inbox, &failures)? {
        match command {
            Command::Plan { budget, reply } => {
                let began = Instant::now();
                let planned = executor.plan(&budget);
                let graphs = executor.capture_time();
                let plan = began.elapsed().saturating_sub(graphs);
                let startup = Startup { plan, graphs, ..loaded };
                let _ = reply.send(planned.map(|plan| PlanReply { plan, startup }));
            }
            Command::OpenStream { stream } => {
                current_stream = stream;
                executor.reset();
            }
            Command::Step { stream, step, reply } if stream == current_stream => {
                executor.step(step, done(Arc::clone(progress), reply, failed.clone()));
            }
            Command::Step { step, reply, .. } => {
                let detail = "a newer stream of steps took over".to_owned();
                let _ = reply.send(Err(StepError::BadStep { step_id: step.step_id, detail }));
            }
        }
    }
    Ok(())
}

/// What to do next; `None` when all senders are gone.
///
/// # Errors
/// A step that was set going before found the device broken.
fn next_command(
    inbox: &flume::Receiver<Command>,
    failures: &flume::Receiver<String>,
) -> anyhow::Result<Option<Command>> {
    let failure = |failure: String| Err(anyhow::Error::msg(failure)).context("the device failed");
    if let Ok(broken) = failures.try_recv() {
        return failure(broken);
    }
    let either =
        flume::Selector::new().recv(inbox, |command| Ok(command.ok())).recv(
            failures,
            |broken| match broken {
                Ok(broken) => failure(broken),
                Err(_) => Ok(None),
            },
        );
    either.wait()
}

/// Counts a step as begun, and answers it when it is done.
fn done(progress: Arc<Progress>, reply: flume::Sender<StepReply>, failed: flume::Sender<String>) -> Done {
    let started = Instant::now();
    progress.step_started();
    Box::new(move |result| {
        progress.step_finished(Instant::now());
        let failure = match &result {
            Err(StepError::Device { op, detail }) => Some(format!("{op}: {detail}")),
            _ => None,
        };
        let _ = reply.send(result.map(|outcome| (outcome, started.elapsed())));
        failure.into_iter().for_each(|failure| {
            let _ = failed.send(failure);
        });
    })
}
