//! Random histories: whatever happens in whatever order, the engine's promises hold (`world`).

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::world::{LONGEST, Op, Wish, World};
use crate::engine::{Counters, EngineConfig};

fn wish() -> impl Strategy<Value = Wish> {
    let timeout = prop_oneof![9 => Just(None), 1 => (0u64..30).prop_map(Some)];
    let poison = prop_oneof![19 => Just(None), 1 => (1u32..30).prop_map(Some)];
    let constrained = prop::bool::weighted(0.3);
    let who = (any::<bool>(), 0u8..3, 0u32..4, constrained);
    (1u32..30, 1u32..10, who, timeout, poison).prop_map(
        |(n_prompt, max_new, (eos, tenant, family, constrained), timeout_ms, poison)| Wish {
            n_prompt,
            max_new,
            eos,
            tenant,
            family,
            timeout_ms,
            poison,
            constrained,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        16 => wish().prop_map(Op::Submit),
        32 => Just(Op::Plan),
        32 => prop_oneof![19 => Just(usize::MAX), 1 => 0usize..4].prop_map(|fail| Op::Reply { fail }),
        4 => any::<usize>().prop_map(Op::Cancel),
        1 => (0u32..10).prop_map(|spare_blocks| Op::Kill { spare_blocks }),
        2 => (0u64..20).prop_map(Op::Wait),
        12 => any::<usize>().prop_map(Op::Mask),
    ]
}

fn engine_config() -> impl Strategy<Value = EngineConfig> {
    // The longest request needs 29 + 9 - 1 positions: always within the pool.
    let sizes = (1u32..6, 1u32..20, 1u32..6, 0u32..20, 1u32..3);
    (sizes, any::<bool>(), prop_oneof![Just(0), 4u32..12]).prop_map(
        |((rows, prefill, block_size, spare, in_flight), prefix_caching, ntk_seq_length)| EngineConfig {
            max_batch_size: rows,
            max_batch_prefill_tokens: prefill,
            block_size,
            n_blocks: LONGEST.div_ceil(block_size) + spare,
            max_steps_in_flight: in_flight,
            prefix_caching,
            ntk_seq_length,
            max_total_tokens: LONGEST + 1,
        },
    )
}

/// Histories of this run: all of them in a release build, where they take seconds.
const N_HISTORIES: u32 = if cfg!(debug_assertions) { 1_000 } else { 12_000 };

#[test]
fn promises_hold() {
    let totals = RefCell::new(Counters::default());
    let history = (engine_config(), proptest::collection::vec(op(), 0..120));
    let config = ProptestConfig { source_file: Some(file!()), ..ProptestConfig::with_cases(N_HISTORIES) };
    let result = TestRunner::new(config).run(&history, |(config, ops)| {
        let mut world = World::new(config);
        ops.iter().for_each(|op| world.apply(op));
        let counters = world.finish();
        let totals = &mut *totals.borrow_mut();
        totals.prompt_tokens_cached += counters.prompt_tokens_cached;
        totals.preemptions += counters.preemptions;
        totals.quarantined += counters.quarantined;
        totals.replayed_tokens += counters.replayed_tokens;
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    let totals = totals.into_inner();
    let n = u64::from(N_HISTORIES);
    assert!(totals.prompt_tokens_cached > n, "the prefix cache was hardly used: {totals:?}");
    assert!(totals.preemptions > n / 10, "there was hardly a preemption: {totals:?}");
    assert!(totals.quarantined > n / 100, "hardly anyone was quarantined: {totals:?}");
    assert!(totals.replayed_tokens > n, "hardly anything was replayed: {totals:?}");
}
