//! The loop: take every event that is there, send the next steps, only then deliver tokens.
//!
//! Started by `driver::start`. The order matters: the shard must never wait for the delivery of the
//! tokens it just made. Nothing here blocks, and every decision is the engine's; what happens when the
//! shard fails is in `recovery`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};

use super::canary::Canary;
use super::masks::{MaskReply, Masks};
use super::recovery::{Awaited, Loss};
use super::shared::Shared;
use super::step_metrics::{SentStep, StepMetrics, StepTimes};
use super::watchdog::{Verdict, Watchdog};
use super::{DriverError, is_last};
use crate::engine::{Engine, Events, SeqId, StepOutcome};
use crate::request::{GenerationError, GenerationEvent, Limits, ValidRequest};
use crate::shard::{PlannedShard, ShardError, ShardLink, ShardSource};

/// What handlers and the server ask of the driver.
pub(super) enum Command {
    NewRequest {
        seq_id: SeqId,
        request: ValidRequest,
        receiver: mpsc::UnboundedSender<GenerationEvent>,
        queued: Instant,
    },
    Cancel(SeqId),
    /// Refuse new requests; answer when the last one has ended.
    Drain(oneshot::Sender<()>),
    /// End every request now, each with its last event.
    Abort,
}

/// Everything that can happen to the driver.
pub(super) enum Event<L> {
    Command(Command),
    ShardReply(StepOutcome),
    ShardLost(Loss),
    /// A shard was planned in place of the lost one; or none will come.
    ShardCame(Result<PlannedShard<L>, ShardError>),
    /// A worker has found out what may follow a constrained sequence's last token.
    Mask(MaskReply),
    /// A request's deadline has passed, or steps were held back for long enough.
    Deadline,
    /// A period of the watchdog is over.
    Tick,
    /// Every handle and every generation is gone.
    Abandoned,
}

/// What `driver::start` makes a driver of.
pub(super) struct Parts<S: ShardSource> {
    pub engine: Engine,
    pub source: S,
    pub link: S::Link,
    pub pid: u32,
    pub limits: Limits,
    pub commands: flume::Receiver<Command>,
    pub watchdog: Watchdog,
    /// One each period of the watchdog.
    pub ticks: BoxStream<'static, ()>,
    pub canary: Canary,
    pub metrics: StepMetrics,
    pub shared: Arc<Shared>,
}

pub(super) struct Driver<S: ShardSource> {
    pub(super) engine: Engine,
    pub(super) source: S,
    /// `None` from the loss of a shard until the next one is planned.
    pub(super) link: Option<S::Link>,
    /// The next shard, while there is no link.
    pub(super) awaited: Option<Awaited<S::Link>>,
    /// Of the shard that runs or was lost.
    pub(super) pid: u32,
    /// The shard has answered.
    pub(super) proven: bool,
    /// When the shard before was lost, until this one answers.
    pub(super) lost_at: Option<Instant>,
    /// Why the last one was lost.
    pub(super) loss: String,
    /// Of the first plan; a later one may have another number of blocks.
    pub(super) limits: Limits,
    commands: flume::Receiver<Command>,
    ticks: BoxStream<'static, ()>,
    receivers: HashMap<SeqId, mpsc::UnboundedSender<GenerationEvent>>,
    /// Made in this turn, delivered at its end.
    pub(super) outbox: Events,
    /// The steps in flight, oldest first.
    pub(super) sent: VecDeque<SentStep>,
    /// Answered in this turn, recorded at its end.
    answered: Option<(SentStep, StepTimes)>,
    /// When the shard answered last.
    pub(super) last_reply: Instant,
    pub(super) watchdog: Watchdog,
    pub(super) verdict: Verdict,
    pub(super) canary: Canary,
    /// Who waits for the last request to end; not empty = new requests are refused.
    draining: Vec<oneshot::Sender<()>>,
    /// The loop ends with this after delivering what is left.
    pub(super) stop: Option<Result<(), DriverError>>,
    pub(super) metrics: StepMetrics,
    pub(super) shared: Arc<Shared>,
    pub(super) masks: Masks,
}

