//! The one task that owns the engine: a loop over a closed `enum Event`.
//!
//! HTTP handlers hold an `EngineHandle`; dropping a `Generation` cancels its request. Text never
//! gets here. This folder holds time and channels, `engine` holds every decision.
//!
//! `server` starts it once the first shard is planned:
//! ```text
//! let (source, shard) = connector.plan(connection, wanted).await?;
//! let (engine, stopped) = driver::start(source, shard, settings, metrics)?;
//! ```
//! and awaits `stopped` beside everything else: when it yields an error the process must exit with 1.

mod canary;
mod event_loop;
mod masks;
mod recovery;
mod shared;
mod step_metrics;
#[cfg(test)]
mod tests;
mod watchdog;

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinError;

use crate::engine::{Engine, EngineConfig, EngineConfigError, SeqId};
use crate::metrics::Metrics;
use crate::request::{EngineStatus, FinishReason, GenerationError, GenerationEvent, ValidRequest};
use crate::shard::{PlannedShard, ShardSource};
use canary::Canary;
use event_loop::{Command, Driver, Parts};
use shared::Shared;
use step_metrics::StepMetrics;
use watchdog::{Patience, Watchdog};

/// How a failing shard is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// What a step may take; zero = for ever, `None` = fit for the device.
    pub step_timeout: Option<Duration>,
    /// Time without work before a token is computed for nobody; zero = never.
    pub canary_interval: Duration,
}

/// Why the driver stopped without being asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    #[error("Shard lost: {0}")]
    ShardLost(String),
    #[error("the driver panicked: {0}")]
    Panicked(String),
}

/// Submits requests to the driver. Cloned into every handler.
#[derive(Clone)]
pub struct EngineHandle {
    events: flume::Sender<Command>,
    shared: Arc<Shared>,
}

/// One submitted request. Dropping it cancels the request and frees its blocks.
pub struct Generation {
    seq_id: SeqId,
    received: mpsc::UnboundedReceiver<GenerationEvent>,
    events: flume::Sender<Command>,
    /// The last event was handed out.
    ended: bool,
}

/// Starts the driver on the source's runtime. The returned future ends with `Ok` after a drain or an abort
/// (or when every handle is gone) and with the reason when no shard is left or the driver panics; by then
/// every request has got its last event.
///
/// # Errors
/// When the limits and the shard's plan leave some admissible request without room.
pub fn start<S: ShardSource>(
    source: S,
    shard: PlannedShard<S::Link>,
    settings: Settings,
    metrics: Arc<Metrics>,
) -> Result<(EngineHandle, impl Future<Output = Result<(), DriverError>> + Send + use<S>), EngineConfigError>
{
    let watchdog = Watchdog::new(Patience::new(settings.step_timeout, &shard.info.device_type));
    let canary = Canary::new(settings.canary_interval);
    let ticks = ticks(watchdog.period());
    start_watching(source, shard, Watching { watchdog, canary, ticks }, metrics)
}

/// A tick each `period`, never two at once: time in which this process did not run is not counted.
fn ticks(period: Duration) -> BoxStream<'static, ()> {
    stream::unfold((), move |()| async move { Some((tokio::time::sleep(period).await, ())) }).boxed()
}

/// How a failing shard is noticed, and the clock for it.
struct Watching {
    watchdog: Watchdog,
    canary: Canary,
    ticks: BoxStream<'static, ()>,
}

fn start_watching<S: ShardSource>(
    source: S,
    shard: PlannedShard<S::Link>,
    watching: Watching,
    metrics: Arc<Metrics>,
) -> Result<(EngineHandle, impl Future<Output = Result<(), DriverError>> + Send + use<S>), EngineConfigError>
{
    let Watching { watchdog, canary, ticks } = watching;
    let PlannedShard { link, info, limits, pid } = shard;
    let engine = Engine::new(EngineConfig::new(&info, &limits)?);
    let shared = Arc::new(Shared::new(Instant::now()));
    let (events, commands) = flume::unbounded();
    let metrics = StepMetrics::new(metrics);
    metrics.planned(limits.max_batch_total_tokens);
    let runtime = source.runtime();
    let driver = Driver::new(Parts {
        engine,
        source,
        link,
        pid,
        limits,
        commands,
        watchdog,
        ticks,
        canary,
        metrics,
        shared: shared.clone(),
    });
    let task = runtime.spawn(driver.run());
    let stopped = async move {
        match task.await {
            Ok(result) => result,
            Err(error) => Err(DriverError::Panicked(reason(error))),
        }
    };
    Ok((EngineHandle { events, shared }, stopped))
}

fn reason(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => panic_message(panic.as_ref()),
        Err(error) => error.to_string(),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_string())
}

impl EngineHandle {
    /// Queues a request.
    ///
    /// # Errors
    /// Only when the driver is gone (the process is stopping).
    pub fn submit(&self, request: ValidRequest) -> Result<Generation, GenerationError> {
        let seq_id = self.shared.next_seq_id();
        let (sender, received) = mpsc::unbounded_channel();
        let event = Command::NewRequest { seq_id, request, receiver: sender, queued: Instant::now() };
        self.events.send(event).map_err(|_| GenerationError::ShuttingDown)?;
        // The driver stops by setting its flag, emptying the channel and closing it, in this order: an
        // event sent after the emptying is never seen, but then the flag is.
        if self.shared.is_stopped() {
            return Err(GenerationError::ShuttingDown);
        }
        Ok(Generation { seq_id, received, events: self.events.clone(), ended: false })
    }

    pub fn status(&self) -> EngineStatus {
        self.shared.status(Instant::now())
    }

    /// Refuses requests submitted from now on and waits until all earlier ones have ended; then the
    /// driver stops. Returns at once when it already has.
    pub async fn drain(&self) {
        let (done, drained) = oneshot::channel();
        if self.events.send(Command::Drain(done)).is_ok() && !self.shared.is_stopped() {
            let _ = drained.await; // fails when the driver stopped for another reason
        }
    }

    /// Ends every request now, each with its last event, and the driver.
    pub fn abort(&self) {
        let _ = self.events.send(Command::Abort); // fails when the driver is gone
    }
}

impl Generation {
    /// The next event; `None` after the last one.
    pub async fn next(&mut self) -> Option<GenerationEvent> {
        if self.ended {
            return None;
        }
        // The channel closes early only when the driver is gone.
        let event = self.received.recv().await;
        let event = event.unwrap_or(GenerationEvent::Failed(GenerationError::ShuttingDown));
        self.ended = is_last(&event);
        Some(event)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.events.send(Command::Cancel(self.seq_id)); // fails when the driver is gone
        }
    }
}

/// True for the event after which a request has none.
fn is_last(event: &GenerationEvent) -> bool {
    matches!(
        event,
        GenerationEvent::Failed(_)
            | GenerationEvent::Token { finish: Some(FinishReason::Length | FinishReason::Eos), .. }
    )
}
