//! Places for requests: how many may be queued or running (`--max-concurrent-requests`), by tenant, and when
//! to come back when there is none.
//!
//! `Ledger` decides, with the time as an argument; `Places` locks it and hands out guards. A tenant that
//! floods the server cannot keep out the others: one below its equal share is let in beyond the limit, of
//! which there can be as many again. A single tenant has the limit to itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::request::Tenant;

/// Weight of the newest request in the mean time that places are held.
const NEWEST: f64 = 0.1;
/// Bounds of Retry-After, seconds.
const SOONEST: f64 = 1.0;
const LATEST: f64 = 60.0;

/// No place is free; seconds after which one probably is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    pub retry_after: u64,
}

#[derive(Debug)]
struct Ledger {
    max: usize,
    n_taken: usize,
    /// Without those that have none.
    by_tenant: BTreeMap<Tenant, usize>,
    /// Seconds that a place is held, smoothed; `None` before the first was given back.
    mean_hold: Option<f64>,
}

impl Ledger {
    fn new(max: usize) -> Self {
        Self { max, n_taken: 0, by_tenant: BTreeMap::new(), mean_hold: None }
    }

    fn take(&mut self, tenant: Tenant, n_waiting: usize) -> Result<(), Full> {
        if !self.has_place_for(&tenant) {
            return Err(Full { retry_after: self.retry_after(n_waiting) });
        }
        self.n_taken += 1;
        *self.by_tenant.entry(tenant).or_default() += 1;
        Ok(())
    }

    fn has_place_for(&self, tenant: &Tenant) -> bool {
        let n_own = self.by_tenant.get(tenant).copied().unwrap_or(0);
        let n_tenants = self.by_tenant.len() + usize::from(n_own == 0);
        self.n_taken < self.max || n_own < self.max / n_tenants && self.n_taken < self.max.saturating_mul(2)
    }

    fn give_back(&mut self, tenant: &Tenant, held: Duration) {
        self.n_taken -= 1;
        if let Some(n) = self.by_tenant.get_mut(tenant) {
            *n -= 1;
            if *n == 0 {
                self.by_tenant.remove(tenant);
            }
        }
        let held = held.as_secs_f64();
        self.mean_hold = Some(self.mean_hold.map_or(held, |mean| mean + NEWEST * (held - mean)));
    }

    /// Until as many places are given back as requests wait already, and one more: by Little's law
    /// `n_taken / mean_hold` are given back a second.
    fn retry_after(&self, n_waiting: usize) -> u64 {
        let per_place = self.mean_hold.unwrap_or(0.0) / self.n_taken.max(1) as f64;
        ((n_waiting + 1) as f64 * per_place).ceil().clamp(SOONEST, LATEST) as u64
    }
}

/// The server's places; cheap to clone.
#[derive(Debug, Clone)]
pub struct Places(Arc<Mutex<Ledger>>);

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    tenant: Tenant,
    taken: Instant,
}

impl Places {
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Mutex::new(Ledger::new(max))))
    }

    /// A place for one request. `n_waiting` requests are queued already.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(&self, tenant: Tenant, n_waiting: usize) -> Result<Place, Full> {
        self.ledger().take(tenant, n_waiting)?;
        Ok(Place { places: self.clone(), tenant, taken: Instant::now() })
    }

    /// No operation leaves the ledger half changed, so a panic elsewhere does not spoil it.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.ledger().give_back(&self.tenant, self.taken.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Tenant = Tenant([1; 32]);
    const B: Tenant = Tenant([2; 32]);
    const C: Tenant = Tenant([3; 32]);

    fn take(ledger: &mut Ledger, tenant: Tenant, n: usize) -> usize {
        (0..n).filter(|_| ledger.take(tenant, 0).is_ok()).count()
    }

    #[test]
    fn one_tenant_has_the_limit_and_a_flood_keeps_nobody_out() {
        let mut ledger = Ledger::new(12);
        assert_eq!(take(&mut ledger, A, 100), 12);
        assert_eq!(take(&mut ledger, B, 100), 6, "half of the limit");
        assert_eq!(take(&mut ledger, C, 100), 4, "a third of it");
        assert_eq!(take(&mut ledger, A, 1), 0);
        for i in 10..100 {
            take(&mut ledger, Tenant([i; 32]), 100);
        }
        assert_eq!(ledger.n_taken, 24, "never more than twice the limit");
    }

    #[test]
    fn places_come_back() {
        let places = Places::new(2);
        let first = places.take(A, 0).expect("free");
        let second = places.take(A, 0).expect("free");
        assert!(places.take(A, 0).is_err());
        drop(first);
        let third = places.take(A, 0).expect("free again");
        drop((second, third));
        let ledger = places.ledger();
        assert_eq!((ledger.n_taken, ledger.by_tenant.len()), (0, 0));
    }

    #[test]
    fn retry_after_follows_the_queue_and_the_rate() {
        let mut ledger = Ledger::new(10);
        take(&mut ledger, A, 10);
        assert_eq!(ledger.take(A, 0), Err(Full { retry_after: 1 }), "nothing is known yet");
        for _ in 0..200 {
            ledger.give_back(&A, Duration::from_secs(20));
            take(&mut ledger, A, 1);
        }
        // Ten places held for 20 s each: one comes back every 2 s.
        for (n_waiting, retry_after) in [(0, 2), (1, 4), (4, 10), (1000, 60)] {
            assert_eq!(ledger.take(A, n_waiting), Err(Full { retry_after }), "{n_waiting} waiting");
        }
    }
}
