//! Masks of constrained sequences: each sampled token goes to a worker thread with the sequence's progress,
//! and both come back with the mask of the next token. Owned by the driver; computes nothing itself.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::event_loop::Driver;
use crate::constraint::{Constraint, Progress, TokenMask};
use crate::engine::{Events, SeqId};
use crate::request::{GenerationError, GenerationEvent};
use crate::shard::ShardSource;

/// Longest that masks which are being computed hold back a step after the last one's answer: they take far
/// less as a rule, and those that do not must not keep the other sequences waiting. Tests count rows, not time.
const LONGEST_HOLD: Duration = Duration::from_millis(if cfg!(test) { 3_600_000 } else { 2 });

/// What a worker brings back.
pub(super) struct MaskReply {
    seq_id: SeqId,
    progress: Progress,
    mask: Result<TokenMask, String>,
}

pub(super) struct Masks {
    /// Of every constrained sequence that has not ended; `None` while a worker has it.
    progress: HashMap<SeqId, Option<Progress>>,
    replies: (flume::Sender<MaskReply>, flume::Receiver<MaskReply>),
    /// Until then no step is sent while masks are missing.
    hold_until: Option<Instant>,
}

impl Default for Masks {
    fn default() -> Self {
        Self { progress: HashMap::new(), replies: flume::unbounded(), hold_until: None }
    }
}

impl Masks {
    pub fn begin(&mut self, seq_id: SeqId, constraint: &Constraint) {
        self.progress.insert(seq_id, Some(constraint.begin()));
    }

    pub fn end(&mut self, seq_id: SeqId) {
        self.progress.remove(&seq_id);
    }

    /// Has the masks computed that follow from these tokens, which came `now`.
    pub fn follow(&mut self, events: &Events, now: Instant) {
        self.hold_until = Some(now + LONGEST_HOLD);
        for (seq_id, event) in events {
            if let GenerationEvent::Token { token, finish: None, .. } = event
                && let Some(progress) = self.progress.get_mut(seq_id).and_then(Option::take)
            {
                let (seq_id, token, replies) = (*seq_id, token.id, self.replies.0.clone());
                tokio::task::spawn_blocking(move || {
                    let _ = replies.send(advance(seq_id, progress, token)); // fails when the driver is gone
                });
            }
        }
    }

    /// The next reply. Dropping the future loses none.
    pub async fn next(&self) -> MaskReply {
        match self.replies.1.recv_async().await {
            Ok(reply) => reply,
            // Never: this struct holds a sender.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes a progress back; `None` when its sequence has ended meanwhile.
    pub fn returned(&mut self, reply: MaskReply) -> Option<(SeqId, Result<TokenMask, String>)> {
        let MaskReply { seq_id, progress, mask } = reply;
        *self.progress.get_mut(&seq_id)? = Some(progress);
        Some((seq_id, mask))
    }
}

impl<S: ShardSource> Driver<S> {
    pub(super) fn mask(&mut self, reply: MaskReply) {
        match self.masks.returned(reply) {
            Some((seq_id, Ok(mask))) => self.engine.set_mask(seq_id, mask),
            Some((seq_id, Err(reason))) => {
                self.outbox.extend(self.engine.fail(seq_id, GenerationError::Constraint(reason)));
            }
            None => {}
        }
    }

    /// Until when no step is sent because masks are missing, so that constrained sequences share steps with the
    /// others and each other; `None` when one may be sent.
    pub(super) fn held_until(&self) -> Option<Instant> {
        let until = self.masks.hold_until.filter(|until| Instant::now() < *until)?;
        self.engine.lacks_masks().then_some(until)
    }
}

/// A defect of the library ends one answer, not the sequence's wait.
fn advance(seq_id: SeqId, mut progress: Progress, token: u32) -> MaskReply {
    let mask = catch_unwind(AssertUnwindSafe(|| progress.advance(token)));
    MaskReply { seq_id, progress, mask: mask.unwrap_or_else(|_| Err("its automaton stopped".into())) }
}
