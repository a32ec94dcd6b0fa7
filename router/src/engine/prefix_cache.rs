//! Which KV blocks hold which beginning of a sequence, so that another one need not compute it again.
//!
//! Called by `BlockPool` only, which counts who uses a block. A block is found by a key that names all
//! its K and V depend on: the tenant, the rotary base and every token up to its end. Token ids are
//! compared again on a hit. It must never hold a block that was not computed completely.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

use crate::request::Tenant;

/// Names a full block of a sequence: a digest chained over all blocks before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockKey([u8; 32]);

impl BlockKey {
    /// What the first block's key is chained to. Tenants never share a block; nor do prompts whose
    /// length gives them another rotary base (`ntk_doublings`).
    pub fn root(tenant: &Tenant, ntk_doublings: u32) -> Self {
        let digest = Sha256::new().chain_update(tenant.0).chain_update(ntk_doublings.to_le_bytes());
        Self(digest.finalize().into())
    }

    /// The key of the block with `ids` after this one.
    pub fn next(&self, ids: &[u32]) -> Self {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        Self(Sha256::new().chain_update(self.0).chain_update(bytes).finalize().into())
    }
}

/// How often a prompt's length was doubled past `ntk_seq_length`: Qwen v1's alpha is
/// `2^(doublings + 1) - 1` beyond it, and 1 within. 0 also where the model has no dynamic NTK.
pub fn ntk_doublings(prompt_len: usize, ntk_seq_length: u32) -> u32 {
    let Some(excess) = prompt_len.saturating_sub(1).checked_div(ntk_seq_length as usize) else { return 0 };
    usize::BITS - excess.leading_zeros()
}

#[derive(Debug)]
struct Entry {
    block: u32,
    ids: Box<[u32]>,
}

/// Full, computed blocks by key. Unreferenced ones wait in `evictable`, longest unused first.
#[derive(Debug, Default)]
pub struct PrefixCache {
    entries: HashMap<BlockKey, Entry>,
    keys: HashMap<u32, BlockKey>,
    evictable: BTreeMap<u64, u32>,
    /// Where in `evictable` an unreferenced block is.
    parked: HashMap<u32, u64>,
    clock: u64,
}

impl PrefixCache {
    /// The block with this key, if it really has these tokens.
    pub fn find(&self, key: &BlockKey, has_ids: impl Fn(&[u32]) -> bool) -> Option<u32> {
        self.entries.get(key).filter(|entry| has_ids(&entry.ids)).map(|entry| entry.block)
    }

    /// Adds a block that is in use; nothing happens when another one has the key already.
    pub fn insert(&mut self, key: BlockKey, ids: Vec<u32>, block: u32) {
        self.entries.entry(key).or_insert_with(|| {
            self.keys.insert(block, key);
            Entry { block, ids: ids.into() }
        });
    }

    pub fn holds(&self, block: u32) -> bool {
        self.keys.contains_key(&block)
    }

    /// Nobody uses the block any more: it may be evicted, after all that were parked before it.
    pub fn park(&mut self, block: u32) {
        self.clock += 1;
        self.evictable.insert(self.clock, block);
        self.parked.insert(block, self.clock);
    }

    /// The block is in use again.
    pub fn unpark(&mut self, block: u32) {
        if let Some(place) = self.parked.remove(&block) {
            self.evictable.remove(&place);
        }
    }

    /// Gives up the block that was unused the longest.
    pub fn evict(&mut self) -> Option<u32> {
        let (_, block) = self.evictable.pop_first()?;
        self.parked.remove(&block);
        if let Some(key) = self.keys.remove(&block) {
            self.entries.remove(&key);
        }
        Some(block)
    }

    #[cfg(test)]
    pub fn evictable_blocks(&self) -> impl Iterator<Item = u32> {
        self.evictable.values().copied()
    }

    pub fn n_evictable(&self) -> usize {
        self.evictable.len()
    }

    pub fn n_blocks(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doublings_follow_the_models_alpha() {
        // modeling_qwen.py: max(2^ceil(log2(L / seq_length) + 1) - 1, 1)
        for seq_length in [1u32, 16, 100, 2048] {
            for len in 1..=9 * seq_length as usize + 1 {
                let alpha =
                    (((len as f64 / f64::from(seq_length)).log2() + 1.0).ceil().exp2() - 1.0).max(1.0);
                let doublings = ntk_doublings(len, seq_length);
                let expected = if doublings == 0 { 1.0 } else { 2f64.powi(doublings as i32 + 1) - 1.0 };
                assert_eq!(alpha, expected, "{len} of {seq_length}");
            }
        }
        assert_eq!(ntk_doublings(100_000, 0), 0);
    }

    #[test]
    fn keys_differ_by_all_that_k_and_v_depend_on() {
        let (a, b) = (Tenant([1; 32]), Tenant([2; 32]));
        let roots = [BlockKey::root(&a, 0), BlockKey::root(&b, 0), BlockKey::root(&a, 1)];
        let seconds = roots.iter().flat_map(|root| [root.next(&[1, 2]), root.next(&[2, 1])]);
        let thirds = seconds.clone().map(|key| key.next(&[1, 2]));
        let all: std::collections::HashSet<_> = roots.iter().copied().chain(seconds).chain(thirds).collect();
        assert_eq!(all.len(), 3 + 6 + 6);
    }

    #[test]
    fn a_key_alone_is_no_hit() {
        let mut cache = PrefixCache::default();
        let key = BlockKey::root(&Tenant([0; 32]), 0).next(&[1, 2]);
        cache.insert(key, vec![1, 2], 7);
        cache.insert(key, vec![1, 2], 8);
        assert_eq!(cache.find(&key, |ids| ids == [1, 2]), Some(7));
        assert_eq!(cache.find(&key, |ids| ids == [1, 3]), None);
        assert!(cache.holds(7) && !cache.holds(8));
    }
}
