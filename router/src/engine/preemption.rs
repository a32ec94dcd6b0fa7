//! Whose blocks are taken when there are too few: part of the scheduler.
//!
//! A sequence that is preempted keeps its tokens and its seniority and is replayed later; nothing of it is
//! visible but time. Every request still ends: blocks run out only when some sequence has crossed into a
//! block it never had, so tokens were generated since the last time; and `yield_to` takes only from
//! sequences that have generated a token since they were admitted.

use std::collections::BTreeMap;

use super::running::Running;
use super::scheduler::Scheduler;
use super::sequence::SeqId;
use crate::request::Tenant;

/// What one tenant's running sequences hold.
#[derive(Debug, Clone, Copy, Default)]
struct Holding {
    n_blocks: usize,
    n_sequences: usize,
    youngest: Option<SeqId>,
}

/// What a waiting sequence lacks.
#[derive(Debug, Clone, Copy)]
pub enum Lack {
    /// A place in the batch.
    Place,
    /// This many blocks, to hold `of` in all.
    Blocks { n: usize, of: usize },
}

impl Scheduler {
    /// Gives every running sequence the block that its next token needs, taking blocks from others while
    /// there are too few. True when anyone was preempted.
    pub fn make_room(&mut self) -> bool {
        let block_size = self.block_size();
        let n_before = self.running.len();
        while self.running.values().filter(|running| running.needs_block(block_size)).count()
            > self.pool.n_available()
            && let Some(victim) = self.youngest_of_heaviest()
        {
            self.preempt(victim);
        }
        for running in self.running.values_mut().filter(|running| running.needs_block(block_size)) {
            self.pool.grow(&mut running.blocks);
        }
        self.running.len() < n_before
    }

    /// The youngest sequence of the tenant that holds the most blocks.
    fn youngest_of_heaviest(&self) -> Option<SeqId> {
        self.holdings().into_values().max_by_key(|holding| (holding.n_blocks, holding.youngest))?.youngest
    }

    fn holdings(&self) -> BTreeMap<Tenant, Holding> {
        let mut holdings = BTreeMap::<Tenant, Holding>::new();
        for (&seq_id, running) in &self.running {
            let holding = holdings.entry(running.sequence.tenant()).or_default();
            holding.n_blocks += running.blocks.len();
            holding.n_sequences += 1;
            holding.youngest = Some(seq_id);
        }
        holdings
    }

    /// Takes what a waiting sequence lacks from the tenant that holds the most, if even afterwards that
    /// one holds no less than the sequence's. False, with nothing changed, when that cannot be.
    pub fn yield_to(&mut self, seq_id: SeqId, lack: Lack) -> bool {
        let Some(tenant) = self.queue.tenant_of(seq_id) else { return false };
        if !self.queue.others_run(&tenant) {
            return false;
        }
        let mut holdings = self.holdings();
        let own = holdings.remove(&tenant).unwrap_or_default();
        let size = |holding: &Holding| match lack {
            Lack::Place => holding.n_sequences,
            Lack::Blocks { .. } => holding.n_blocks,
        };
        let heaviest = holdings.into_iter().max_by_key(|(_, holding)| (size(holding), holding.youngest));
        let Some((heaviest, holding)) = heaviest else { return false };
        let (wanted, own_after) = match lack {
            Lack::Place => (1, own.n_sequences + 1),
            Lack::Blocks { n, of } => (n, own.n_blocks + of),
        };
        let spare = size(&holding).saturating_sub(own_after);
        match self.victims(&heaviest, lack, wanted, spare) {
            Some(victims) => {
                victims.into_iter().for_each(|victim| self.preempt(victim));
                true
            }
            None => false,
        }
    }

    /// The youngest sequences of a tenant that give `wanted` and cost it at most `spare`.
    fn victims(&self, tenant: &Tenant, lack: Lack, wanted: usize, spare: usize) -> Option<Vec<SeqId>> {
        let (mut gained, mut lost) = (0, 0);
        let mut victims = Vec::new();
        let may_yield = |running: &&Running| running.sequence.tenant() == *tenant && running.has_sampled;
        for running in self.running.values().rev().filter(may_yield) {
            victims.push(running.sequence.seq_id);
            match lack {
                Lack::Place => (gained, lost) = (gained + 1, lost + 1),
                Lack::Blocks { .. } => {
                    gained += self.pool.n_freed_by(&running.blocks);
                    lost += running.blocks.len();
                }
            }
            if lost > spare {
                return None;
            }
            if gained >= wanted {
                return Some(victims);
            }
        }
        None
    }
}
