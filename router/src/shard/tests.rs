//! Tests of the gRPC link against a small server of the protocol on a real unix socket: connect, plan,
//! steps, and how each of them fails.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use futures::stream::{self, Stream, StreamExt};
use text_generation_proto::shard as proto;
use text_generation_proto::shard::shard_server::{Shard, ShardServer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming};

use super::grpc::Connector;
use super::{ShardError, ShardLink, ShardSource};
use crate::engine::{Engine, EngineConfig, RowOutcome, SampledToken, SeqId, testing};
use crate::request::{Limits, TokenLogprob};

/// Samples the row's position for every row; ends the stream after `n_steps`.
struct SmallShard {
    world_size: u32,
    n_steps: usize,
}

#[tonic::async_trait]
impl Shard for SmallShard {
    type StepsStream = Pin<Box<dyn Stream<Item = Result<proto::StepReply, Status>> + Send>>;

    async fn info(&self, _: Request<proto::InfoRequest>) -> Result<Response<proto::InfoReply>, Status> {
        Ok(Response::new(proto::InfoReply {
            architecture: "QWenLMHeadModel".into(),
            dtype: "float32".into(),
            quantize: "awq".into(),
            device_type: "cpu".into(),
            vocab_size: 151_936,
            max_positions: 8192,
            block_size: 4,
            kv_bytes_per_token: 96,
            max_steps_in_flight: 2,
            ntk_seq_length: 2048,
            rank: 0,
            world_size: self.world_size,
        }))
    }

    async fn health(&self, _: Request<proto::HealthRequest>) -> Result<Response<proto::HealthReply>, Status> {
        Ok(Response::new(proto::HealthReply::default()))
    }

    async fn plan(&self, request: Request<proto::PlanRequest>) -> Result<Response<proto::PlanReply>, Status> {
        let plan = request.into_inner();
        if plan.max_total_tokens > 64 {
            return Err(Status::resource_exhausted("not enough memory"));
        }
        let expected = (16 + 8, 8, 0);
        let got = (plan.max_step_tokens, plan.max_step_rows, plan.max_batch_total_tokens);
        assert_eq!(got, expected, "a step holds a full prefill beside a decode of each sequence");
        Ok(Response::new(proto::PlanReply {
            n_blocks: 16,
            max_batch_total_tokens: 64,
            startup: vec![proto::StartupPhase { name: "read".into(), seconds: 1.5 }],
            ..proto::PlanReply::default()
        }))
    }

    async fn steps(
        &self,
        request: Request<Streaming<proto::StepRequest>>,
    ) -> Result<Response<Self::StepsStream>, Status> {
        let steps = request.into_inner().take(self.n_steps);
        let replies = steps.map(|step| step.map(|step| small_reply(&step)));
        let end = stream::once(async { Err(Status::aborted("out of steps")) });
        Ok(Response::new(Box::pin(replies.chain(end))))
    }
}

fn small_reply(step: &proto::StepRequest) -> proto::StepReply {
    let sampled = |row: &proto::Row| {
        let token = Some(proto::TokenLogprob { id: row.position, logprob: -2.0 });
        let outcome = proto::row_result::Outcome::Sampled(proto::Sampled { token, top: Vec::new() });
        proto::RowResult { sequence_id: row.sequence_id, outcome: Some(outcome) }
    };
    proto::StepReply {
        step_id: step.step_id,
        results: step.rows.iter().map(sampled).collect(),
        compute_ns: 7,
        scores: Vec::new(),
    }
}

fn serve(shard: SmallShard, path: &Path) {
    let listener = UnixListener::bind(path).expect("a free path");
    let server = tonic::transport::Server::builder();
    tokio::spawn(server.serve_with_incoming(ShardServer::new(shard), UnixListenerStream::new(listener)));
}

fn limits(max_total_tokens: u32) -> Limits {
    Limits {
        max_input_tokens: 32,
        max_total_tokens,
        max_batch_prefill_tokens: 16,
        max_batch_total_tokens: 0,
        max_batch_size: 8,
        prefix_caching: true,
    }
}

#[tokio::test]
async fn waits_for_the_socket_then_plans_and_runs_steps() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("shard.sock");
    let connecting = tokio::spawn({
        let connector = Connector::new(&path, None).expect("a thread");
        async move { (connector.connect().await, connector) }
    });
    tokio::task::yield_now().await;
    serve(SmallShard { world_size: 1, n_steps: 2 }, &path);
    let (connection, connector) = connecting.await.expect("no panic");
    let connection = connection.expect("a single shard");
    assert_eq!((connection.info().vocab_size, connection.info().n_blocks), (151_936, 0));

    let (source, shard) = connector.plan(connection, limits(64)).await.expect("it fits");
    assert_eq!(shard.pid, std::process::id());
    assert!(!source.replace(shard.pid, "there is no launcher"));
    assert_eq!((shard.info.n_blocks, shard.info.max_steps_in_flight), (16, 2));
    assert_eq!(shard.limits, Limits { max_batch_total_tokens: 64, ..limits(64) });

    let config = EngineConfig::new(&shard.info, &shard.limits).expect("good limits");
    let (mut engine, mut link, now) = (Engine::new(config), shard.link, std::time::Instant::now());
    let _ = engine.submit(SeqId(6), testing::request(3, 9, false), now);
    for _ in 0..2 {
        link.send(engine.plan_step(now).expect("two in flight")).expect("the stream is open");
    }
    for (step_id, position) in [(1, 0), (2, 3)] {
        let outcome = link.recv().await.expect("an answer");
        let token = TokenLogprob { id: position, logprob: -2.0 };
        let result = Ok(SampledToken { token, top: Vec::new() });
        assert_eq!((outcome.step_id, outcome.compute), (step_id, Duration::from_nanos(7)));
        assert_eq!(outcome.results, [RowOutcome { seq_id: SeqId(6), result }]);
    }
    let lost = link.recv().await.expect_err("the stream has ended");
    assert!(matches!(&lost, ShardError::Lost(message) if message == "out of steps"), "{lost}");
}

#[tokio::test]
async fn refuses_what_it_cannot_drive() {
    for (world_size, max_total_tokens, expected) in [
        (2, 64, "the shard's protocol is not ours: it is one of 2 shards, expected a single one"),
        (1, 65, "Plan failed on the shard: not enough memory"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("shard.sock");
        serve(SmallShard { world_size, n_steps: 0 }, &path);
        let connector = Connector::new(&path, None).expect("a thread");
        let planned = match connector.connect().await {
            Ok(connection) => connector.plan(connection, limits(max_total_tokens)).await,
            Err(error) => Err(error),
        };
        assert_eq!(planned.err().expect("refused").to_string(), expected);
    }
}