impl<S: ShardSource> Driver<S> {
    pub fn new(parts: Parts<S>) -> Self {
        let now = Instant::now();
        Self {
            engine: parts.engine,
            source: parts.source,
            link: Some(parts.link),
            awaited: None,
            pid: parts.pid,
            proven: false,
            lost_at: None,
            loss: String::new(),
            limits: parts.limits,
            commands: parts.commands,
            ticks: parts.ticks,
            receivers: HashMap::new(),
            outbox: Events::new(),
            sent: VecDeque::new(),
            answered: None,
            last_reply: now,
            watchdog: parts.watchdog,
            verdict: Verdict::Fine,
            canary: parts.canary,
            draining: Vec::new(),
            stop: None,
            metrics: parts.metrics,
            shared: parts.shared,
            masks: Masks::default(),
        }
    }

    /// Runs until drained, aborted, abandoned, or no shard is left.
    pub async fn run(mut self) -> Result<(), DriverError> {
        loop {
            let event = self.next_event().await;
            self.handle(event);
            while let Ok(command) = self.commands.try_recv() {
                self.handle(Event::Command(command));
            }
            let any_sent = self.held_until().is_none() && self.send_steps();
            self.watch_tokens();
            self.publish();
            if any_sent {
                // Lets the link's tasks write the step to the socket before the tokens are delivered.
                tokio::task::yield_now().await;
            }
            self.deliver();
            if let Some(result) = self.stop.take() {
                return result;
            }
            if !self.draining.is_empty() && self.engine.is_idle() {
                for done in self.draining.drain(..) {
                    let _ = done.send(()); // fails when nobody waits for it any more
                }
                return Ok(());
            }
        }
    }

