//! The driver when the shard fails: notice, have it replaced, let the engine replay what was running.
//!
//! A loss is a broken connection, an answer to what was not asked, or a step beyond its time. Whoever
//! started the shard replaces it (see `ShardSource`); meanwhile requests may come and go. With nobody to
//! replace it, or when it is given up, every request fails and the driver ends.

use std::pin::Pin;
use std::time::{Duration, Instant};

use super::DriverError;
use super::event_loop::Driver;
use super::watchdog::Verdict;
use crate::engine::{EngineConfig, StepMismatch};
use crate::request::{GenerationError, Limits, ValidRequest};
use crate::shard::{PlannedShard, ShardError, ShardSource};

/// A shard that is being started, connected to and planned.
pub(super) type Awaited<L> = Pin<Box<dyn Future<Output = Result<PlannedShard<L>, ShardError>> + Send>>;

/// Why a shard is of no use any more.
#[derive(Debug)]
pub(super) struct Loss {
    /// Label of the metric.
    pub cause: &'static str,
    pub reason: String,
}

impl Loss {
    pub fn broken(error: &ShardError) -> Self {
        Self { cause: "ended", reason: error.to_string() }
    }

    pub fn confused(mismatch: &StepMismatch) -> Self {
        Self { cause: "protocol", reason: mismatch.to_string() }
    }

    fn hung(waited: Duration) -> Self {
        Self { cause: "hung", reason: format!("the shard has not answered a step for {waited:.1?}") }
    }

    fn canary() -> Self {
        Self { cause: "canary", reason: "the shard answers, but computes no token".to_string() }
    }
}

impl<S: ShardSource> Driver<S> {
    pub(super) fn shard_lost(&mut self, loss: Loss) {
        if self.link.take().is_none() {
            return; // the same loss, seen twice in a turn
        }
        let Loss { cause, reason } = loss;
        self.sent.drain(..).for_each(|step| self.metrics.failed(step));
        self.metrics.lost(cause);
        self.verdict = Verdict::Fine;
        if !self.source.replace(self.pid, &reason) {
            return self.give_up(reason);
        }
        tracing::warn!("Shard lost: {reason}. {} requests wait for the next one", self.n_requests());
        self.lost_at.get_or_insert_with(Instant::now);
        self.loss = reason;
        self.outbox.extend(self.engine.shard_lost(Instant::now()));
        self.await_next();
    }

    fn await_next(&mut self) {
        self.awaited = Some(Box::pin(self.source.next(self.pid)));
    }

    /// Every request gets its last event, and the driver ends.
    fn give_up(&mut self, reason: String) {
        self.outbox.extend(self.engine.fail_all(&GenerationError::Shard(reason.clone())));
        self.stop = Some(Err(DriverError::ShardLost(reason)));
    }

    pub(super) fn shard_came(&mut self, shard: Result<PlannedShard<S::Link>, ShardError>) {
        let shard = match shard {
            Ok(shard) => shard,
            Err(_) => {
                let reason = std::mem::take(&mut self.loss);
                return self.give_up(format!("the shard was lost ({reason}) and no other will come"));
            }
        };
        self.pid = shard.pid;
        self.proven = false;
        let max_batch_total_tokens = shard.limits.max_batch_total_tokens;
        match EngineConfig::new(&shard.info, &Limits { max_batch_total_tokens, ..self.limits }) {
            Ok(config) => {
                self.engine.plan_changed(config);
                self.link = Some(shard.link);
                self.metrics.planned(max_batch_total_tokens);
                tracing::info!("Connected to a new shard, {} requests go on", self.n_requests());
                self.canary.hurry();
            }
            Err(error) => {
                self.loss = error.to_string();
                match self.source.replace(self.pid, &self.loss) {
                    true => self.await_next(),
                    false => self.give_up(self.loss.clone()),
                }
            }
        }
    }

    /// Called for every answer.
    pub(super) fn shard_answered(&mut self, now: Instant) {
        self.watchdog.answered();
        self.verdict = Verdict::Fine;
        if !std::mem::replace(&mut self.proven, true) {
            self.source.serving(self.pid);
        }
        if let Some(lost_at) = self.lost_at.take() {
            self.metrics.recovered(now - lost_at);
            tracing::info!("Recovered after {:.2?}", now - lost_at);
        }
    }

    pub(super) fn tick(&mut self) {
        let period = self.watchdog.period();
        self.verdict = self.watchdog.tick(self.sent.front().map(|step| step.n_tokens));
        self.metrics.step_age(self.last_reply.elapsed());
        if self.verdict == Verdict::Hung {
            return self.shard_lost(Loss::hung(self.watchdog.waited()));
        }
        if self.canary.condemns() {
            return self.shard_lost(Loss::canary());
        }
        let idle = self.engine.is_idle() && self.link.is_some();
        if self.canary.tick(idle, period) {
            let seq_id = self.shared.next_seq_id();
            self.outbox.extend(self.engine.submit(seq_id, ValidRequest::canary(), Instant::now()));
            self.canary.started(seq_id);
        }
    }

    fn n_requests(&self) -> usize {
        self.engine.n_running() + self.engine.n_waiting()
    }
}
