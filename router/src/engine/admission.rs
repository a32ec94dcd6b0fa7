//! Which waiting sequences get blocks and a place in the batch: part of the scheduler.
//!
//! Tenants take turns, the least served first, and within a tenant the senior comes first. A sequence is
//! admitted by what it needs now: blocks for the tokens it has, less those that the prefix cache has, while
//! one block remains for every running sequence that may still grow, so that a newcomer causes no preemption
//! before everybody has filled a block. One that does not fit may be overtaken, by no more than its own size.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Instant;

use super::preemption::Lack;
use super::running::Running;
use super::scheduler::Scheduler;
use super::sequence::SeqId;
use crate::request::Tenant;

/// Sequences looked at in one step that turn out not to fit: bounds the time a step's planning takes.
const MAX_REFUSALS: usize = 4;
/// A prompt counts for at most this part of a step's budget when it is asked how many prompts a tenant
/// should have in work: so that a few huge ones do not keep out a small one.
const BUDGET_PARTS: usize = 4;

/// A tenant's place in the order of admission.
struct Turn {
    tenant: Tenant,
    /// Tokens served, and those that its admitted sequences still have to prefill.
    charged: u64,
    /// Part of the step's prompt budget that its admitted sequences take up.
    n_subscribed: usize,
    /// Its most senior sequence that was not looked at in this step.
    next: SeqId,
}

/// What a sequence needs to be admitted.
struct Need {
    /// Blocks of the prefix cache that hold its beginning.
    shared: Vec<u32>,
    /// Blocks of its table, `shared` included.
    n_blocks: usize,
    /// How many fewer blocks will be available once it has them.
    cost: usize,
}

/// The first sequence of this step that did not fit, and how many blocks may overtake it.
struct Blocked {
    seq_id: SeqId,
    allowance: usize,
}

enum Refusal {
    NoPlace,
    NoBlocks,
}

impl Scheduler {
    /// Admits waiting sequences until the batch, the blocks or the prompt budget of the next step are full.
    pub fn admit_waiting(&mut self, now: Instant) {
        let budget = self.config.max_batch_prefill_tokens as usize;
        let mut turns = self.turns();
        let mut blocked = None;
        let mut n_refusals = 0;
        while n_refusals < MAX_REFUSALS {
            let open = turns.values_mut().filter(|turn| turn.n_subscribed < budget);
            let Some(turn) = open.min_by_key(|turn| (turn.charged, turn.next)) else { break };
            match self.admit(turn.next, &mut blocked, now) {
                Ok(n_prefill) => turn.subscribe(n_prefill, budget),
                Err(Refusal::NoPlace) => break,
                Err(Refusal::NoBlocks) => n_refusals += 1,
            }
            match self.next_waiting(&turn.tenant, Bound::Excluded(turn.next)) {
                Some(next) => turn.next = next,
                None => turn.n_subscribed = usize::MAX,
            }
        }
    }

    /// Admits this one, with nothing else running.
    pub fn admit_alone(&mut self, seq_id: SeqId, now: Instant) {
        if self.queue.get_mut(seq_id).is_some_and(|sequence| sequence.is_settled()) {
            let need = self.need(seq_id);
            self.take_in(seq_id, &need, now);
        }
    }

    /// Every tenant that waits for something.
    fn turns(&self) -> BTreeMap<Tenant, Turn> {
        let mut turns = BTreeMap::new();
        for (&tenant, lane) in self.queue.lanes() {
            if let Some(next) = self.next_waiting(&tenant, Bound::Unbounded) {
                turns.insert(tenant, Turn { tenant, charged: lane.served(), n_subscribed: 0, next });
            }
        }
        let budget = self.config.max_batch_prefill_tokens as usize;
        for running in self.running.values().filter(|running| running.n_prefill_left() > 0) {
            if let Some(turn) = turns.get_mut(&running.sequence.tenant()) {
                turn.subscribe(running.n_prefill_left(), budget);
            }
        }
        turns
    }