    async fn next_event(&mut self) -> Event<S::Link> {
        let deadline = self.engine.next_deadline().into_iter().chain(self.held_until()).min();
        let passed = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reply = reply(&mut self.link) => match reply {
                Ok(outcome) => Event::ShardReply(outcome),
                Err(error) => Event::ShardLost(Loss::broken(&error)),
            },
            shard = came(&mut self.awaited) => Event::ShardCame(shard),
            Some(()) = self.ticks.next() => Event::Tick,
            mask = self.masks.next() => Event::Mask(mask),
            () = passed => Event::Deadline,
            command = self.commands.recv_async() => command.map_or(Event::Abandoned, Event::Command),
        }
    }

    fn handle(&mut self, event: Event<S::Link>) {
        match event {
            Event::Command(command) => self.obey(command),
            Event::ShardReply(outcome) => self.shard_reply(outcome),
            Event::ShardLost(loss) => self.shard_lost(loss),
            Event::ShardCame(shard) => self.shard_came(shard),
            Event::Mask(reply) => self.mask(reply),
            Event::Deadline => self.outbox.extend(self.engine.expire(Instant::now())),
            Event::Tick => self.tick(),
            Event::Abandoned => self.stop = Some(Ok(())),
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::NewRequest { seq_id, receiver, .. } if !self.draining.is_empty() => {
                self.receivers.insert(seq_id, receiver);
                self.outbox.push((seq_id, GenerationEvent::Failed(GenerationError::ShuttingDown)));
            }
            Command::NewRequest { seq_id, request, receiver, queued } => {
                self.receivers.insert(seq_id, receiver);
                if let Some(constraint) = &request.constraint {
                    self.masks.begin(seq_id, constraint);
                }
                self.outbox.extend(self.engine.submit(seq_id, request, queued));
            }
            Command::Cancel(seq_id) => {
                self.receivers.remove(&seq_id);
                self.masks.end(seq_id);
                self.engine.cancel(seq_id);
            }
            Command::Drain(done) => {
                self.canary.running().into_iter().for_each(|seq_id| self.engine.cancel(seq_id));
                self.draining.push(done);
            }
            Command::Abort => {
                self.outbox.extend(self.engine.fail_all(&GenerationError::ShuttingDown));
                self.stop = Some(Ok(()));
            }
        }
    }

    fn shard_reply(&mut self, outcome: StepOutcome) {
        let now = Instant::now();
        let compute = outcome.compute;
        match self.engine.apply(outcome, now) {
            Ok(events) => {
                self.masks.follow(&events, now);
                self.outbox.extend(events);
            }
            Err(mismatch) => return self.shard_lost(Loss::confused(&mismatch)),
        }
        if let Some(step) = self.sent.pop_front() {
            let inference = now - step.at.max(self.last_reply);
            let (filter, delivery) = (now.elapsed(), Duration::ZERO);
            let times = StepTimes { inference, forward: compute, filter, delivery };
            self.answered = Some((step, times));
        }
        self.last_reply = now;
        self.shard_answered(now);
    }

    /// Keeps as many steps in flight as the shard wants; false when none had to be sent.
    fn send_steps(&mut self) -> bool {
        let mut any_sent = false;
        while self.stop.is_none()
            && let Some(link) = &mut self.link
        {
            let now = Instant::now();
            let Some(step) = self.engine.plan_step(now) else { break };
            any_sent = true;
            let sent = SentStep::new(&step, now);
            self.metrics.joined(sent, now.elapsed());
            self.metrics.sent(sent);
            self.sent.push_back(sent);
            if let Err(error) = link.send(step) {
                self.shard_lost(Loss::broken(&error));
            }
        }
        any_sent
    }

    /// Any token says that the shard works; the canary's says it of an idle one.
    fn watch_tokens(&mut self) {
        for (seq_id, event) in &self.outbox {
            let passed = matches!(event, GenerationEvent::Token { .. });
            if passed {
                self.canary.token_seen();
            }
            if self.canary.running() == Some(*seq_id) {
                self.canary.ended(passed);
                self.metrics.canary(passed);
            }
        }
    }

    fn deliver(&mut self) {
        let begun = Instant::now();
        for (seq_id, event) in self.outbox.drain(..) {
            let last = is_last(&event);
            if let Some(receiver) = self.receivers.get(&seq_id) {
                let _ = receiver.send(event); // a receiver that is gone has sent its cancel
            }
            if last {
                self.receivers.remove(&seq_id);
                self.masks.end(seq_id);
            }
        }
        if let Some((step, times)) = self.answered.take() {
            self.metrics.answered(step, StepTimes { delivery: begun.elapsed(), ..times });
        }
    }

    fn publish(&mut self) {
        self.shared.set_counts(self.engine.n_running(), self.engine.n_waiting());
        self.shared.set_progress(self.sent.front().map(|step| step.at.max(self.last_reply)));
        let healthy = self.link.is_some() && self.verdict == Verdict::Fine && !self.canary.has_failed();
        self.shared.set_healthy(healthy);
        self.metrics.gauges(&self.engine);
    }
}

async fn reply<L: ShardLink>(link: &mut Option<L>) -> Result<StepOutcome, ShardError> {
    match link {
        Some(link) => link.recv().await,
        None => std::future::pending().await,
    }
}

/// The future is dropped when it is done: it must not be asked again.
async fn came<L>(awaited: &mut Option<Awaited<L>>) -> Result<PlannedShard<L>, ShardError> {
    let Some(shard) = awaited else { return std::future::pending().await };
    let came = shard.await;
    *awaited = None;
    came
}

/// However the driver ends, a panic included: nobody may take the shard for ready afterwards, and
/// nobody may wait for an answer to what is still in the channel (see `EngineHandle::submit`).
impl<S: ShardSource> Drop for Driver<S> {
    fn drop(&mut self) {
        self.shared.set_stopped();
        self.commands.drain().for_each(drop);
    }
}
