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
use super::running::Running;
use super::sequence::{SeqId, Sequence};
use super::step::PlannedRow;

/// What the policy decides over.
#[derive(Debug)]
pub struct Scheduler {
    pub config: EngineConfig,
    pub queue: Queue,
    /// Every sequence that owns blocks.
    pub running: BTreeMap<SeqId, Running>,
    pub pool: BlockPool,
    /// Sequences that lost their blocks since the last planned step: the shard drops them before its rows
    /// run, and runs steps in order, so the blocks can be given away at once.
    pub forget: Vec<SeqId>,
}

impl Scheduler {
    pub fn new(config: EngineConfig) -> Self {
        let pool = BlockPool::new(config.n_blocks);
        Self { config, queue: Queue::default(), running: BTreeMap::new(), pool, forget: Vec::new() }
    }

    /// A new pool in place of the lost one.
    pub fn plan_changed(&mut self, config: EngineConfig) {
        self.pool = BlockPool::new(config.n_blocks);
        self.config = config;
    }

    /// The rows of the next step; empty when there is nothing to do. Prompt tokens of all rows
    /// together stay within `max_batch_prefill_tokens`: a longer prompt goes on in the next step.
    /// With `only`, that sequence alone gets a row.
    pub fn plan_rows(&mut self, only: Option<SeqId>, now: Instant) -> Vec<PlannedRow> {
        let mut prompt_budget = self.config.max_batch_prefill_tokens as usize;
        for running in self.running.values_mut() {
            allot(running, &mut prompt_budget);
        }
        while prompt_budget > 0 {
            let Some(mut running) = self.admit(only, now) else { break };
            allot(&mut running, &mut prompt_budget);
            self.running.insert(running.sequence.seq_id, running);
        }
        self.running.values_mut().filter_map(Running::plan_row).collect()
    }

    /// Moves the head of the queue into the batch if it fits.
    fn admit(&mut self, only: Option<SeqId>, now: Instant) -> Option<Running> {
        if self.running.len() >= self.config.max_batch_size as usize {
            return None;
        }
        let next = match only {
            Some(seq_id) => self.queue.get_mut(seq_id)?,
            None => self.queue.front()?,
        };
        if !next.is_settled() {
            return None;
        }
        let n_tokens = next.max_kv_tokens();
        let seq_id = next.seq_id;
        let blocks = self.pool.reserve(n_tokens.div_ceil(self.config.block_size as usize))?;
        let mut sequence = self.queue.remove(seq_id).expect("invariant: it waits");
        sequence.mark_started(now);
        Some(Running::admit(sequence, blocks))
    }

    pub fn sequence_mut(&mut self, seq_id: SeqId) -> Option<&mut Sequence> {
        match self.running.get_mut(&seq_id) {
            Some(running) => Some(&mut running.sequence),
            None => self.queue.get_mut(seq_id),
        }
    }

    /// Takes a sequence out, wherever it is, and frees its blocks.
    pub fn remove(&mut self, seq_id: SeqId) -> Option<Sequence> {
        let Some(running) = self.running.remove(&seq_id) else { return self.queue.remove(seq_id) };
        let (sequence, blocks) = running.into_parts();
        self.pool.release(blocks);
        self.forget.push(seq_id);
        Some(sequence)
    }

    /// Sends a running sequence back to the queue: it will be replayed from its token ids.
    pub fn preempt(&mut self, seq_id: SeqId) {
        if self.running.contains_key(&seq_id)
            && let Some(sequence) = self.remove(seq_id)
        {
            self.queue.push(sequence);
        }
    }

    /// Sends every running sequence back to the queue, with nothing in flight any more; the blocks are gone.
    pub fn lose_blocks(&mut self) {
        for running in std::mem::take(&mut self.running).into_values() {
            let (sequence, blocks) = running.into_parts();
            self.pool.release(blocks);
            self.queue.push(sequence);
        }
        self.queue.iter_mut().for_each(Sequence::forget_rows_in_flight);
        self.forget.clear();
    }
}

fn allot(running: &mut Running, prompt_budget: &mut usize) {
    let n = running.n_prefill_left().min(*prompt_budget);
    running.allot(n);
    *prompt_budget -= n;
}
