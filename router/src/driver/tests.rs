//! Tests of the driver through its handle, with a shard that lives in the test.
//!
//! Nothing here sleeps: the test plays the shard step by step on a single-threaded runtime.

use std::sync::{Arc, Mutex};

mod recovery;

use super::*;
use crate::constraint::{self, TokenMask};
use crate::engine::{PlannedStep, StepOutcome, testing};
use crate::request::{Limits, ShardInfo};
use crate::shard::testing::only_one;
use crate::shard::{ShardError, ShardLink};

type OnSend = Box<dyn FnMut(&PlannedStep) + Send>;

/// The driver's end of a shard played by the test.
struct FakeLink {
    on_send: OnSend,
    steps: flume::Sender<PlannedStep>,
    replies: flume::Receiver<Result<StepOutcome, ShardError>>,
}

impl ShardLink for FakeLink {
    fn send(&mut self, step: PlannedStep) -> Result<(), ShardError> {
        (self.on_send)(&step);
        self.steps.send(step).map_err(|_| ShardError::Lost("closed".into()))
    }

    async fn recv(&mut self) -> Result<StepOutcome, ShardError> {
        self.replies.recv_async().await.unwrap_or_else(|_| Err(ShardError::Lost("closed".into())))
    }
}

/// The test's end.
struct FakeShard {
    steps: flume::Receiver<PlannedStep>,
    replies: flume::Sender<Result<StepOutcome, ShardError>>,
}

impl FakeShard {
    async fn next_step(&self) -> PlannedStep {
        self.steps.recv_async().await.expect("the driver lives")
    }

    fn reply(&self, step: &PlannedStep, token: u32) {
        self.replies.send(Ok(testing::answer(step, token))).expect("the driver lives");
    }
}

fn info(max_steps_in_flight: u32) -> ShardInfo {
    ShardInfo {
        architecture: "LlamaForCausalLM".into(),
        dtype: "float32".into(),
        quantize: String::new(),
        device_type: "cpu".into(),
        vocab_size: 100,
        max_positions: 64,
        block_size: 4,
        n_blocks: 16,
        kv_bytes_per_token: 1,
        max_steps_in_flight,
        ntk_seq_length: 0,
        startup: Vec::new(),
        memory: [0; 3],
    }
}

const LIMITS: Limits = Limits {
    max_input_tokens: 32,
    max_total_tokens: 64,
    max_batch_prefill_tokens: 32,
    max_batch_total_tokens: 64,
    max_batch_size: 2,
    prefix_caching: true,
};

type Stopped = tokio::task::JoinHandle<Result<(), DriverError>>;

fn start_with(max_steps_in_flight: u32, on_send: OnSend) -> (EngineHandle, FakeShard, Stopped) {
    start_measured(max_steps_in_flight, on_send, Arc::new(Metrics::new(32, 64)))
}

fn start_measured(
    max_steps_in_flight: u32,
    on_send: OnSend,
    metrics: Arc<Metrics>,
) -> (EngineHandle, FakeShard, Stopped) {
    let (link, shard) = fake(on_send);
    let (source, planned) = only_one(link, info(max_steps_in_flight), LIMITS);
    let settings = Settings { step_timeout: None, canary_interval: Duration::ZERO };
    let (engine, stopped) = start(source, planned, settings, metrics).expect("good limits");
    (engine, shard, tokio::spawn(stopped))
}

fn fake(on_send: OnSend) -> (FakeLink, FakeShard) {
    let (steps, sent) = flume::unbounded();
    let (replies, answered) = flume::unbounded();
    (FakeLink { on_send, steps, replies: answered }, FakeShard { steps: sent, replies })
}

fn start_plain() -> (EngineHandle, FakeShard, Stopped) {
    start_with(1, Box::new(|_| ()))
}

async fn token(generation: &mut Generation) -> (u32, Option<FinishReason>) {
    match generation.next().await {
        Some(GenerationEvent::Token { token, finish, .. }) => (token.id, finish),
        other => panic!("expected a token, got {other:?}"),
    }
}

