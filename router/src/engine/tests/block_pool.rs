//! The pool against a naive model, which keeps who holds what in plain lists.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::request::Tenant;

impl BlockPool {
    /// Every block is in exactly one of three places, and used as often as `tables` say.
    pub(in crate::engine) fn assert_sound<'a>(&self, tables: impl Iterator<Item = &'a BlockTable>) {
        let mut n_users = vec![0; self.n_users.len()];
        for block in tables.flat_map(BlockTable::as_slice) {
            n_users[*block as usize] += 1;
        }
        assert_eq!(self.n_users, n_users, "uses are counted wrongly");
        let unused = self.free.iter().copied().chain(self.cache.evictable_blocks());
        let mut unused: Vec<u32> = unused.collect();
        unused.sort_unstable();
        let expected: Vec<u32> = (0..n_users.len() as u32).filter(|&b| n_users[b as usize] == 0).collect();
        assert_eq!(unused, expected, "blocks are lost, or free twice");
        assert!(self.free.iter().all(|&block| !self.cache.holds(block)), "a free block can be found");
    }
}

#[test]
fn takes_all_or_nothing_and_gives_back() {
    let mut pool = BlockPool::new(4);
    let first = pool.table(&[], 3).expect("4 free");
    assert_eq!(first.as_slice(), [0, 1, 2]);
    assert!(pool.table(&[], 2).is_none());
    assert_eq!(pool.n_used(), 3);
    let second = pool.table(&[], 1).expect("1 free");
    assert_eq!(second.as_slice(), [3]);
    pool.release(first);
    pool.release(second);
    assert_eq!(pool.n_used(), 0);
    let mut all = pool.table(&[], 4).expect("all free").as_slice().to_vec();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3]);
}

/// Contents are chains over two letters, so that histories meet the same beginnings often.
type Content = Vec<u32>;

fn key(content: &[u32]) -> BlockKey {
    content.iter().fold(BlockKey::root(&Tenant([0; 32]), 0), |key, id| key.next(&[*id]))
}

#[derive(Debug, Clone)]
enum Op {
    /// A table for a sequence with this content, sharing what is found.
    Take(Content),
    /// Of the table with this index modulo their number.
    Grow(usize),
    Publish(usize),
    Release(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => proptest::collection::vec(0u32..2, 1..6).prop_map(Op::Take),
        1 => any::<usize>().prop_map(Op::Grow),
        2 => any::<usize>().prop_map(Op::Publish),
        3 => any::<usize>().prop_map(Op::Release),
    ]
}

/// What the pool should know: who has which blocks, what can be found, and what nobody used for how long.
#[derive(Default)]
struct Model {
    held: Vec<(BlockTable, Content)>,
    found: BTreeMap<Content, u32>,
    /// Cached and unused, longest first.
    parked: Vec<u32>,
    n_blocks: usize,
}

impl Model {
    fn is_held(&self, block: u32) -> bool {
        self.held.iter().any(|(table, _)| table.as_slice().contains(&block))
    }

    fn n_available(&self) -> usize {
        (0..self.n_blocks as u32).filter(|&block| !self.is_held(block)).count()
    }

    fn beginning(&self, content: &[u32]) -> Vec<u32> {
        (1..=content.len()).map_while(|n| self.found.get(&content[..n]).copied()).collect()
    }

    /// Blocks that a table got anew: free ones, or the longest parked.
    fn taken(&mut self, blocks: &[u32], n_free: &mut usize) {
        for block in blocks {
            match *n_free {
                0 => {
                    assert_eq!(self.parked.remove(0), *block, "not the one unused longest");
                    self.found.retain(|_, cached| cached != block);
                }
                _ => *n_free -= 1,
            }
        }
    }
}

fn run(n_blocks: u32, ops: Vec<Op>) {
    let mut pool = BlockPool::new(n_blocks);
    let mut model = Model { n_blocks: n_blocks as usize, ..Model::default() };
    for op in ops {
        apply(&mut pool, &mut model, op);
        assert_eq!(pool.n_available(), model.n_available());
        pool.assert_sound(model.held.iter().map(|(table, _)| table));
        for (content, block) in &model.found {
            assert_eq!(pool.find(&key(content), |ids| ids == [content[content.len() - 1]]), Some(*block));
        }
        assert_eq!(pool.n_cached(), model.found.len());
    }
}

fn apply(pool: &mut BlockPool, model: &mut Model, op: Op) {
    let index = |i: usize| i.checked_rem(model.held.len());
    let mut n_free = model.n_available() - model.parked.len();
    match op {
        Op::Take(content) => {
            let shared = model.beginning(&content);
            let n_parked = shared.iter().filter(|block| !model.is_held(**block)).count();
            let fits = n_parked + content.len() - shared.len() <= model.n_available();
            let table = pool.table(&shared, content.len());
            assert_eq!(table.is_some(), fits);
            let Some(table) = table else { return };
            assert_eq!(&table.as_slice()[..shared.len()], shared);
            model.parked.retain(|block| !shared.contains(block));
            model.taken(&table.as_slice()[shared.len()..], &mut n_free);
            model.held.push((table, content));
        }
        Op::Grow(i) => {
            let (n_available, Some(i)) = (model.n_available(), index(i)) else { return };
            let (table, _) = &mut model.held[i];
            assert_eq!(pool.grow(table), n_available > 0);
            if n_available > 0 {
                let block = table.0[table.len() - 1];
                model.held[i].1.push(1);
                model.taken(&[block], &mut n_free);
            }
        }
        Op::Publish(i) => {
            let Some(i) = index(i) else { return };
            let (table, content) = &model.held[i];
            for (n, &block) in (1..).zip(table.as_slice()) {
                pool.publish(block, key(&content[..n]), vec![content[n - 1]]);
                if !model.found.values().any(|cached| *cached == block) {
                    model.found.entry(content[..n].to_vec()).or_insert(block);
                }
            }
        }
        Op::Release(i) => {
            let Some(i) = index(i) else { return };
            let (table, _) = model.held.remove(i);
            let blocks = table.as_slice().to_vec();
            pool.release(table);
            let cached = |block: &&u32| model.found.values().any(|cached| cached == *block);
            let parked = blocks.iter().rev().filter(|block| !model.is_held(**block)).filter(cached);
            model.parked.extend(parked.copied().collect::<Vec<_>>());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 500 } else { 10_000 }))]

    #[test]
    fn agrees_with_the_model(n_blocks in 1u32..12, ops in proptest::collection::vec(op(), 0..60)) {
        run(n_blocks, ops);
    }
}
