//! The policy by example: who gets a row, who is admitted, how a sequence ends, what is refused.
//! Rows are written in short, see `testing::Row`.

use std::time::{Duration, Instant};

use crate::engine::testing::{Row, answer, config, forgotten, request, rows, sampled};
use crate::engine::{
    Engine, EngineConfig, EngineConfigError, PlannedStep, RowOutcome, RowScores, SeqId, StepMismatch,
    StepOutcome,
};
use crate::request::{
    FinishReason, GenerationError, GenerationEvent, Limits, Score, ShardInfo, TokenLogprob, ValidRequest,
};

/// Runs steps one by one, every sample being token 7, and compares their rows.
fn check(config: EngineConfig, requests: &[(u32, u32)], expected: &[&[Row]]) {
    let now = Instant::now();
    let mut engine = Engine::new(config);
    for (i, &(n_prompt, max_new)) in requests.iter().enumerate() {
        let _ = engine.submit(SeqId(i as u64 + 1), request(n_prompt, max_new, false), now);
    }
    let mut got = Vec::new();
    while let Some(step) = engine.plan_step(now) {
        engine.apply(answer(&step, 7), now).expect("a complete answer");
        got.push(rows(&step));
    }
    assert_eq!(got, expected, "{config:?} {requests:?}");
    assert!(engine.is_idle());
}

#[test]
fn prompts_are_chunked_and_share_steps_with_decodes() {
    // One short request: its prompt, then a decode; the third token needs no third input.
    check(config(), &[(3, 2)], &[&[(1, 0, 3, true)], &[(1, 3, 0, true)]]);
    // A prompt longer than a step's 16 prompt tokens.
    check(config(), &[(35, 1)], &[&[(1, 0, 16, false)], &[(1, 16, 16, false)], &[(1, 32, 3, true)]]);
    // The second starts in the first's last chunk, and goes on beside the first's decodes.
    let expected: &[&[Row]] = &[
        &[(1, 0, 16, false)],
        &[(1, 16, 4, true), (2, 0, 12, false)],
        &[(1, 20, 0, true), (2, 12, 8, true)],
    ];
    check(config(), &[(20, 2), (20, 1)], expected);
}

#[test]
fn admission_stops_at_each_bound() {
    let small = |max_batch_size, n_blocks| EngineConfig { max_batch_size, n_blocks, ..config() };
    let alone: &[&[Row]] = &[&[(1, 0, 2, true)], &[(2, 0, 2, true)]];
    let together: &[&[Row]] = &[&[(1, 0, 2, true), (2, 0, 2, true)]];
    check(small(1, 32), &[(2, 1), (2, 1)], alone);
    check(small(2, 32), &[(2, 1), (2, 1)], together);
    // Blocks of 4: two prompt tokens and three new ones need 4 positions, one block; four need two.
    check(small(8, 1), &[(2, 1), (2, 1)], alone);
    check(small(8, 2), &[(2, 1), (2, 1)], together);
    let three: &[&[Row]] = &[&[(1, 0, 2, true), (2, 0, 2, true)], &[(1, 2, 0, true), (2, 2, 0, true)]];
    let both = [three[0], three[1], &[(1, 3, 0, true), (2, 3, 0, true)]].to_vec();
    check(small(8, 2), &[(2, 3), (2, 3)], &both);
    // The second does not fit beside the first, but the third does: it may overtake.
    let expected: &[&[Row]] = &[&[(1, 0, 4, true), (3, 0, 1, true)], &[(1, 4, 0, true)], &[(2, 0, 12, true)]];
    check(small(8, 3), &[(4, 2), (12, 1), (1, 1)], expected);
}

fn started(config: EngineConfig, max_new: u32, eos: bool) -> (Engine, Instant) {
    let now = Instant::now();
    let mut engine = Engine::new(config);
    let _ = engine.submit(SeqId(1), request(2, max_new, eos), now);
    (engine, now)
}

#[test]
fn ends_by_length_first_then_by_end_of_sequence() {
    let cases: [(u32, bool, &[u32], Option<FinishReason>); 5] = [
        (3, true, &[5, 5, 5], Some(FinishReason::Length)),
        (3, true, &[5, 0], Some(FinishReason::Eos)),
        (3, true, &[5, 5, 0], Some(FinishReason::Length)),
        (1, true, &[0], Some(FinishReason::Length)),
        (3, false, &[0, 0], None),
    ];
    for (max_new, eos, tokens, expected) in cases {
        let (mut engine, now) = started(config(), max_new, eos);
        let mut last = None;
        for &token in tokens {
            let step = engine.plan_step(now).expect("it goes on");
            for (_, event) in engine.apply(answer(&step, token), now).expect("a complete answer") {
                let GenerationEvent::Token { token: got, finish, .. } = event else { panic!("{event:?}") };
                assert_eq!(got.id, token);
                last = finish;
            }
        }
        assert_eq!(last, expected, "{max_new} {eos} {tokens:?}");
        assert_eq!(engine.is_idle(), expected.is_some());
    }
}

