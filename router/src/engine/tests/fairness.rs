//! How tenants share the machine, and small prompts with huge ones.

use std::time::Instant;

use proptest::prelude::*;

use super::play::{Play, of};
use crate::engine::queue::{MAX_IDLE, Queue};
use crate::engine::sequence::Sequence;
use crate::engine::testing::{answer, config, request};
use crate::engine::{EngineConfig, SeqId};
use crate::request::{Caller, GenerationEvent, Tenant, ValidRequest};

#[test]
fn small_prompts_go_beside_a_huge_one() {
    let mut play = Play::new(config());
    play.ask(0, &[(60, 1), (3, 1), (4, 1), (6, 1)]);
    // Half of the budget of 16, and what the small ones leave.
    assert_eq!(play.step(), [(1, 0, 8, false), (2, 0, 3, true), (3, 0, 4, true), (4, 0, 1, false)]);
    assert_eq!(play.step(), [(1, 8, 11, false), (4, 1, 5, true)]);
    assert_eq!(play.step(), [(1, 19, 16, false)]);
}

#[test]
fn equals_come_one_after_the_other() {
    let mut play = Play::new(config());
    play.ask(0, &[(30, 1), (30, 1)]);
    assert_eq!(play.step(), [(1, 0, 16, false)]);
    assert_eq!(play.step(), [(1, 16, 14, true), (2, 0, 2, false)]);
}

#[test]
fn a_tenant_that_was_idle_has_its_prompt_computed_at_once() {
    let mut play = Play::new(EngineConfig { n_blocks: 256, ..config() });
    play.ask(1, &[(40, 1); 12]);
    for _ in 0..6 {
        play.step();
    }
    play.ask(2, &[(40, 1)]);
    let mut n_steps = 0;
    while !play.got.contains(&(13, 7)) {
        play.step();
        n_steps += 1;
    }
    assert_eq!(n_steps, 3, "40 tokens, 16 a step");
}

/// Runs three tenants that always have something waiting, each with requests of its own lengths; returns
/// how far apart they were served at most.
fn spread(config: EngineConfig, lengths: &[Vec<(u32, u32)>; 3], n_steps: usize) -> u64 {
    let mut play = Play::new(config);
    let mut served = [0u64; 3];
    let mut n_open = [0; 3];
    let mut owner = vec![0];
    let mut spread = 0;
    for _ in 0..n_steps {
        for (tenant, lengths) in lengths.iter().enumerate() {
            while n_open[tenant] < config.max_batch_size + 2 {
                let (n_prompt, max_new) = lengths[owner.len() % lengths.len()];
                play.submit(of(tenant as u8, request(n_prompt, max_new, false)));
                owner.push(tenant);
                n_open[tenant] += 1;
            }
        }
        let step = play.plan();
        for row in &step.rows {
            served[owner[row.seq_id.0 as usize]] += row.input.n_tokens() as u64;
        }
        for (SeqId(id), event) in play.engine.apply(answer(&step, 7), play.now).expect("complete") {
            let ended = matches!(event, GenerationEvent::Token { finish: Some(_), .. });
            n_open[owner[id as usize]] -= u32::from(ended);
        }
        spread = spread.max(served.iter().max().unwrap_or(&0) - served.iter().min().unwrap_or(&0));
    }
    spread
}

fn lengths() -> impl Strategy<Value = Vec<(u32, u32)>> {
    // Some tenants ask for much at once, some for little.
    (1u32..30, 1u32..10)
        .prop_flat_map(|(n_prompt, max_new)| proptest::collection::vec((1..=n_prompt, 1..=max_new), 1..5))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 40 } else { 400 }))]

    /// Tenants that always want more get the same, up to a bound that time does not move: what is in work
    /// at once.
    #[test]
    fn backlogged_tenants_are_served_alike(
        lengths in [lengths(), lengths(), lengths()],
        rows in 2u32..9,
        prefill in 4u32..20,
        n_blocks in 10u32..60,
    ) {
        let config = EngineConfig {
            max_batch_size: rows,
            max_batch_prefill_tokens: prefill,
            n_blocks,
            max_total_tokens: 40,
            ..config()
        };
        let in_work = u64::from(rows) * 40 + u64::from(prefill);
        prop_assert!(spread(config, &lengths, 600) <= in_work);
    }
}

/// A client may name a tenant for each of its requests. While somebody waits who is served nothing, no counter
/// says that they can be forgotten.
#[test]
fn idle_tenants_are_remembered_up_to_a_number() {
    let mut queue = Queue::new(10);
    let now = Instant::now();
    let push = |queue: &mut Queue, id: u64| {
        let mut name = [0; 32];
        name[..8].copy_from_slice(&id.to_le_bytes());
        let caller = Caller { tenant: Tenant(name), deadline: None };
        queue.push(Sequence::new(SeqId(id), ValidRequest { caller, ..request(1, 1, false) }, now));
        caller.tenant
    };
    let waits = push(&mut queue, 1);
    for id in 2..3000 {
        let tenant = push(&mut queue, id);
        queue.charge(&tenant, 1 + id as usize);
        queue.remove(SeqId(id));
    }
    assert_eq!(queue.lanes().count(), MAX_IDLE + 1);
    let kept = queue.lanes().map(|(tenant, _)| u64::from_le_bytes(tenant.0[..8].try_into().unwrap()));
    assert!(
        kept.filter(|id| *id != 1).all(|id| id >= 3000 - MAX_IDLE as u64),
        "those served least are forgotten"
    );
    assert!(queue.lane(&waits).is_some());
}
