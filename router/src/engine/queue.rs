//! Waiting sequences, by tenant, and how much every tenant has been served. Called by the scheduler.
//!
//! Tenants share by a virtual token counter (Sheng et al., "Fairness in Serving Large Language Models",
//! OSDI 2024): each input token of a step is charged to its tenant, and the one charged least comes first.
//! Who was idle gets no credit for it beyond `burst` tokens, so nobody can save up a monopoly.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::sequence::{SeqId, Sequence};
use crate::request::Tenant;

/// Idle tenants that are remembered. Names of tenants are the clients' to choose, and planning looks at all of them.
pub(super) const MAX_IDLE: usize = 1024;

/// One tenant's share.
#[derive(Debug, Default)]
pub struct Lane {
    /// Input tokens computed, on the common scale of all tenants.
    served: u64,
    /// Seniors first; one that was preempted is back at its old place.
    waiting: BTreeMap<SeqId, Sequence>,
    n_running: usize,
}

impl Lane {
    fn is_active(&self) -> bool {
        !self.waiting.is_empty() || self.n_running > 0
    }

    pub fn served(&self) -> u64 {
        self.served
    }

    /// Those that wait, from `after` on.
    pub fn waiting_after(&self, after: Bound<SeqId>) -> impl Iterator<Item = &Sequence> {
        self.waiting.range((after, Bound::Unbounded)).map(|(_, sequence)| sequence)
    }
}

#[derive(Debug)]
pub struct Queue {
    /// Active tenants, and idle ones whose counter still tells them from newcomers.
    lanes: BTreeMap<Tenant, Lane>,
    /// Whose each waiting sequence is.
    tenants: BTreeMap<SeqId, Tenant>,
    burst: u64,
}

impl Queue {
    /// A tenant that comes back may be ahead of the others by at most `burst` tokens.
    pub fn new(burst: u64) -> Self {
        Self { lanes: BTreeMap::new(), tenants: BTreeMap::new(), burst }
    }

    pub fn push(&mut self, sequence: Sequence) {
        let tenant = sequence.tenant();
        self.tenants.insert(sequence.seq_id, tenant);
        self.active_lane(tenant).waiting.insert(sequence.seq_id, sequence);
    }

    pub fn get_mut(&mut self, seq_id: SeqId) -> Option<&mut Sequence> {
        let tenant = self.tenants.get(&seq_id)?;
        self.lanes.get_mut(tenant)?.waiting.get_mut(&seq_id)
    }

    pub fn tenant_of(&self, seq_id: SeqId) -> Option<Tenant> {
        self.tenants.get(&seq_id).copied()
    }

    /// Takes a sequence out wherever it stands.
    pub fn remove(&mut self, seq_id: SeqId) -> Option<Sequence> {
        let tenant = self.tenants.remove(&seq_id)?;
        let sequence = self.lanes.get_mut(&tenant)?.waiting.remove(&seq_id);
        self.retire(tenant);
        sequence
    }

    /// Takes out every sequence, seniors first.
    pub fn drain(&mut self) -> Vec<Sequence> {
        let all: Vec<SeqId> = self.tenants.keys().copied().collect();
        all.into_iter().filter_map(|seq_id| self.remove(seq_id)).collect()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sequence> {
        self.lanes.values_mut().flat_map(|lane| lane.waiting.values_mut())
    }

    pub fn lanes(&self) -> impl Iterator<Item = (&Tenant, &Lane)> {
        self.lanes.iter()
    }

    pub fn lane(&self, tenant: &Tenant) -> Option<&Lane> {
        self.lanes.get(tenant)
    }

    /// Takes out a sequence that runs from now on.
    pub fn admit(&mut self, seq_id: SeqId) -> Option<Sequence> {
        let tenant = *self.tenants.get(&seq_id)?;
        self.active_lane(tenant).n_running += 1;
        self.remove(seq_id)
    }

    /// Takes back a sequence that was running.
    pub fn push_back(&mut self, sequence: Sequence) {
        let tenant = sequence.tenant();
        self.push(sequence);
        self.stopped(tenant);
    }

    /// A sequence of the tenant has ended while it ran.
    pub fn stopped(&mut self, tenant: Tenant) {
        if let Some(lane) = self.lanes.get_mut(&tenant) {
            lane.n_running -= 1;
        }
        self.retire(tenant);
    }

    /// Whether any sequence of another tenant runs.
    pub fn others_run(&self, tenant: &Tenant) -> bool {
        self.lanes.iter().any(|(other, lane)| other != tenant && lane.n_running > 0)
    }

    /// A step computes `n_tokens` for the tenant.
    pub fn charge(&mut self, tenant: &Tenant, n_tokens: usize) {
        if let Some(lane) = self.lanes.get_mut(tenant) {
            lane.served += n_tokens as u64;
        }
    }

    pub fn len(&self) -> usize {
        self.tenants.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    fn least_served(&self) -> Option<u64> {
        self.lanes.values().filter(|lane| lane.is_active()).map(|lane| lane.served).min()
    }

    fn active_lane(&mut self, tenant: Tenant) -> &mut Lane {
        let floor = match self.lanes.get(&tenant) {
            Some(lane) if lane.is_active() => 0,
            _ => self.least_served().map_or(0, |least| least.saturating_sub(self.burst)),
        };
        let lane = self.lanes.entry(tenant).or_default();
        lane.served = lane.served.max(floor);
        lane
    }

    /// Forgets idle tenants that would come back like newcomers.
    fn retire(&mut self, tenant: Tenant) {
        if self.lanes.get(&tenant).is_some_and(Lane::is_active) {
            return;
        }
        match self.least_served() {
            None => self.lanes.clear(),
            Some(least) => {
                let burst = self.burst;
                self.lanes.retain(|_, lane| lane.is_active() || lane.served + burst > least);
                self.forget_one_too_many();
            }
        }
    }

    /// The one that loses least by coming back as a newcomer.
    fn forget_one_too_many(&mut self) {
        let idle = || self.lanes.iter().filter(|(_, lane)| !lane.is_active());
        if idle().count() > MAX_IDLE
            && let Some(least) = idle().min_by_key(|(_, lane)| lane.served).map(|(tenant, _)| *tenant)
        {
            self.lanes.remove(&least);
        }
    }
}