    fn next_waiting(&self, tenant: &Tenant, after: Bound<SeqId>) -> Option<SeqId> {
        let mut waiting = self.queue.lane(tenant)?.waiting_after(after);
        waiting.find(|sequence| sequence.is_settled()).map(|sequence| sequence.seq_id)
    }

    /// Moves a sequence into the batch if it fits; returns the tokens it has to prefill.
    fn admit(
        &mut self,
        seq_id: SeqId,
        blocked: &mut Option<Blocked>,
        now: Instant,
    ) -> Result<usize, Refusal> {
        let is_full = self.running.len() >= self.config.max_batch_size as usize;
        if is_full && !self.queue.tenant_of(seq_id).is_some_and(|tenant| self.queue.others_run(&tenant)) {
            return Err(Refusal::NoPlace);
        }
        let mut need = self.need(seq_id);
        if let Some(blocked) = blocked {
            if need.cost > blocked.allowance || self.n_lacking(&need) > 0 {
                return Err(Refusal::NoBlocks);
            }
            blocked.allowance -= need.cost;
            if let Some(overtaken) = self.queue.get_mut(blocked.seq_id) {
                overtaken.n_blocks_overtaken += need.cost;
            }
        } else if self.n_lacking(&need) > 0 {
            let lack = Lack::Blocks { n: self.n_lacking(&need), of: need.n_blocks };
            if !self.yield_to(seq_id, lack) {
                let n_overtaken =
                    self.queue.get_mut(seq_id).map_or(0, |sequence| sequence.n_blocks_overtaken);
                *blocked = Some(Blocked { seq_id, allowance: need.cost.saturating_sub(n_overtaken) });
                return Err(Refusal::NoBlocks);
            }
            need = self.need(seq_id);
        }
        let is_full = self.running.len() >= self.config.max_batch_size as usize;
        if is_full && !self.yield_to(seq_id, Lack::Place) {
            return Err(Refusal::NoPlace);
        }
        self.take_in(seq_id, &need, now).ok_or(Refusal::NoBlocks)
    }

    fn need(&mut self, seq_id: SeqId) -> Need {
        let block_size = self.block_size();
        let Some(sequence) = self.queue.get_mut(seq_id) else {
            return Need { shared: Vec::new(), n_blocks: 0, cost: 0 };
        };
        let mut shared = Vec::new();
        let most = if self.config.prefix_caching { sequence.n_shareable_blocks(block_size) } else { 0 };
        for i in 0..most {
            let key = sequence.block_key(i, &self.config);
            let range = i * block_size..(i + 1) * block_size;
            let Some(block) = self.pool.find(&key, |ids| sequence.has_ids(range.clone(), ids)) else { break };
            shared.push(block);
        }
        let n_blocks = sequence.len().div_ceil(block_size);
        let n_in_use = shared.iter().filter(|&&block| self.pool.is_used(block)).count();
        Need { cost: n_blocks - n_in_use, n_blocks, shared }
    }

    /// Blocks that are missing for it and for what the running sequences may need next.
    fn n_lacking(&self, need: &Need) -> usize {
        let block_size = self.block_size();
        let watermark = self.running.values().filter(|running| running.can_grow(block_size)).count();
        (need.cost + watermark).saturating_sub(self.pool.n_available())
    }

    fn take_in(&mut self, seq_id: SeqId, need: &Need, now: Instant) -> Option<usize> {
        let blocks = self.pool.table(&need.shared, need.n_blocks)?;
        let Some(mut sequence) = self.queue.admit(seq_id) else {
            self.pool.release(blocks);
            return None;
        };
        let n_cached = need.shared.len() * self.block_size();
        sequence.admitted(n_cached, now, &mut self.counters);
        let running = Running::admit(sequence, blocks, n_cached, need.shared.len());
        let n_prefill = running.n_prefill_left();
        self.running.insert(seq_id, running);
        Some(n_prefill)
    }
}

impl Turn {
    fn subscribe(&mut self, n_prefill: usize, budget: usize) {
        self.charged += n_prefill as u64;
        self.n_subscribed += n_prefill.min((budget / BUDGET_PARTS).max(1));
    }
}
