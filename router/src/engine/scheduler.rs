//! The policy: which sequences get a row in the next step, and which waiting ones are admitted.
//!
//! Called by `Engine::plan_step`. Continuous batching, first come first served: every running
//! sequence that can go on gets a row, then waiting ones are admitted while blocks, batch size and
//! the step's prompt budget allow. A sequence reserves at admission every block it can ever need, so
//! nothing is ever preempted. The head of the queue is never overtaken, so it cannot starve.

use std::collections::BTreeMap;
use std::time::Instant;

use super::block_pool::BlockPool;
use super::config::EngineConfig;
use super::queue::Queue;
use super::sequence::{SeqId, Sequence, kv_tokens};
use super::step::{PlannedRow, RowInput};

/// What the policy decides over.
#[derive(Debug)]
pub struct Scheduler {
    pub config: EngineConfig,
    pub queue: Queue,
    /// Every sequence that owns blocks; ended ones leave once no row of theirs is in flight.
    pub running: BTreeMap<SeqId, Sequence>,
    pub pool: BlockPool,
}

impl Scheduler {
    pub fn new(config: EngineConfig) -> Self {
        let pool = BlockPool::new(config.n_blocks);
        Self { config, queue: Queue::default(), running: BTreeMap::new(), pool }
    }

    /// The rows of the next step; empty when there is nothing to do. Prompt tokens of all rows
    /// together stay within `max_batch_prefill_tokens`: a longer prompt goes on in the next step.
    pub fn plan_rows(&mut self, now: Instant) -> Vec<PlannedRow> {
        let mut prompt_budget = self.config.max_batch_prefill_tokens as usize;
        let mut rows = Vec::with_capacity(self.running.len() + 1);
        for sequence in self.running.values_mut() {
            push_row(sequence, &mut prompt_budget, &mut rows);
        }
        while prompt_budget > 0 {
            let Some(mut sequence) = self.admit(now) else { break };
            push_row(&mut sequence, &mut prompt_budget, &mut rows);
            self.running.insert(sequence.seq_id(), sequence);
        }
        // Ids are given before requests race into the queue, so a later one may come first.
        rows.sort_unstable_by_key(|row| row.seq_id);
        rows
    }

    /// Moves the head of the queue into the batch if it fits.
    fn admit(&mut self, now: Instant) -> Option<Sequence> {
        if self.running.len() >= self.config.max_batch_size as usize {
            return None;
        }
        let n_tokens = kv_tokens(&self.queue.front()?.request);
        let blocks = self.pool.reserve(n_tokens.div_ceil(self.config.block_size as usize))?;
        let waiting = self.queue.pop().expect("invariant: the queue has a front");
        Some(Sequence::admit(waiting, blocks, now))
    }

    /// Takes an ended sequence out and frees its blocks.
    pub fn forget(&mut self, seq_id: SeqId) {
        if let Some(sequence) = self.running.remove(&seq_id) {
            self.pool.release(sequence.into_blocks());
        }
    }
}

fn push_row(sequence: &mut Sequence, prompt_budget: &mut usize, rows: &mut Vec<PlannedRow>) {
    let Some(row) = sequence.plan_row(*prompt_budget) else { return };
    if let RowInput::Prompt { chunk, .. } = &row.input {
        *prompt_budget -= chunk.len();
    }
    rows.push(row);
}
