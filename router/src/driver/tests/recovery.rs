//! Losing shards: the watchdog, replacement and replay, the canary, giving up. The test makes the ticks, so that
//! nothing waits.

use super::*;
use crate::shard::{PlannedShard, ShardSource};

/// What the driver told whoever starts the shards.
#[derive(Debug, PartialEq)]
enum Said {
    Replace(u32, String),
    Serving(u32),
}

/// Shards that the test sends, one after the other; no more come once the test drops its end.
struct FakeSource {
    shards: flume::Receiver<PlannedShard<FakeLink>>,
    said: flume::Sender<Said>,
}

impl ShardSource for FakeSource {
    type Link = FakeLink;

    fn replace(&self, pid: u32, reason: &str) -> bool {
        self.said.send(Said::Replace(pid, reason.to_string())).is_ok()
    }

    fn next(
        &self,
        _lost: u32,
    ) -> impl Future<Output = Result<PlannedShard<FakeLink>, ShardError>> + Send + 'static {
        let shards = self.shards.clone();
        async move { shards.recv_async().await.map_err(|_| ShardError::GivenUp) }
    }

    fn serving(&self, pid: u32) {
        self.said.send(Said::Serving(pid)).expect("the test listens");
    }
}

/// The test's end of everything.
struct World {
    engine: EngineHandle,
    shards: flume::Sender<PlannedShard<FakeLink>>,
    said: flume::Receiver<Said>,
    ticks: flume::Sender<()>,
    stopped: Stopped,
    metrics: Arc<Metrics>,
}

/// In ticks of a second.
const STEP_TIMEOUT: u64 = 8;
const CANARY_INTERVAL: u64 = 100;

/// A shard with this pid whose KV cache has `n_blocks` blocks.
fn shard(pid: u32, n_blocks: u32) -> (PlannedShard<FakeLink>, FakeShard) {
    let (link, fake) = fake(Box::new(|_| ()));
    let info = ShardInfo { n_blocks, ..info(2) };
    (PlannedShard { link, info, limits: LIMITS, pid }, fake)
}

fn begin() -> (World, FakeShard) {
    let (shards, coming) = flume::unbounded();
    let (says, said) = flume::unbounded();
    let (first, fake) = shard(1, 16);
    let (ticks, ticking) = flume::unbounded();
    let patience = Patience::new(Some(Duration::from_secs(STEP_TIMEOUT)), "cpu");
    let watching = Watching {
        watchdog: Watchdog::new(patience),
        canary: Canary::new(Duration::from_secs(CANARY_INTERVAL)),
        ticks: ticking.into_stream().boxed(),
    };
    let metrics = Arc::new(Metrics::new(32, 64));
    let source = FakeSource { shards: coming, said: says };
    let (engine, stopped) = start_watching(source, first, watching, metrics.clone()).expect("good limits");
    (World { engine, shards, said, ticks, stopped: tokio::spawn(stopped), metrics }, fake)
}

impl World {
    async fn said(&self) -> Said {
        self.said.recv_async().await.expect("the driver lives")
    }

    /// Lets `n` periods pass.
    async fn pass(&self, n: u64) {
        for _ in 0..n {
            self.ticks.send(()).expect("the driver lives");
        }
        self.settle().await;
    }

    /// Lets the driver take what is there.
    async fn settle(&self) {
        while !self.ticks.is_empty() {
            tokio::task::yield_now().await;
        }
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
    }

    async fn replaces(&self, pid: u32) -> String {
        match self.said().await {
            Said::Replace(lost, reason) if lost == pid => reason,
            other => panic!("expected the loss of {pid}, got {other:?}"),
        }
    }

    fn replace(&self, pid: u32, n_blocks: u32) -> FakeShard {
        let (planned, fake) = shard(pid, n_blocks);
        self.shards.send(planned).expect("the driver waits");
        fake
    }

