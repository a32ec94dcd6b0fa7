//! The policy: what the next step holds. Called by `Engine::plan_step`.
//!
//! Continuous batching, in four moves: running sequences get the blocks their next tokens need, if need
//! be from others (`preemption`); waiting ones are admitted by what they need now (`admission`); the step's
//! prompt budget is shared out (`allotment`); and everyone with something to compute gets a row, so a
//! sequence that decodes never waits for a prompt.

use std::collections::BTreeMap;
use std::time::Instant;

use super::block_pool::BlockPool;
use super::config::EngineConfig;
use super::counters::Counters;
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
    pub counters: Counters,
}

impl Scheduler {
    pub fn new(config: EngineConfig) -> Self {
        Self {
            config,
            // The longest request of a tenant that was idle is computed at once.
            queue: Queue::new(u64::from(config.max_total_tokens)),
            running: BTreeMap::new(),
            pool: BlockPool::new(config.n_blocks),
            forget: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// The rows of the next step; empty when there is nothing to do. With `only`, nobody else is admitted.
    pub fn plan_rows(&mut self, only: Option<SeqId>, now: Instant) -> Vec<PlannedRow> {
        let anyone_preempted = self.make_room();
        match only {
            Some(seq_id) => self.admit_alone(seq_id, now),
            // What was just taken from somebody is for those who needed it.
            None if anyone_preempted => {}
            None => self.admit_waiting(now),
        }
        self.allot();
        let mut rows = Vec::with_capacity(self.running.len());
        for running in self.running.values_mut() {
            let Some(row) = running.plan_row(&mut self.counters) else { continue };
            self.queue.charge(&running.sequence.tenant(), row.input.n_tokens());
            rows.push(row);
        }
        rows
    }

    pub fn block_size(&self) -> usize {
        self.config.block_size as usize
    }

    pub fn sequence_mut(&mut self, seq_id: SeqId) -> Option<&mut Sequence> {
        match self.running.get_mut(&seq_id) {
            Some(running) => Some(&mut running.sequence),
            None => self.queue.get_mut(seq_id),
        }
    }

    /// Takes a sequence out, wherever it is, and frees its blocks.
    pub fn remove(&mut self, seq_id: SeqId) -> Option<Sequence> {
        match self.running.remove(&seq_id) {
            None => self.queue.remove(seq_id),
            Some(running) => {
                let sequence = self.release(running);
                self.queue.stopped(sequence.tenant());
                Some(sequence)
            }
        }
    }

    /// Sends a running sequence back to the queue: it will be replayed from its token ids.
    pub fn preempt(&mut self, seq_id: SeqId) {
        if let Some(running) = self.running.remove(&seq_id) {
            let sequence = self.release(running);
            self.queue.push_back(sequence);
            self.counters.preemptions += 1;
        }
    }

    fn release(&mut self, running: Running) -> Sequence {
        if running.is_known_to_shard() {
            self.forget.push(running.sequence.seq_id);
        }
        self.pool.release(running.blocks);
        running.sequence
    }

    /// A sample came back for a row that brought the sequence to `n_tokens`: all blocks before are
    /// computed, and sound, or there would be no sample.
    pub fn sampled(&mut self, seq_id: SeqId, n_tokens: usize) {
        let block_size = self.block_size();
        let Some(running) = self.running.get_mut(&seq_id) else { return };
        running.has_sampled = true;
        let n_full = n_tokens / block_size;
        if !self.config.prefix_caching || n_full <= running.n_blocks_published {
            return;
        }
        for i in running.n_blocks_published..n_full {
            let key = running.sequence.block_key(i, &self.config);
            let ids = running.sequence.ids(i * block_size..(i + 1) * block_size);
            self.pool.publish(running.blocks.as_slice()[i], key, ids);
        }
        running.n_blocks_published = n_full;
    }

    /// Sends every running sequence back to the queue, with nothing in flight any more and no block left.
    pub fn shard_lost(&mut self) {
        for running in std::mem::take(&mut self.running).into_values() {
            let sequence = self.release(running);
            self.queue.push_back(sequence);
        }
        self.queue.iter_mut().for_each(Sequence::shard_lost);
        self.pool = BlockPool::new(self.config.n_blocks);
        self.forget.clear();
    }

    /// A new pool in place of the lost one.
    pub fn plan_changed(&mut self, config: EngineConfig) {
        self.pool = BlockPool::new(config.n_blocks);
        self.config = config;
    }
}
