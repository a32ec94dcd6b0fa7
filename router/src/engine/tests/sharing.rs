//! The prefix cache by example: what is taken from it, and what never is.

use super::play::{Play, of};
use crate::engine::testing::{answer, config, request, rows};
use crate::engine::{EngineConfig, RowOutcome, SeqId};
use crate::request::ValidRequest;

/// Blocks of 4, a budget of 16 prompt tokens.
fn cached() -> EngineConfig {
    EngineConfig { prefix_caching: true, ..config() }
}

fn prompt(ids: &[u32], max_new: u32) -> ValidRequest {
    ValidRequest { prompt_ids: ids.into(), ..request(1, max_new, false) }
}

/// Runs a first request to its end, then says from which position the second one is computed.
fn computed_from(config: EngineConfig, first: ValidRequest, second: ValidRequest) -> u32 {
    let mut play = Play::new(config);
    play.submit(first);
    while !play.engine.is_idle() {
        play.step();
    }
    let second = play.submit(second);
    let step = play.plan();
    let row = step.rows.iter().find(|row| row.seq_id == second).expect("it fits");
    let start = row.start.as_ref().expect("its first row");
    assert_eq!(start.cached_ids.len() as u32, row.position);
    row.position
}

#[test]
fn the_second_turn_computes_only_what_is_new() {
    let first: Vec<u32> = (1..=10).collect();
    // Seven tokens 7 are generated; all but the last have been inputs: 16 positions, four blocks.
    let second = [&first[..], &[7; 7], &[20, 21, 22]].concat();
    assert_eq!(computed_from(cached(), prompt(&first, 7), prompt(&second, 1)), 16);
    let off = EngineConfig { prefix_caching: false, ..cached() };
    assert_eq!(computed_from(off, prompt(&first, 7), prompt(&second, 1)), 0);
}

#[test]
fn only_equal_whole_blocks_are_shared_and_the_last_token_is_computed() {
    let ids: Vec<u32> = (1..=8).collect();
    for (second, from) in [
        (vec![1, 2, 3, 4, 5, 6, 7, 8, 9], 8),
        (vec![1, 2, 3, 4, 5, 6, 7, 8], 4),
        (vec![1, 2, 3, 4], 0),
        (vec![1, 2, 3, 4, 5, 6, 7, 9, 9], 4),
        (vec![1, 2, 3, 9, 5, 6, 7, 8, 9], 0),
        (vec![5, 6, 7, 8, 9], 0),
    ] {
        assert_eq!(computed_from(cached(), prompt(&ids, 1), prompt(&second, 1)), from, "{second:?}");
    }
}

#[test]
fn tenants_and_rotary_bases_are_apart() {
    let nine: Vec<u32> = (1..=9).collect();
    let ten: Vec<u32> = (1..=10).collect();
    assert_eq!(computed_from(cached(), of(1, prompt(&nine, 1)), of(1, prompt(&ten, 1))), 8);
    assert_eq!(computed_from(cached(), of(1, prompt(&nine, 1)), of(2, prompt(&ten, 1))), 0);
    // A prompt of ten has another base than one of nine.
    let ntk = EngineConfig { ntk_seq_length: 9, ..cached() };
    assert_eq!(computed_from(ntk, prompt(&nine, 1), prompt(&ten, 1)), 0);
    assert_eq!(computed_from(ntk, prompt(&ten, 1), prompt(&[ten.clone(), ten.clone()].concat(), 1)), 0);
    assert_eq!(computed_from(ntk, prompt(&ten, 1), prompt(&[ten.clone(), vec![1]].concat(), 1)), 8);
}

#[test]
fn a_prompt_whose_logprobs_are_wanted_is_computed() {
    let ids: Vec<u32> = (1..=9).collect();
    let wanted = ValidRequest { prompt_logprobs: true, ..prompt(&ids, 1) };
    assert_eq!(computed_from(cached(), prompt(&ids, 1), wanted.clone()), 0);
    assert_eq!(computed_from(cached(), wanted, prompt(&ids, 1)), 8);
}

#[test]
fn what_was_not_computed_to_its_sample_is_not_shared() {
    let long: Vec<u32> = (1..=40).collect();
    // Cancelled between two chunks.
    let mut play = Play::new(cached());
    let first = play.submit(prompt(&long, 1));
    assert_eq!(play.step(), [(1, 0, 16, false)]);
    play.engine.cancel(first);
    play.submit(prompt(&long, 1));
    assert_eq!(play.step(), [(2, 0, 16, false)]);
    // Failed at its sample.
    let mut play = Play::new(cached());
    play.submit(prompt(&long[..9], 1));
    let step = play.plan();
    let mut outcome = answer(&step, 7);
    outcome.results = vec![RowOutcome { seq_id: SeqId(1), result: Err("not finite".into()) }];
    play.engine.apply(outcome, play.now).expect("complete");
    play.submit(prompt(&long[..9], 1));
    assert_eq!(play.step(), [(2, 0, 9, true)]);
}

#[test]
fn running_sequences_share_and_an_unused_block_is_evicted_last() {
    let ids: Vec<u32> = (1..=9).collect();
    let mut play = Play::new(EngineConfig { n_blocks: 5, ..cached() });
    play.submit(prompt(&ids, 3));
    assert_eq!(play.step(), [(1, 0, 9, true)]);
    // Two of its three blocks are the first one's, which is still running.
    play.submit(prompt(&ids, 1));
    assert_eq!(play.step(), [(1, 9, 0, true), (2, 8, 1, true)]);
    assert_eq!(play.step(), [(1, 10, 0, true)]);
    assert_eq!((play.engine.n_reserved_tokens(), play.engine.n_cached_tokens()), (0, 8));
    // Other prompts take free blocks first, then that of the end before that of the beginning.
    let other: Vec<u32> = (11..=26).collect();
    play.submit(prompt(&other, 1));
    assert_eq!(play.step(), [(3, 0, 16, true)]);
    play.submit(prompt(&ids, 1));
    assert_eq!(rows(&play.plan()), [(4, 4, 5, true)]);
}

#[test]
fn each_prompt_token_is_counted_once() {
    let ids: Vec<u32> = (1..=9).collect();
    let mut play = Play::new(cached());
    play.submit(prompt(&ids, 3));
    play.step();
    play.submit(prompt(&ids, 3));
    play.step();
    let lost = play.plan();
    assert_eq!(lost.rows.len(), 2);
    play.engine.shard_lost(play.now);
    play.engine.plan_changed(cached());
    while !play.engine.is_idle() {
        play.step();
    }
    let counters = play.engine.counters();
    assert_eq!((counters.prompt_tokens_cached, counters.prompt_tokens_computed), (8, 10));
    // Prompt and two tokens, prompt and one.
    assert_eq!((counters.replayed_tokens, counters.preemptions), (11 + 10, 0));
}