#[test]
fn events_carry_the_times_of_their_request() {
    let (mut engine, queued) = started(config(), 1, false);
    let [started, at] = [5, 9].map(|ms| queued + Duration::from_millis(ms));
    let step = engine.plan_step(started).expect("a prompt");
    let events = engine.apply(answer(&step, 7), at).expect("a complete answer");
    let GenerationEvent::Token { timing, at: got, .. } = &events[0].1 else { panic!("{events:?}") };
    assert_eq!((timing.queued, timing.started, *got), (queued, started, at));
}

#[test]
fn one_step_ahead_wastes_one_row_but_no_time() {
    let ahead = EngineConfig { max_steps_in_flight: 2, n_blocks: 2, ..config() };
    let (mut engine, now) = started(ahead, 6, true);
    let _ = engine.submit(SeqId(2), request(2, 2, false), now);
    let plan = |engine: &mut Engine| engine.plan_step(now).expect("a step");
    let [first, second] = [plan(&mut engine), plan(&mut engine)];
    assert_eq!((rows(&first), rows(&second)), (vec![(1, 0, 2, true)], vec![(1, 2, 0, true)]));
    assert!(engine.plan_step(now).is_none(), "two are in flight");
    // The first step's token ends the sequence. The second still writes to its blocks, but before the
    // third, which has them given to somebody else.
    assert_eq!(engine.apply(answer(&first, 0), now).expect("complete").len(), 1);
    let third = plan(&mut engine);
    assert_eq!((rows(&third), forgotten(&third)), (vec![(2, 0, 2, true)], vec![1]));
    assert!(engine.apply(answer(&second, 3), now).expect("complete").is_empty(), "ignored");
}

#[test]
fn one_step_ahead_never_plans_past_the_last_token() {
    let (mut engine, now) = started(EngineConfig { max_steps_in_flight: 2, ..config() }, 2, false);
    let first = engine.plan_step(now).expect("the prompt");
    let second = engine.plan_step(now).expect("the second token");
    engine.apply(answer(&first, 1), now).expect("complete");
    assert!(engine.plan_step(now).is_none(), "all samples are planned");
    engine.apply(answer(&second, 1), now).expect("complete");
    assert!(engine.is_idle());
}

#[test]
fn cancel_frees_what_it_can_and_tells_nobody() {
    let (mut engine, now) = started(EngineConfig { max_batch_size: 1, ..config() }, 9, false);
    let _ = engine.submit(SeqId(2), request(2, 2, false), now);
    let _ = engine.submit(SeqId(3), request(2, 2, false), now);
    let step = engine.plan_step(now).expect("the first");
    engine.cancel(SeqId(2));
    engine.cancel(SeqId(99));
    assert_eq!((engine.n_running(), engine.n_waiting()), (1, 1));
    engine.cancel(SeqId(1));
    assert_eq!((engine.n_running(), engine.n_reserved_tokens()), (0, 0));
    assert!(engine.apply(answer(&step, 1), now).expect("complete").is_empty());
    let step = engine.plan_step(now).expect("the third");
    assert_eq!((rows(&step), forgotten(&step)), (vec![(3, 0, 2, true)], vec![1]));
}

#[test]
fn a_failed_row_ends_only_its_sequence() {
    let (mut engine, now) = started(config(), 3, false);
    let _ = engine.submit(SeqId(2), request(30, 3, false), now);
    let step = engine.plan_step(now).expect("both");
    assert_eq!(rows(&step), [(1, 0, 2, true), (2, 0, 14, false)]);
    // A row that does not sample appears in the answer only when it fails.
    let mut outcome = answer(&step, 7);
    outcome.results.push(RowOutcome { seq_id: SeqId(2), result: Err("not finite".into()) });
    let events = engine.apply(outcome, now).expect("complete");
    assert!(matches!(events[0], (SeqId(1), GenerationEvent::Token { finish: None, .. })), "{events:?}");
    let (SeqId(2), GenerationEvent::Failed(error)) = &events[1] else { panic!("{events:?}") };
    assert_eq!(*error, GenerationError::Shard("not finite".into()));
    let step = engine.plan_step(now).expect("the first goes on");
    assert_eq!((rows(&step), forgotten(&step)), (vec![(1, 2, 0, true)], vec![2]));
}

