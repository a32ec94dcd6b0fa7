//! The KV blocks of the shards: which are free, which are cached, which sequences use which.
//!
//! Called by the scheduler only. A block is written by the one sequence that took it; others may share it
//! once it is full and computed. A table can only come from `table` and must go back through `release`.

use super::prefix_cache::{BlockKey, PrefixCache};

/// The blocks one sequence uses, in the order of the positions they hold.
#[derive(Debug)]
#[must_use = "blocks that are not released are lost"]
pub struct BlockTable(Vec<u32>);

impl BlockTable {
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// All blocks of the plan, `0..n_blocks`. Each is free, in use, or cached and unused (evictable).
#[derive(Debug)]
pub struct BlockPool {
    /// Used as a stack: the block freed last is reused first, while it is warm in a cache.
    free: Vec<u32>,
    /// Tables that hold each block.
    n_users: Vec<u32>,
    cache: PrefixCache,
}

impl BlockPool {
    pub fn new(n_blocks: u32) -> Self {
        Self {
            free: (0..n_blocks).rev().collect(),
            n_users: vec![0; n_blocks as usize],
            cache: PrefixCache::default(),
        }
    }

    /// Blocks that could be taken now.
    pub fn n_available(&self) -> usize {
        self.free.len() + self.cache.n_evictable()
    }

    /// Blocks in use.
    pub fn n_used(&self) -> usize {
        self.n_users.len() - self.n_available()
    }

    /// Blocks that hold a cached beginning, used or not.
    pub fn n_cached(&self) -> usize {
        self.cache.n_blocks()
    }

    /// The block with this key, if it really has these tokens. See `PrefixCache::find`.
    pub fn find(&self, key: &BlockKey, has_ids: impl Fn(&[u32]) -> bool) -> Option<u32> {
        self.cache.find(key, has_ids)
    }

    pub fn is_used(&self, block: u32) -> bool {
        self.n_users[block as usize] > 0
    }

    /// A table of `shared` blocks, which `find` gave since the pool changed last, and others up to
    /// `n_blocks`; none when there are too few.
    pub fn table(&mut self, shared: &[u32], n_blocks: usize) -> Option<BlockTable> {
        let n_parked = shared.iter().filter(|&&block| !self.is_used(block)).count();
        let n_new = n_blocks.saturating_sub(shared.len());
        if n_parked + n_new > self.n_available() {
            return None;
        }
        for &block in shared {
            self.cache.unpark(block);
            self.n_users[block as usize] += 1;
        }
        let mut table = BlockTable(shared.to_vec());
        for _ in 0..n_new {
            self.grow(&mut table);
        }
        Some(table)
    }

    /// Adds a block to the table; false when there is none.
    pub fn grow(&mut self, table: &mut BlockTable) -> bool {
        let Some(block) = self.free.pop().or_else(|| self.cache.evict()) else { return false };
        self.n_users[block as usize] = 1;
        table.0.push(block);
        true
    }

    /// Blocks that would become available if the table were released.
    pub fn n_freed_by(&self, table: &BlockTable) -> usize {
        table.0.iter().filter(|&&block| self.n_users[block as usize] == 1).count()
    }

    /// Lets others find a block that is in use, full and computed.
    pub fn publish(&mut self, block: u32, key: BlockKey, ids: Vec<u32>) {
        self.cache.insert(key, ids, block);
    }

    /// Takes a table back. Its last blocks are the first to be evicted: without those before them they
    /// would be of no use.
    pub fn release(&mut self, table: BlockTable) {
        for block in table.0.into_iter().rev() {
            self.n_users[block as usize] -= 1;
            match self.is_used(block) {
                true => {}
                false if self.cache.holds(block) => self.cache.park(block),
                false => self.free.push(block),
            }
        }
    }
}

#[cfg(test)]
#[path = "tests/block_pool.rs"]
mod tests;
