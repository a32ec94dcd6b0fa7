//! The service as the router meets it: a gRPC client over a unix socket, a tiny model behind it.

use std::path::PathBuf;

use text_generation_proto::shard::shard_client::ShardClient;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::device_thread::{DeviceKind, DeviceThread, Options};
use crate::model::tiny::{Kind, Tiny};

const PLAN: proto::PlanRequest = proto::PlanRequest {
    max_step_tokens: 64,
    max_step_rows: 4,
    max_batch_total_tokens: 256,
    max_total_tokens: 128,
};

struct Fixture {
    client: ShardClient<Channel>,
    tiny: Tiny,
}

impl Fixture {
    async fn new() -> Fixture {
        let tiny = Tiny::new(Kind::Qwen);
        let path: PathBuf = tiny.dir.path().join("shard.sock");
        let model_path = tiny.dir.path().to_path_buf();
        let options = Options {
            model_path,
            quantize: Some("awq".into()),
            device: DeviceKind::Reference,
            dummy_weights: false,
        };
        let (device, _thread) = DeviceThread::spawn(options).unwrap().ready().await.unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(serve(listener, device, std::future::pending()));
        let endpoint = Endpoint::from_shared(format!("unix:{}", path.display())).unwrap();
        Fixture { client: ShardClient::connect(endpoint).await.unwrap(), tiny }
    }

    async fn steps(&mut self) -> Link {
        let (steps, requests) = flume::unbounded();
        let replies = self.client.steps(requests.into_stream()).await.unwrap().into_inner();
        Link { steps, replies, step_id: 0 }
    }
}

/// One stream of steps.
struct Link {
    steps: flume::Sender<proto::StepRequest>,
    replies: Streaming<proto::StepReply>,
    step_id: u64,
}

impl Link {
    async fn step(&mut self, rows: Vec<proto::Row>) -> Result<Option<proto::StepReply>, Status> {
        self.step_id += 1;
        self.steps.send(proto::StepRequest { step_id: self.step_id, forget: vec![], rows }).unwrap();
        self.replies.message().await
    }
}

fn first_row(sequence_id: u64, ids: Vec<u32>) -> proto::Row {
    let sampling = proto::SamplingParameters {
        temperature: 1.0,
        top_p: 1.0,
        typical_p: 1.0,
        repetition_penalty: 1.0,
        top_n_tokens: 2,
        ..Default::default()
    };
    proto::Row {
        sequence_id,
        start: Some(proto::StartSequence {
            sampling: Some(sampling),
            prompt_length: ids.len() as u32,
            cached_ids: vec![],
        }),
        position: 0,
        new_blocks: vec![sequence_id as u32],
        input: Some(proto::row::Input::TokenIds(proto::TokenIds { ids })),
        sample: true,
        ..Default::default()
    }
}

fn next_row(sequence_id: u64, position: u32) -> proto::Row {
    let input = Some(proto::row::Input::LastSampled(proto::LastSampled {}));
    proto::Row { sequence_id, position, input, sample: true, ..Default::default() }
}

fn sampled(result: &proto::RowResult) -> &proto::Sampled {
    match result.outcome.as_ref().unwrap() {
        proto::row_result::Outcome::Sampled(sampled) => sampled,
        proto::row_result::Outcome::Error(error) => panic!("sequence {}: {error}", result.sequence_id),
    }
}

#[tokio::test]
async fn info_and_plan_describe_the_model() {
    let mut fixture = Fixture::new().await;
    let info = fixture.client.info(proto::InfoRequest {}).await.unwrap().into_inner();
    let expected = proto::InfoReply {
        architecture: "QWenLMHeadModel".into(),
        dtype: "float32".into(),
        quantize: "awq".into(),
        device_type: "cpu".into(),
        vocab_size: 80,
        max_positions: 512,
        block_size: 32,
        kv_bytes_per_token: 1024,
        max_steps_in_flight: 1,
        ntk_seq_length: 16,
        rank: 0,
        world_size: 1,
    };
    assert_eq!(info, expected);
    let plan = fixture.client.plan(PLAN).await.unwrap().into_inner();
    assert_eq!((plan.n_blocks, plan.max_batch_total_tokens, plan.kv_bytes), (8, 256, 256 * 1024));
    assert!(plan.weight_bytes > 0 && plan.workspace_bytes > 0);
    let refused = fixture.client.plan(proto::PlanRequest { max_total_tokens: 513, ..PLAN }).await;
    let status = refused.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("512 positions"), "{}", status.message());
}

