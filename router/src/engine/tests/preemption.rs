//! Too few blocks, by example: who is admitted, who gives way, and what happens then.

use super::play::Play;
use crate::engine::testing::{config, forgotten, rows};
use crate::engine::{EngineConfig, RowInput};

/// Blocks of 4.
fn blocks(n_blocks: u32) -> EngineConfig {
    EngineConfig { n_blocks, ..config() }
}

#[test]
fn the_youngest_gives_way_and_is_replayed_from_its_tokens() {
    let mut play = Play::new(blocks(4));
    play.ask(0, &[(4, 9), (4, 9)]);
    assert_eq!(play.step(), [(1, 0, 4, true), (2, 0, 4, true)]);
    // Both fill their second block, then there is no third one.
    for position in 4..8 {
        assert_eq!(play.step(), [(1, position, 0, true), (2, position, 0, true)]);
    }
    let step = play.plan();
    assert_eq!((rows(&step), forgotten(&step)), (vec![(1, 8, 0, true)], vec![2]));
    play.reply(&step, 7);
    for position in 9..12 {
        assert_eq!(play.step(), [(1, position, 0, true)]);
    }
    let replay = play.plan();
    assert_eq!(rows(&replay), [(2, 0, 9, true)]);
    assert_eq!(replay.rows[0].input, RowInput::Tokens(vec![1, 2, 3, 4, 7, 7, 7, 7, 7]));
    assert_eq!(replay.rows[0].start.as_ref().map(|start| start.prompt_length), Some(4));
    play.reply(&replay, 7);
    while !play.engine.is_idle() {
        play.step();
    }
    for id in [1, 2] {
        assert_eq!(play.got.iter().filter(|(seq_id, _)| *seq_id == id).count(), 9);
    }
    assert_eq!(play.engine.counters().preemptions, 1);
}

#[test]
fn a_token_in_flight_at_the_preemption_is_not_lost() {
    let mut play = Play::new(EngineConfig { max_steps_in_flight: 2, ..blocks(4) });
    play.ask(0, &[(4, 9), (4, 9)]);
    let mut last = play.plan();
    for _ in 4..8 {
        let next = play.plan();
        play.reply(&last, 7);
        last = next;
    }
    // The second is preempted while the answer to its fifth token is still to come.
    let next = play.plan();
    assert_eq!((rows(&next), forgotten(&next)), (vec![(1, 8, 0, true)], vec![2]));
    assert_eq!(play.got.len(), 8);
    play.reply(&last, 8);
    assert_eq!(play.got[8..], [(1, 8), (2, 8)]);
    play.reply(&next, 7);
    while !play.engine.is_idle() {
        let step = play.plan();
        if let Some(row) = step.rows.iter().find(|row| row.seq_id.0 == 2) {
            assert_eq!(row.input, RowInput::Tokens(vec![1, 2, 3, 4, 7, 7, 7, 7, 8]));
            return;
        }
        play.reply(&step, 7);
    }
    panic!("the second never came back");
}

#[test]
fn a_newcomer_leaves_a_block_to_everyone_who_grows() {
    let mut play = Play::new(blocks(5));
    play.ask(0, &[(4, 9), (4, 9), (4, 1)]);
    // Two blocks, and one more for each of the two: the third would take the fifth.
    assert_eq!(play.step(), [(1, 0, 4, true), (2, 0, 4, true), (3, 0, 4, true)]);
    let mut play = Play::new(blocks(4));
    play.ask(0, &[(4, 9), (4, 9), (4, 1)]);
    assert_eq!(play.step(), [(1, 0, 4, true), (2, 0, 4, true)]);
}

#[test]
fn who_does_not_fit_is_overtaken_by_no_more_than_its_size() {
    let mut play = Play::new(EngineConfig { max_batch_size: 16, ..blocks(8) });
    // The first takes six blocks and grows into no other; the second needs four, of which two are there.
    play.ask(0, &[(16, 8), (16, 1)]);
    play.step();
    play.step();
    play.ask(0, &[(4, 1); 12]);
    let mut admitted = Vec::new();
    while !play.engine.is_idle() {
        admitted.extend(play.step().into_iter().filter(|row| row.1 == 0).map(|row| row.0));
    }
    let place = admitted.iter().position(|id| *id == 2).expect("admitted");
    assert_eq!(place, 4, "{admitted:?}");
}

#[test]
fn a_light_tenant_gets_a_place_and_blocks_from_a_heavy_one() {
    for config in
        [EngineConfig { max_batch_size: 4, ..blocks(64) }, EngineConfig { max_batch_size: 64, ..blocks(13) }]
    {
        let mut play = Play::new(config);
        play.ask(1, &[(8, 12); 8]);
        for _ in 0..3 {
            play.step();
        }
        assert!(play.engine.n_waiting() > 0, "the flood takes all there is");
        let n_running = play.engine.n_running();
        play.ask(2, &[(8, 2)]);
        let step = play.plan();
        assert_eq!(step.rows.last().map(|row| (row.seq_id.0, row.sample)), Some((9, true)));
        let youngest_first: Vec<u64> = (1..=n_running as u64).rev().collect();
        assert!(!step.forget.is_empty() && youngest_first.starts_with(&forgotten(&step)));
        play.reply(&step, 7);
        while !play.engine.is_idle() {
            play.step();
        }
        assert_eq!(play.got.len(), 8 * 12 + 2);
    }
}

#[test]
fn equal_tenants_take_nothing_from_each_other() {
    let mut play = Play::new(EngineConfig { max_batch_size: 4, ..blocks(64) });
    play.ask(1, &[(8, 5); 2]);
    play.ask(2, &[(8, 5); 2]);
    play.step();
    play.ask(1, &[(8, 5)]);
    play.ask(2, &[(8, 5)]);
    while !play.engine.is_idle() {
        play.step();
    }
    assert_eq!(play.engine.counters().preemptions, 0);
}
