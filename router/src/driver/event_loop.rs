//! The loop: take every event that is there, send the next steps, only then deliver tokens.
//!
//! Started by `driver::start`. The order matters: the shard must never wait for the delivery of the
//! tokens it just made. Nothing here blocks, and every decision is the engine's.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::shared::Shared;
use super::step_metrics::{SentStep, StepMetrics, StepTimes};
use super::{DriverError, is_last};
use crate::engine::{Engine, Events, SeqId, StepOutcome};
use crate::request::{GenerationError, GenerationEvent, ValidRequest};
use crate::shard::ShardLink;

/// Everything that can happen to the driver.
pub(super) enum Event {
    NewRequest {
        seq_id: SeqId,
        request: ValidRequest,
        receiver: mpsc::UnboundedSender<GenerationEvent>,
        queued: Instant,
    },
    Cancel(SeqId),
    ShardReply(StepOutcome),
    ShardLost(String),
    /// Refuse new requests; answer when the last one has ended.
    Drain(oneshot::Sender<()>),
    /// A request's deadline has passed.
    Deadline,
    /// Every handle and every generation is gone.
    Abandoned,
}

pub(super) struct Driver<L> {
    engine: Engine,
    link: L,
    events: flume::Receiver<Event>,
    receivers: HashMap<SeqId, mpsc::UnboundedSender<GenerationEvent>>,
    /// Made in this turn, delivered at its end.
    outbox: Events,
    /// The steps in flight, oldest first.
    sent: VecDeque<SentStep>,
    /// Answered in this turn, recorded at its end.
    answered: Option<(SentStep, StepTimes)>,
    /// When the shard answered last.
    last_reply: Instant,
    /// Who waits for the last request to end; not empty = new requests are refused.
    draining: Vec<oneshot::Sender<()>>,
    /// The loop ends with this after delivering what is left.
    stop: Option<Result<(), DriverError>>,
    metrics: StepMetrics,
    shared: Arc<Shared>,
}

impl<L: ShardLink> Driver<L> {
    pub fn new(
        engine: Engine,
        link: L,
        events: flume::Receiver<Event>,
        metrics: StepMetrics,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            engine,
            link,
            events,
            receivers: HashMap::new(),
            outbox: Events::new(),
            sent: VecDeque::new(),
            answered: None,
            last_reply: Instant::now(),
            draining: Vec::new(),
            stop: None,
            metrics,
            shared,
        }
    }

    /// Runs until drained, abandoned, or the shard is lost.
    pub async fn run(mut self) -> Result<(), DriverError> {
        loop {
            let mut next = Some(self.next_event().await);
            while let Some(event) = next {
                self.handle(event);
                next = self.events.try_recv().ok();
            }
            let any_sent = self.send_steps();
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

    async fn next_event(&mut self) -> Event {
        let deadline = self.engine.next_deadline();
        let passed = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reply = self.link.recv() => match reply {
                Ok(outcome) => Event::ShardReply(outcome),
                Err(error) => Event::ShardLost(error.to_string()),
            },
            event = self.events.recv_async() => event.unwrap_or(Event::Abandoned),
            () = passed => Event::Deadline,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::NewRequest { seq_id, receiver, .. } if !self.draining.is_empty() => {
                self.receivers.insert(seq_id, receiver);
                self.outbox.push((seq_id, GenerationEvent::Failed(GenerationError::ShuttingDown)));
            }
            Event::NewRequest { seq_id, request, receiver, queued } => {
                self.receivers.insert(seq_id, receiver);
                self.outbox.extend(self.engine.submit(seq_id, request, queued));
            }
            Event::Cancel(seq_id) => {
                self.receivers.remove(&seq_id);
                self.engine.cancel(seq_id);
            }
            Event::ShardReply(outcome) => self.shard_reply(outcome),
            Event::ShardLost(reason) => self.shard_lost(reason),
            Event::Drain(done) => self.draining.push(done),
            Event::Deadline => self.outbox.extend(self.engine.expire(Instant::now())),
            Event::Abandoned => self.stop = Some(Ok(())),
        }
    }

    fn shard_reply(&mut self, outcome: StepOutcome) {
        let now = Instant::now();
        let compute = outcome.compute;
        match self.engine.apply(outcome, now) {
            Ok(events) => self.outbox.extend(events),
            Err(mismatch) => return self.shard_lost(mismatch.to_string()),
        }
        if let Some(step) = self.sent.pop_front() {
            let inference = now - step.at.max(self.last_reply);
            let (filter, delivery) = (now.elapsed(), Duration::ZERO);
            let times = StepTimes { inference, forward: compute, filter, delivery };
            self.answered = Some((step, times));
        }
        self.last_reply = now;
    }

    fn shard_lost(&mut self, reason: String) {
        self.outbox.extend(self.engine.fail_all(&GenerationError::Shard(reason.clone())));
        self.sent.drain(..).for_each(|step| self.metrics.failed(step));
        self.stop = Some(Err(DriverError::ShardLost(reason)));
    }

    /// Keeps as many steps in flight as the shard wants; false when none had to be sent.
    fn send_steps(&mut self) -> bool {
        let mut any_sent = false;
        while self.stop.is_none() {
            let now = Instant::now();
            let Some(step) = self.engine.plan_step(now) else { break };
            any_sent = true;
            let sent = SentStep::new(&step, now);
            self.metrics.joined(sent, now.elapsed());
            self.metrics.sent(sent);
            self.sent.push_back(sent);
            if let Err(error) = self.link.send(step) {
                self.shard_lost(error.to_string());
            }
        }
        any_sent
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
            }
        }
        if let Some((step, times)) = self.answered.take() {
            self.metrics.answered(step, StepTimes { delivery: begun.elapsed(), ..times });
        }
    }

    fn publish(&mut self) {
        self.shared.set_counts(self.engine.n_running(), self.engine.n_waiting());
        self.shared.set_progress(self.sent.front().map(|step| step.at.max(self.last_reply)));
        self.metrics.gauges(&self.engine);
    }
}

/// However the driver ends, a panic included: nobody may take the shard for ready afterwards, and
/// nobody may wait for an answer to what is still in the channel (see `EngineHandle::submit`).
impl<L> Drop for Driver<L> {
    fn drop(&mut self) {
        self.shared.set_stopped();
        self.events.drain().for_each(drop);
    }
}
