//! The KV blocks of the shards: which are free, which sequence owns which.
//!
//! Called by the scheduler only. A block belongs to at most one `BlockTable` at a time; a table can
//! only come from `reserve` and must go back through `release`.

/// The blocks one sequence owns, in the order of the positions they hold.
#[derive(Debug)]
#[must_use = "blocks that are not released are lost"]
pub struct BlockTable(Vec<u32>);

impl BlockTable {
    pub fn as_slice(&self) -> &[u32] {
        &self.0
    }
}

/// All blocks of the plan, `0..n_blocks`.
#[derive(Debug)]
pub struct BlockPool {
    /// Used as a stack: the block freed last is reused first, while it is warm in a cache.
    free: Vec<u32>,
    n_blocks: u32,
}

impl BlockPool {
    pub fn new(n_blocks: u32) -> Self {
        Self { free: (0..n_blocks).rev().collect(), n_blocks }
    }

    /// Takes `n` blocks, or none when fewer are free.
    pub fn reserve(&mut self, n: usize) -> Option<BlockTable> {
        let rest = self.free.len().checked_sub(n)?;
        let mut blocks = self.free.split_off(rest);
        blocks.reverse();
        Some(BlockTable(blocks))
    }

    pub fn release(&mut self, table: BlockTable) {
        self.free.extend(table.0.into_iter().rev());
    }

    pub fn n_reserved(&self) -> u32 {
        self.n_blocks - self.free.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserves_all_or_nothing_and_takes_back() {
        let mut pool = BlockPool::new(4);
        let first = pool.reserve(3).expect("4 free");
        assert_eq!(first.as_slice(), [0, 1, 2]);
        assert!(pool.reserve(2).is_none());
        assert_eq!(pool.n_reserved(), 3);
        let second = pool.reserve(1).expect("1 free");
        assert_eq!(second.as_slice(), [3]);
        pool.release(first);
        pool.release(second);
        assert_eq!(pool.n_reserved(), 0);
        let mut all = pool.reserve(4).expect("all free").as_slice().to_vec();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3]);
    }
}