#[test]
fn answers_to_other_questions_are_refused() {
    let result = |seq_id| RowOutcome { seq_id: SeqId(seq_id), result: Ok(sampled(1)) };
    let outcome =
        |step_id, results| StepOutcome { step_id, results, scores: Vec::new(), compute: Duration::ZERO };
    let cases = [
        (outcome(2, vec![result(1)]), StepMismatch::Step { expected: Some(1), got: 2 }),
        (outcome(1, vec![]), StepMismatch::Missing { step_id: 1, seq_id: 1 }),
        (outcome(1, vec![result(5)]), StepMismatch::Missing { step_id: 1, seq_id: 1 }),
        (outcome(1, vec![result(1), result(1)]), StepMismatch::Unexpected { step_id: 1, seq_id: 1 }),
        (outcome(1, vec![result(1), result(2)]), StepMismatch::Unexpected { step_id: 1, seq_id: 2 }),
    ];
    for (outcome, expected) in cases {
        let (mut engine, now) = started(config(), 3, false);
        let _ = engine.submit(SeqId(2), request(30, 3, false), now);
        let _: PlannedStep = engine.plan_step(now).expect("both");
        assert_eq!(engine.apply(outcome, now).expect_err("wrong"), expected);
    }
}

#[test]
fn a_budget_that_cannot_hold_one_request_is_refused() {
    let check = |n_blocks, max_total_tokens, max_batch_size| {
        let info = ShardInfo {
            architecture: String::new(),
            dtype: String::new(),
            quantize: String::new(),
            device_type: String::new(),
            vocab_size: 100,
            max_positions: 100,
            block_size: 4,
            n_blocks,
            kv_bytes_per_token: 1,
            max_steps_in_flight: 1,
            ntk_seq_length: 0,
            startup: Vec::new(),
            memory: [0; 3],
        };
        let limits = Limits {
            max_input_tokens: 8,
            max_total_tokens,
            max_batch_prefill_tokens: 8,
            max_batch_total_tokens: 0,
            max_batch_size,
            prefix_caching: true,
        };
        EngineConfig::new(&info, &limits)
    };
    assert!(check(3, 12, 1).is_ok());
    assert!(check(3, 13, 1).is_ok(), "the last token needs no KV");
    let too_small =
        EngineConfigError::KvTooSmall { kv_tokens: 12, n_blocks: 3, block_size: 4, max_total_tokens: 14 };
    assert_eq!(check(3, 14, 1).expect_err("too small"), too_small);
    let zero = EngineConfigError::Zero { name: "the batch size", got: 0 };
    assert_eq!(check(3, 12, 0).expect_err("zero"), zero);
}

/// Each chunk of a prompt reports on the tokens that follow its own; what nobody asked for is ignored.
#[test]
fn prompt_logprobs_come_chunk_by_chunk() {
    let now = Instant::now();
    let mut engine = Engine::new(config());
    let _ = engine.submit(SeqId(1), ValidRequest { prompt_logprobs: true, ..request(20, 2, false) }, now);
    let _ = engine.submit(SeqId(2), request(2, 2, false), now);
    let mut got = Vec::new();
    let score = |logprob| Score { logprob, best: TokenLogprob { id: 1, logprob: -0.5 } };
    while let Some(step) = engine.plan_step(now) {
        let mut outcome = answer(&step, 7);
        for row in &step.rows {
            // The prompt's token at position p has id p + 1.
            let scores = row.score_ids.iter().map(|&id| score(-(id as f32 - 1.0))).collect();
            outcome.scores.push(RowScores { seq_id: row.seq_id, scores });
        }
        outcome.scores.push(RowScores { seq_id: SeqId(2), scores: vec![score(-1.0)] });
        for (seq_id, event) in engine.apply(outcome, now).expect("a complete answer") {
            if let GenerationEvent::PromptScores { position, scores } = event {
                got.push((seq_id.0, position, scores));
            }
        }
    }
    let range = |positions: std::ops::Range<u32>| positions.map(|p| score(-(p as f32))).collect::<Vec<_>>();
    assert_eq!(got, [(1, 1, range(1..15)), (1, 15, range(15..20))]);
}