async fn failure(generation: &mut Generation) -> GenerationError {
    match generation.next().await {
        Some(GenerationEvent::Failed(error)) => error,
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[tokio::test]
async fn tokens_arrive_in_order_and_end_once() {
    let (engine, shard, _stopped) = start_plain();
    let mut generation = engine.submit(testing::request(3, 3, true)).expect("running");
    for (id, finish) in [(8, None), (9, None), (5, Some(FinishReason::Length))] {
        let step = shard.next_step().await;
        assert_eq!(engine.status().running, 1);
        shard.reply(&step, id);
        assert_eq!(token(&mut generation).await, (id, finish));
    }
    assert!(generation.next().await.is_none());
    assert!(generation.next().await.is_none());
    assert_eq!((engine.status().running, engine.status().waiting), (0, 0));
    assert!(engine.status().healthy);
}

#[tokio::test]
async fn the_next_step_leaves_before_the_last_one_is_delivered() {
    let generation = Arc::new(Mutex::new(None::<Generation>));
    let undelivered_at_send = Arc::new(Mutex::new(Vec::new()));
    let (watched, seen) = (generation.clone(), undelivered_at_send.clone());
    let on_send = Box::new(move |_: &PlannedStep| {
        let watched = watched.lock().expect("no panic");
        seen.lock().expect("no panic").push(watched.as_ref().map_or(0, |g| g.received.len()));
    });
    let (engine, shard, _stopped) = start_with(1, on_send);
    *generation.lock().expect("no panic") = engine.submit(testing::request(3, 3, false)).ok();
    for id in 1..=2 {
        let step = shard.next_step().await;
        shard.reply(&step, id);
    }
    shard.next_step().await;
    // Each step leaves with only the tokens of steps before the last one delivered.
    assert_eq!(*undelivered_at_send.lock().expect("no panic"), [0, 0, 1]);
}

#[tokio::test]
async fn two_steps_in_flight_when_the_shard_wants_them() {
    let (engine, shard, _stopped) = start_with(2, Box::new(|_| ()));
    let mut generation = engine.submit(testing::request(3, 5, true)).expect("running");
    let [first, second] = [shard.next_step().await, shard.next_step().await];
    assert!(shard.steps.is_empty(), "no third before the first answer");
    shard.reply(&first, 4);
    assert_eq!(token(&mut generation).await, (4, None));
    let third = shard.next_step().await;
    shard.reply(&second, 0);
    assert_eq!(token(&mut generation).await, (0, Some(FinishReason::Eos)));
    shard.reply(&third, 6);
    let mut other = engine.submit(testing::request(1, 1, false)).expect("running");
    let fourth = shard.next_step().await;
    assert_eq!(fourth.forget.len(), 1);
    shard.reply(&fourth, 7);
    assert_eq!(token(&mut other).await, (7, Some(FinishReason::Length)));
}

#[tokio::test]
async fn steps_are_counted_by_what_they_hold() {
    let metrics = Arc::new(Metrics::new(32, 64));
    let (engine, shard, stopped) = start_measured(1, Box::new(|_| ()), metrics.clone());
    let mut first = engine.submit(testing::request(3, 9, false)).expect("running");
    let step = shard.next_step().await;
    let _second = engine.submit(testing::request(3, 9, false)).expect("running");
    shard.reply(&step, 1);
    token(&mut first).await;
    let step = shard.next_step().await;
    shard.reply(&step, 2);
    token(&mut first).await;
    let _decode = shard.next_step().await;
    drop(shard);
    assert!(stopped.await.expect("no panic").is_err());
    let text = metrics.render();
    for line in [
        "tgi_batch_inference_count{method=\"prefill\"} 2\n",
        "tgi_batch_inference_count{method=\"decode\"} 1\n",
        "tgi_batch_inference_success{method=\"prefill\"} 2\n",
        "tgi_batch_inference_failure{method=\"decode\"} 1\n",
        "tgi_batch_forward_duration_count{method=\"prefill\"} 2\n",
        "tgi_batch_decode_duration_count{method=\"prefill\"} 2\n",
        "tgi_batch_filter_duration_count{method=\"prefill\"} 2\n",
        "tgi_batch_concat_duration_count{method=\"decode\"} 1\n",
        "tgi_batch_concat{reason=\"chunking\"} 1\n",
        "tgi_batch_next_size_sum 2\n",
        "tgi_batch_max_total_tokens 64\n",
        "tgi_batch_current_size 0\n",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn dropping_a_generation_cancels_it() {
    let (engine, shard, _stopped) = start_plain();
    let first = engine.submit(testing::request(3, 9, false)).expect("running");
    let second = engine.submit(testing::request(3, 9, false)).expect("running");
    let waiting = engine.submit(testing::request(3, 9, false)).expect("running");
    let mut last = engine.submit(testing::request(3, 1, false)).expect("running");
    let step = shard.next_step().await;
    assert_eq!((step.rows.len(), engine.status().waiting), (2, 2));
    drop((first, waiting));
    shard.reply(&step, 1);
    let step = shard.next_step().await;
    assert_eq!(step.forget, [SeqId(1)]);
    assert_eq!(step.rows.iter().map(|row| row.seq_id.0).collect::<Vec<_>>(), [2, 4]);
    shard.reply(&step, 2);
    assert_eq!(token(&mut last).await, (2, Some(FinishReason::Length)));
    drop(second);
}

#[tokio::test]
async fn a_lost_shard_fails_everything_and_stops_the_driver() {
    let wrong_step = |step: &PlannedStep| {
        let mut outcome = testing::answer(step, 1);
        outcome.step_id += 1;
        Ok(outcome)
    };
    let broken = |_: &PlannedStep| Err(ShardError::Lost("killed".into()));
    type Reply<'a> = &'a dyn Fn(&PlannedStep) -> Result<StepOutcome, ShardError>;
    let cases: [(Reply, &str); 2] = [
        (&broken, "the connection to the shard broke: killed"),
        (&wrong_step, "the shard answered step 2, expected step Some(1)"),
    ];
    for (reply, reason) in cases {
        let (engine, shard, stopped) = start_plain();
        let mut generations: Vec<_> =
            (0..4).map(|_| engine.submit(testing::request(3, 9, false)).expect("running")).collect();
        let step = shard.next_step().await;
        shard.replies.send(reply(&step)).expect("the driver lives");
        for generation in &mut generations {
            assert_eq!(failure(generation).await, GenerationError::Shard(reason.into()));
            assert!(generation.next().await.is_none());
        }
        let error = stopped.await.expect("no panic").expect_err("lost");
        assert_eq!(error.to_string(), format!("Shard lost: {reason}"));
        assert!(!engine.status().healthy && engine.status().stopped);
        let refused = engine.submit(testing::request(3, 9, false)).err();
        assert_eq!(refused, Some(GenerationError::ShuttingDown));
        engine.drain().await;
    }
}

#[tokio::test]
async fn an_idle_shard_that_dies_is_noticed() {
    let (engine, shard, stopped) = start_plain();
    drop(shard);
    assert!(matches!(stopped.await.expect("no panic"), Err(DriverError::ShardLost(_))));
    assert!(!engine.status().healthy && engine.status().stopped);
}

#[tokio::test]
async fn a_panic_ends_every_request_and_is_reported() {
    let (engine, _shard, stopped) = start_with(1, Box::new(|_| panic!("a bug")));
    let mut generation = engine.submit(testing::request(3, 9, false)).expect("running");
    assert_eq!(failure(&mut generation).await, GenerationError::ShuttingDown);
    assert!(generation.next().await.is_none());
    let panicked = DriverError::Panicked("a bug".into());
    assert_eq!(stopped.await.expect("no panic of its own"), Err(panicked));
    assert!(!engine.status().healthy && engine.status().stopped);
}

#[tokio::test]
async fn a_drain_refuses_new_requests_and_waits_for_the_old() {
    let (engine, shard, stopped) = start_plain();
    let mut running = engine.submit(testing::request(3, 1, false)).expect("running");
    let step = shard.next_step().await;
    let draining = tokio::spawn({
        let engine = engine.clone();
        async move { engine.drain().await }
    });
    tokio::task::yield_now().await;
    let mut late = engine.submit(testing::request(3, 1, false)).expect("running");
    assert_eq!(failure(&mut late).await, GenerationError::ShuttingDown);
    assert!(!draining.is_finished());
    shard.reply(&step, 3);
    assert_eq!(token(&mut running).await, (3, Some(FinishReason::Length)));
    draining.await.expect("no panic");
    assert_eq!(stopped.await.expect("no panic"), Ok(()));
    engine.drain().await;
}

#[tokio::test]
async fn the_driver_ends_with_its_last_handle() {
    let (engine, _shard, stopped) = start_plain();
    drop(engine);
    assert_eq!(stopped.await.expect("no panic"), Ok(()));
}

/// The masks that rows of a step carry.
fn masks(step: &PlannedStep) -> Vec<Option<TokenMask>> {
    step.rows.iter().map(|row| row.allowed.clone()).collect()
}

#[tokio::test]
async fn constrained_sequences_go_on_with_the_mask_of_their_last_token() {
    let (engine, shard, _stopped) = start_with(2, Box::new(|_| ()));
    let constraint = constraint::testing::regex("[ab]c");
    let request = ValidRequest { constraint: Some(constraint.clone()), ..testing::request(3, 9, true) };
    let mut generation = engine.submit(request).expect("running");
    let first = shard.next_step().await;
    assert_eq!(masks(&first), [Some(constraint.first_mask().clone())]);
    tokio::task::yield_now().await;
    assert!(shard.steps.try_recv().is_err(), "the next token's mask is not known yet");
    shard.reply(&first, u32::from(b'b'));
    assert_eq!(token(&mut generation).await, (u32::from(b'b'), None));
    let second = shard.next_step().await;
    assert_eq!(masks(&second), [constraint.begin().advance(u32::from(b'b')).ok()]);
    // A shard that does not heed the mask ends this answer, and no other.
    shard.reply(&second, u32::from(b'x'));
    assert_eq!(token(&mut generation).await, (u32::from(b'x'), None));
    assert!(matches!(failure(&mut generation).await, GenerationError::Constraint(_)));
    let mut other = engine.submit(testing::request(3, 1, true)).expect("running");
    let third = shard.next_step().await;
    assert_eq!(masks(&third), [None]);
    shard.reply(&third, 8);
    assert_eq!(token(&mut other).await, (8, Some(FinishReason::Length)));
}

#[tokio::test]
async fn constrained_sequences_share_steps_with_others() {
    let (engine, shard, _stopped) = start_plain();
    let constraint = Some(constraint::testing::regex("a*"));
    let constrained = ValidRequest { constraint, ..testing::request(3, 9, true) };
    let _generations =
        [constrained, testing::request(3, 9, true)].map(|request| engine.submit(request).expect("running"));
    for n in 0..5 {
        let step = shard.next_step().await;
        assert_eq!(step.rows.len(), 2, "step {n}");
        shard.reply(&step, u32::from(b'a'));
    }
}

#[tokio::test]
async fn a_constrained_sequence_may_leave_while_its_mask_is_computed() {
    let (engine, shard, _stopped) = start_plain();
    let constraint = Some(constraint::testing::regex("a*"));
    let generation =
        engine.submit(ValidRequest { constraint, ..testing::request(3, 9, true) }).expect("running");
    let step = shard.next_step().await;
    shard.reply(&step, u32::from(b'a'));
    drop(generation);
    let mut other = engine.submit(testing::request(3, 1, true)).expect("running");
    // A step of the one that left may have been sent before its cancel was seen.
    for _ in 0..2 {
        let step = shard.next_step().await;
        shard.reply(&step, 8);
        if step.rows.iter().any(|row| row.seq_id == SeqId(2)) {
            break;
        }
    }
    assert_eq!(token(&mut other).await, (8, Some(FinishReason::Length)));
}
