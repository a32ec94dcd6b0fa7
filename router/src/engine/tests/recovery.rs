//! A lost shard by example: who is replayed from where, who is suspected, who is convicted.

use std::time::{Duration, Instant};

use crate::engine::testing::{Row, answer, config, request, rows};
use crate::engine::{Engine, EngineConfig, PlannedStep, RowInput, SeqId};
use crate::request::{GenerationError, GenerationEvent};

fn started(requests: &[(u32, u32)]) -> (Engine, Instant) {
    let now = Instant::now();
    let mut engine = Engine::new(config());
    for (i, &(n_prompt, max_new)) in requests.iter().enumerate() {
        let _ = engine.submit(SeqId(i as u64 + 1), request(n_prompt, max_new, false), now);
    }
    (engine, now)
}

fn step(engine: &mut Engine, now: Instant) -> PlannedStep {
    engine.plan_step(now).expect("a step")
}

fn run(engine: &mut Engine, now: Instant, token: u32) -> Vec<Row> {
    let step = step(engine, now);
    engine.apply(answer(&step, token), now).expect("complete");
    rows(&step)
}

/// Loses the shard and gets the next one; returns who is quarantined.
fn lose(engine: &mut Engine, now: Instant) -> Vec<u64> {
    let events = engine.shard_lost(now);
    assert!(engine.plan_step(now).is_none(), "there is no shard");
    engine.plan_changed(config());
    let quarantined = |(SeqId(id), event): (SeqId, GenerationEvent)| match event {
        GenerationEvent::Failed(GenerationError::Quarantined) => id,
        other => panic!("{other:?}"),
    };
    events.into_iter().map(quarantined).collect()
}

#[test]
fn a_sequence_is_replayed_from_prompt_and_produced_tokens() {
    let (mut engine, now) = started(&[(3, 9)]);
    for token in [41, 42] {
        run(&mut engine, now, token);
    }
    step(&mut engine, now);
    assert!(lose(&mut engine, now).is_empty());
    let replay = step(&mut engine, now);
    let row = &replay.rows[0];
    assert_eq!(row.input, RowInput::Tokens(vec![1, 2, 3, 41, 42]));
    let start = row.start.as_ref().expect("the shard knows nothing of it");
    assert_eq!((start.prompt_length, row.position, row.sample), (3, 0, true));
    let events = engine.apply(answer(&replay, 43), now).expect("complete");
    assert!(matches!(&events[..], [(_, GenerationEvent::Token { token, .. })] if token.id == 43));
    assert_eq!(run(&mut engine, now, 44), [(1, 5, 0, true)]);
}

#[test]
fn an_idle_death_accuses_nobody() {
    let (mut engine, now) = started(&[(3, 9)]);
    for _ in 0..5 {
        assert!(lose(&mut engine, now).is_empty());
    }
    assert_eq!(run(&mut engine, now, 7), [(1, 0, 3, true)]);
}

#[test]
fn a_sequence_alone_that_kills_twice_at_one_place_is_convicted() {
    let (mut engine, now) = started(&[(3, 9)]);
    step(&mut engine, now);
    assert!(lose(&mut engine, now).is_empty());
    step(&mut engine, now);
    assert_eq!(lose(&mut engine, now), [1]);
    assert!(engine.is_idle());
}

#[test]
fn a_convicted_request_is_refused_when_it_comes_again() {
    let (mut engine, now) = started(&[(3, 9)]);
    for _ in 0..2 {
        step(&mut engine, now);
        lose(&mut engine, now);
    }
    let events = engine.submit(SeqId(2), request(3, 9, false), now);
    assert!(matches!(events[..], [(SeqId(2), GenerationEvent::Failed(GenerationError::Quarantined))]));
    assert!(engine.submit(SeqId(3), request(4, 9, false), now).is_empty());
    assert_eq!((engine.n_waiting(), engine.counters().quarantined), (1, 1));
}

#[test]
fn progress_between_deaths_clears() {
    let (mut engine, now) = started(&[(3, 9), (3, 9)]);
    for _ in 0..4 {
        step(&mut engine, now);
        assert!(lose(&mut engine, now).is_empty());
        run(&mut engine, now, 7);
    }
}

#[test]
fn suspects_are_tried_alone_and_the_others_go_on() {
    let (mut engine, now) = started(&[(3, 9), (3, 9), (3, 9)]);
    for _ in 0..2 {
        assert_eq!(step(&mut engine, now).rows.len(), 3);
        assert!(lose(&mut engine, now).is_empty());
    }
    // The first passes the fatal place and waits for the others' trials.
    assert_eq!(run(&mut engine, now, 7), [(1, 0, 3, true)]);
    for quarantined in [&[][..], &[2]] {
        assert_eq!(rows(&step(&mut engine, now)), [(2, 0, 3, true)]);
        assert_eq!(lose(&mut engine, now), quarantined);
    }
    assert_eq!(run(&mut engine, now, 7), [(3, 0, 3, true)]);
    let together = run(&mut engine, now, 7);
    assert_eq!(together.iter().map(|row| row.0).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_cancelled_suspect_holds_nobody_up() {
    let (mut engine, now) = started(&[(3, 9), (3, 9)]);
    for _ in 0..2 {
        step(&mut engine, now);
        lose(&mut engine, now);
    }
    engine.cancel(SeqId(1));
    assert_eq!(run(&mut engine, now, 7), [(2, 0, 3, true)]);
    assert_eq!(run(&mut engine, now, 7), [(2, 3, 0, true)]);
}

#[test]
fn the_next_shard_may_have_other_blocks() {
    let (mut engine, now) = started(&[(3, 9), (3, 9)]);
    assert_eq!(step(&mut engine, now).rows.len(), 2);
    engine.shard_lost(now);
    engine.plan_changed(EngineConfig { max_batch_size: 1, n_blocks: 16, ..config() });
    assert_eq!(rows(&step(&mut engine, now)), [(1, 0, 3, true)]);
}

#[test]
fn deadlines_end_requests_wherever_they_are() {
    let now = Instant::now();
    let at = |ms| now + Duration::from_millis(ms);
    let mut engine = Engine::new(EngineConfig { max_batch_size: 1, ..config() });
    for (id, ms) in [(1, 30), (2, 10), (3, 20)] {
        let mut request = request(3, 9, false);
        request.caller.deadline = Some(at(ms));
        let _ = engine.submit(SeqId(id), request, now);
    }
    run(&mut engine, now, 7);
    let mut expired = Vec::new();
    while let Some(deadline) = engine.next_deadline() {
        assert!(engine.expire(deadline - Duration::from_millis(1)).is_empty());
        for (SeqId(id), event) in engine.expire(deadline) {
            assert!(matches!(event, GenerationEvent::Failed(GenerationError::DeadlinePassed)));
            expired.push((id, engine.n_running()));
        }
    }
    assert_eq!(expired, [(2, 1), (3, 1), (1, 0)]);
    assert!(engine.is_idle() && engine.n_reserved_tokens() == 0);
}
