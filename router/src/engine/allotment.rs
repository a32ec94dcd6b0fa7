//! How a step's prompt budget is shared out among the sequences that prefill: part of the scheduler.
//!
//! Tenants take turns, the least served first. Within a tenant the senior sequence comes first, but as long
//! as others could be done with half of the budget it leaves them that half, shortest first: so small
//! prompts do not wait for a huge one, which takes at most twice its time however many of them come by.

use std::collections::BTreeMap;

use super::scheduler::Scheduler;
use super::sequence::SeqId;
use crate::request::Tenant;

/// A sequence's turn, and how many tokens it may take in it.
struct Share {
    seq_id: SeqId,
    most: usize,
}

impl Scheduler {
    /// Gives sequences that prefill their parts of the next step. All parts together stay within
    /// `max_batch_prefill_tokens`: what is left of a longer prompt goes on in the step after.
    pub fn allot(&mut self) {
        let mut budget = self.config.max_batch_prefill_tokens as usize;
        let mut shares = self.shares();
        // Charged when the rows are made; until then the counters are this step's own.
        let mut served = BTreeMap::<Tenant, u64>::new();
        for tenant in shares.keys() {
            served.insert(*tenant, self.queue.lane(tenant).map_or(0, |lane| lane.served()));
        }
        while budget > 0
            && let Some(tenant) = next_tenant(&shares, &served)
        {
            let Some(share) = shares.get_mut(&tenant).and_then(Vec::pop) else { break };
            let Some(running) = self.running.get_mut(&share.seq_id) else { continue };
            let n = running.n_prefill_left().min(share.most).min(budget);
            running.allot(n);
            budget -= n;
            *served.entry(tenant).or_default() += n as u64;
        }
    }

    /// Each tenant's turns, the next one last.
    fn shares(&self) -> BTreeMap<Tenant, Vec<Share>> {
        let mut prefilling = BTreeMap::<Tenant, Vec<(usize, SeqId)>>::new();
        for (&seq_id, running) in &self.running {
            let n_left = running.n_prefill_left();
            if n_left > 0 {
                prefilling.entry(running.sequence.tenant()).or_default().push((n_left, seq_id));
            }
        }
        let half = (self.config.max_batch_prefill_tokens as usize / 2).max(1);
        prefilling.into_iter().map(|(tenant, all)| (tenant, shares_of(&all, half))).collect()
    }
}

/// The turns of one tenant's sequences, given the tokens each has left, seniors first.
fn shares_of(all: &[(usize, SeqId)], half: usize) -> Vec<Share> {
    let Some((&(_, senior), juniors)) = all.split_first() else { return Vec::new() };
    let mut short: Vec<_> = juniors.iter().copied().filter(|(n_left, _)| *n_left <= half).collect();
    short.sort_unstable();
    let long = juniors.iter().filter(|(n_left, _)| *n_left > half);
    let whole = |seq_id: SeqId| Share { seq_id, most: usize::MAX };
    let mut shares: Vec<Share> = long.rev().map(|&(_, seq_id)| whole(seq_id)).collect();
    shares.push(whole(senior));
    if !short.is_empty() {
        shares.extend(short.into_iter().rev().map(|(_, seq_id)| whole(seq_id)));
        shares.push(Share { seq_id: senior, most: half });
    }
    shares
}

/// The least served tenant that has a turn left.
fn next_tenant(shares: &BTreeMap<Tenant, Vec<Share>>, served: &BTreeMap<Tenant, u64>) -> Option<Tenant> {
    let open = shares.iter().filter(|(_, shares)| !shares.is_empty());
    open.map(|(tenant, _)| *tenant).min_by_key(|tenant| served.get(tenant).copied())
}
