//! The one blocking thread that owns the model. It loads, then executes commands in order; flume
//! channels join it to the async `service`. A device failure or a panic ends the thread, and `main`
//! ends the process with what it left behind: a shard without its device is worth nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::config::{ModelConfig, Quantization};
use crate::error::{LoadError, StepError};
use crate::executor::{Budget, Executor, Step, StepOutcome};
use crate::memory_plan::{self, MemoryPlan};
use crate::model::decoder::Decoder;
use crate::model::load;
use crate::ops::Ops;
use crate::ops::cpu::CpuOps;
use crate::ops::reference::ReferenceOps;
use crate::weights::Checkpoint;

/// Steps that may wait in the channel; more make the stream of steps wait.
const MAX_QUEUED: usize = 16;
/// Loading says how far it is at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// What to load, and onto what.
#[derive(Debug, Clone)]
pub struct Options {
    pub model_path: PathBuf,
    pub quantize: Option<String>,
    pub device: DeviceKind,
}

/// An implementation of `Ops`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    Cpu { n_threads: usize },
    Reference,
}

/// What the loaded model is.
#[derive(Debug, Clone)]
pub struct ShardInfo {
    pub config: ModelConfig,
    pub kv_bytes_per_token: usize,
    pub weight_bytes: usize,
}

/// What the device thread has done, readable while it works.
#[derive(Debug)]
pub struct Progress {
    since: Instant,
    n_steps: AtomicU64,
    /// When the last step finished, in milliseconds after `since`.
    last_step_ms: AtomicU64,
    busy: AtomicBool,
}

impl Progress {
    fn new(since: Instant) -> Progress {
        Progress { since, n_steps: 0.into(), last_step_ms: 0.into(), busy: false.into() }
    }

    pub fn n_steps(&self) -> u64 {
        self.n_steps.load(Ordering::Acquire)
    }

    /// 0 before the first step.
    pub fn last_step_age_ms(&self, now: Instant) -> u64 {
        match self.n_steps() {
            0 => 0,
            _ => self.millis(now).saturating_sub(self.last_step_ms.load(Ordering::Acquire)),
        }
    }

    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    fn millis(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_millis() as u64
    }

    fn step_finished(&self, now: Instant) {
        self.last_step_ms.store(self.millis(now), Ordering::Release);
        self.n_steps.fetch_add(1, Ordering::AcqRel);
    }
}

/// A step's outcome, with the time it took.
pub type StepReply = Result<(StepOutcome, Duration), StepError>;

/// What the device thread is told.
#[derive(Debug)]
pub enum Command {
    Plan {
        budget: Budget,
        reply: flume::Sender<Result<MemoryPlan, LoadError>>,
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
                    tracing::info!("Computing on {n_threads} CPU threads with {:?}", ops.level());
                    run(ops, &options, &ready_sender)
                }
                DeviceKind::Reference => run(ReferenceOps::default(), &options, &ready_sender),
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

/// The thread's body: load, announce, obey until all senders are gone.
fn run<O: Ops>(ops: O, options: &Options, ready: &flume::Sender<Device>) -> anyhow::Result<()> {
    let (decoder, info) = load_model(ops, options)?;
    let (commands, inbox) = flume::bounded(MAX_QUEUED);
    let progress = Arc::new(Progress::new(Instant::now()));
    let device = Device { info, progress: Arc::clone(&progress), commands };
    // Nobody waits any more when the process is on its way out.
    if ready.send(device).is_err() {
        return Ok(());
    }
    obey(Executor::new(decoder), &inbox, &progress)
}

fn load_model<O: Ops>(mut ops: O, options: &Options) -> anyhow::Result<(Decoder<O>, ShardInfo)> {
    let started = Instant::now();
    let config = ModelConfig::from_dir(&options.model_path, options.quantize.as_deref())?;
    let quantization = match &config.quantization {
        Quantization::None => "plain weights".to_owned(),
        Quantization::Awq { group_size, .. } => format!("AWQ, groups of {group_size}"),
    };
    tracing::info!(
        "Loading {}: {}, {} layers, {quantization}",
        options.model_path.display(),
        config.architecture,
        config.n_layers
    );
    let checkpoint = Checkpoint::open(&options.model_path)?;
    let weight_bytes = checkpoint.total_bytes();
    memory_plan::check_weights_fit(weight_bytes, memory_plan::available_bytes())?;
    let mut told = started;
    let mut progress = |done: usize, all: usize| {
        if told.elapsed() >= PROGRESS_INTERVAL {
            told = Instant::now();
            tracing::info!("Loading weights: {} %", done * 100 / all.max(1));
        }
    };
    let weights = load::load(&mut ops, &config, &checkpoint, &mut progress)?;
    tracing::info!("Loaded {} MB of weights in {:.2?}", weight_bytes / 1_000_000, started.elapsed());
    let kv_bytes_per_token = memory_plan::kv_bytes_per_token(&config, O::KV_ELEMENT_BYTES);
    let info = ShardInfo { config: config.clone(), kv_bytes_per_token, weight_bytes };
    Ok((Decoder::new(ops, config, weights), info))
}

/// Executes commands until all senders are gone. Only a failing device ends it early.
fn obey<O: Ops>(
    mut executor: Executor<O>,
    inbox: &flume::Receiver<Command>,
    progress: &Progress,
) -> anyhow::Result<()> {
    let mut current_stream = 0;
    // A caller that has gone does not want its reply: failed sends are fine below.
    for command in inbox {
        match command {
            Command::Plan { budget, reply } => {
                let _ = reply.send(executor.plan(&budget, memory_plan::available_bytes));
            }
            Command::OpenStream { stream } => {
                current_stream = stream;
                executor.reset();
            }
            Command::Step { stream, step, reply } if stream == current_stream => {
                let result = timed_step(&mut executor, step, progress);
                if let Err(StepError::Device { op, detail }) = &result {
                    let failure = format!("{op}: {detail}");
                    let _ = reply.send(result);
                    return Err(anyhow::Error::msg(failure)).context("the device failed");
                }
                let _ = reply.send(result);
            }
            Command::Step { step, reply, .. } => {
                let detail = "a newer stream of steps took over".to_owned();
                let _ = reply.send(Err(StepError::BadStep { step_id: step.step_id, detail }));
            }
        }
    }
    Ok(())
}

fn timed_step<O: Ops>(executor: &mut Executor<O>, step: Step, progress: &Progress) -> StepReply {
    let started = Instant::now();
    progress.busy.store(true, Ordering::Release);
    let result = executor.step(step);
    progress.busy.store(false, Ordering::Release);
    progress.step_finished(Instant::now());
    result.map(|outcome| (outcome, started.elapsed()))
}