    fn metric(&self, line: &str) {
        let text = self.metrics.render();
        assert!(text.contains(line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn a_lost_shard_is_replaced_and_streams_go_on_where_they_were() {
    let (world, first) = begin();
    let mut generation = world.engine.submit(testing::request(3, 4, false)).expect("running");
    let step = first.next_step().await;
    first.reply(&step, 7);
    assert_eq!(token(&mut generation).await, (7, None));
    assert_eq!(world.said().await, Said::Serving(1));
    drop(first); // with two steps in flight
    assert_eq!(world.replaces(1).await, "the connection to the shard broke: closed");
    let late = world.engine.submit(testing::request(2, 1, false));
    world.settle().await;
    assert!(!world.engine.status().healthy && !world.engine.status().stopped);

    let second = world.replace(2, 16);
    let step = second.next_step().await;
    let rows = testing::rows(&step);
    assert_eq!(rows[0], (1, 0, 4, true), "the prompt and the token that was delivered");
    assert!(world.engine.status().healthy);
    second.reply(&step, 8);
    assert_eq!(token(&mut generation).await, (8, None));
    assert_eq!(token(&mut late.expect("queued meanwhile")).await.0, 8);
    assert_eq!(world.said().await, Said::Serving(2));
    for (id, finish) in [(9, None), (10, Some(FinishReason::Length))] {
        let step = second.next_step().await;
        second.reply(&step, id);
        assert_eq!(token(&mut generation).await, (id, finish));
    }
    world.metric("tgi_shard_lost{cause=\"ended\"} 1\n");
    world.metric("tgi_shard_recoveries 1\n");
    world.metric("tgi_shard_recovery_duration_count 1\n");
    world.metric("tgi_replayed_tokens 4\n");
}

#[tokio::test]
async fn a_step_beyond_its_time_is_a_loss_and_health_says_so_before() {
    let (world, first) = begin();
    let mut generation = world.engine.submit(testing::request(3, 2, false)).expect("running");
    first.next_step().await;
    world.pass(STEP_TIMEOUT / 4).await;
    assert!(world.engine.status().healthy);
    world.pass(STEP_TIMEOUT / 2).await;
    assert!(!world.engine.status().healthy, "it may be slow, but nobody should send more");
    assert!(world.said.is_empty(), "it has its time");
    world.pass(STEP_TIMEOUT / 2).await;
    assert_eq!(world.replaces(1).await, "the shard has not answered a step for 9.0s");
    let second = world.replace(2, 16);
    for id in [5, 6] {
        let step = second.next_step().await;
        second.reply(&step, id);
        assert_eq!(token(&mut generation).await.0, id);
    }
    world.metric("tgi_shard_lost{cause=\"hung\"} 1\n");
}

#[tokio::test]
async fn an_answer_to_another_step_is_a_loss() {
    let (world, first) = begin();
    let _generation = world.engine.submit(testing::request(3, 2, false)).expect("running");
    let step = first.next_step().await;
    let mut outcome = testing::answer(&step, 1);
    outcome.step_id += 7;
    first.replies.send(Ok(outcome)).expect("the driver lives");
    assert_eq!(world.replaces(1).await, "the shard answered step 8, expected step Some(1)");
    world.metric("tgi_shard_lost{cause=\"protocol\"} 1\n");
}

#[tokio::test]
async fn a_shard_with_too_little_memory_is_replaced_again() {
    let (world, first) = begin();
    let mut generation = world.engine.submit(testing::request(3, 1, false)).expect("running");
    first.next_step().await;
    drop(first);
    world.replaces(1).await;
    world.replace(2, 15);
    assert!(world.replaces(2).await.contains("(15 blocks of 4)"));
    let third = world.replace(3, 20);
    let step = third.next_step().await;
    third.reply(&step, 6);
    assert_eq!(token(&mut generation).await, (6, Some(FinishReason::Length)));
}

#[tokio::test]
async fn when_no_shard_will_come_every_request_is_told() {
    let (world, first) = begin();
    let mut generations: Vec<_> =
        (0..4).map(|_| world.engine.submit(testing::request(3, 9, false)).expect("running")).collect();
    first.next_step().await;
    drop(first);
    world.replaces(1).await;
    drop(world.shards);
    for generation in &mut generations {
        let reason = "the shard was lost (the connection to the shard broke: closed) and no other will come";
        assert_eq!(failure(generation).await, GenerationError::Shard(reason.into()));
    }
    let error = world.stopped.await.expect("no panic").expect_err("lost");
    assert!(error.to_string().starts_with("Shard lost: "), "{error}");
    assert!(world.engine.status().stopped);
}

#[tokio::test]
async fn an_idle_shard_computes_a_canary_and_hangs_by_it() {
    let (world, first) = begin();
    world.pass(CANARY_INTERVAL - 1).await;
    assert!(first.steps.is_empty());
    world.pass(1).await;
    let step = first.next_step().await;
    assert_eq!(testing::rows(&step), [(1, 0, 1, true)]);
    first.reply(&step, 3);
    assert_eq!(world.said().await, Said::Serving(1));
    world.pass(CANARY_INTERVAL).await;
    first.next_step().await;
    world.metric("tgi_shard_canary{result=\"passed\"} 1\n");
    world.pass(STEP_TIMEOUT + 1).await;
    world.replaces(1).await; // it did not answer the second one
    let second = world.replace(2, 16);
    let step = second.next_step().await;
    second.reply(&step, 3);
    assert_eq!(world.said().await, Said::Serving(2));
    world.settle().await;
    assert!(world.engine.status().healthy);
}

#[tokio::test]
async fn a_failing_canary_is_bad_health_and_in_the_end_a_loss() {
    let (world, first) = begin();
    world.pass(CANARY_INTERVAL).await;
    for n in 1..=3 {
        let step = first.next_step().await;
        let mut outcome = testing::answer(&step, 0);
        outcome.results[0].result = Err("the logits are not finite".into());
        first.replies.send(Ok(outcome)).expect("the driver lives");
        world.settle().await;
        assert!(!world.engine.status().healthy, "{n}");
        world.pass(1).await;
    }
    assert_eq!(world.said().await, Said::Serving(1));
    assert!(world.replaces(1).await.contains("computes no token"));
    world.metric("tgi_shard_canary{result=\"failed\"} 3\n");
    let second = world.replace(2, 16);
    world.settle().await;
    world.pass(1).await;
    let step = second.next_step().await;
    second.reply(&step, 3);
    assert_eq!(world.said().await, Said::Serving(2));
    world.settle().await;
    assert!(world.engine.status().healthy);
}

#[tokio::test]
async fn an_abort_ends_every_request_with_its_last_event() {
    let (world, first) = begin();
    let mut running = world.engine.submit(testing::request(3, 9, false)).expect("running");
    first.next_step().await;
    world.engine.abort();
    assert_eq!(failure(&mut running).await, GenerationError::ShuttingDown);
    assert_eq!(world.stopped.await.expect("no panic"), Ok(()));
}