#[tokio::test]
async fn steps_generate_the_models_tokens() {
    let mut fixture = Fixture::new().await;
    fixture.client.plan(PLAN).await.unwrap();
    let mut link = fixture.steps().await;
    let mut ids: Vec<u32> = (0..9).map(|i| i * 8).collect();
    let prompt_length = ids.len();
    for n in 0..6 {
        let row = match n {
            0 => first_row(5, ids.clone()),
            _ => next_row(5, ids.len() as u32 - 1),
        };
        let rows = vec![row, next_row(99, 0)];
        let reply = link.step(rows).await.unwrap().unwrap();
        assert_eq!(reply.step_id, link.step_id);
        assert!(reply.compute_ns > 0);
        assert_eq!(reply.results.len(), 2);
        let (token, top) = (sampled(&reply.results[0]).token.unwrap(), &sampled(&reply.results[0]).top);
        let logits = fixture.tiny.logits(&ids, prompt_length).pop().unwrap();
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        assert_eq!(token.id as usize, best, "token {n}");
        assert_eq!((top.len(), top[0]), (2, token));
        let log_sum = logits.iter().map(|x| (x - logits[best]).exp()).sum::<f64>().ln();
        assert!((f64::from(token.logprob) + log_sum).abs() < 1e-4, "token {n}");
        match reply.results[1].outcome.as_ref().unwrap() {
            proto::row_result::Outcome::Error(error) => assert!(error.contains("no such sequence")),
            other => panic!("{other:?}"),
        }
        ids.push(token.id);
    }
    let health = fixture.client.health(proto::HealthRequest {}).await.unwrap().into_inner();
    assert_eq!((health.steps, health.busy), (6, false));
}

#[tokio::test]
async fn a_step_without_a_plan_ends_the_stream() {
    let mut fixture = Fixture::new().await;
    let status = fixture.steps().await.step(vec![]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("call Plan first"), "{}", status.message());
    fixture.client.plan(PLAN).await.unwrap();
    assert!(fixture.steps().await.step(vec![]).await.is_ok());
}

#[tokio::test]
async fn a_new_stream_takes_over_and_knows_no_sequences() {
    let mut fixture = Fixture::new().await;
    fixture.client.plan(PLAN).await.unwrap();
    let mut old = fixture.steps().await;
    old.step(vec![first_row(0, vec![1, 2])]).await.unwrap();
    let mut new = fixture.steps().await;
    let reply = new.step(vec![next_row(0, 2)]).await.unwrap().unwrap();
    let outcome = reply.results[0].outcome.as_ref().unwrap();
    assert!(
        matches!(outcome, proto::row_result::Outcome::Error(error) if error.contains("no such sequence"))
    );
    let status = old.step(vec![]).await.unwrap_err();
    assert!(status.message().contains("newer stream"), "{}", status.message());
    assert!(new.step(vec![first_row(0, vec![1, 2])]).await.is_ok());
}

#[tokio::test]
async fn the_replies_end_with_the_steps() {
    let mut fixture = Fixture::new().await;
    fixture.client.plan(PLAN).await.unwrap();
    let Link { steps, mut replies, .. } = fixture.steps().await;
    steps.send(proto::StepRequest { step_id: 1, forget: vec![], rows: vec![first_row(0, vec![3])] }).unwrap();
    drop(steps);
    assert_eq!(replies.message().await.unwrap().unwrap().step_id, 1);
    assert!(replies.message().await.unwrap().is_none());
}
