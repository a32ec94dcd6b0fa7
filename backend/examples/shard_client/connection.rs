//! The step protocol to one shard: Info, Plan, then one stream of steps. Called by `batch`; knows messages, not policy.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use text_generation_proto::shard as proto;
use text_generation_proto::shard::shard_client::ShardClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

const MAX_REPLY_BYTES: usize = 256 << 20;

/// A sampled token and the best ones beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub id: u32,
    pub logprob: f32,
    /// Best first: id and logprob.
    pub top: Vec<(u32, f32)>,
}

/// One step's answer: sequence and token of each row that sampled, sequence and logprobs of each that was scored.
pub struct Reply {
    pub at: Instant,
    pub step_id: u64,
    pub tokens: Vec<(u64, Token)>,
    pub scores: Vec<(u64, Vec<f32>)>,
}

/// A planned shard.
pub struct Connection {
    pub info: proto::InfoReply,
    pub request: proto::PlanRequest,
    pub plan: proto::PlanReply,
    steps: mpsc::UnboundedSender<proto::StepRequest>,
    replies: Streaming<proto::StepReply>,
    next_step: u64,
    next_sequence: u64,
}

impl Connection {
    /// Connects and plans. `budget` sees what the shard is and says what to ask for.
    pub async fn open(
        socket: &Path,
        budget: impl FnOnce(&proto::InfoReply) -> proto::PlanRequest,
    ) -> anyhow::Result<Self> {
        let uri = format!("unix:{}", socket.to_str().context("the socket's path is not UTF-8")?);
        let client = ShardClient::connect(Endpoint::from_shared(uri)?).await;
        let mut client =
            client.context("cannot connect to the shard")?.max_decoding_message_size(MAX_REPLY_BYTES);
        let info = client.info(proto::InfoRequest {}).await.context("Info failed")?.into_inner();
        let request = budget(&info);
        let plan = client.plan(request).await.context("Plan failed")?.into_inner();
        let (steps, requests) = mpsc::unbounded_channel();
        let replies = client.steps(UnboundedReceiverStream::new(requests)).await.context("Steps failed")?;
        Ok(Self { info, request, plan, steps, replies: replies.into_inner(), next_step: 1, next_sequence: 1 })
    }

    /// The first of `n` sequence ids that were never used.
    pub fn new_sequences(&mut self, n: u64) -> u64 {
        let first = self.next_sequence;
        self.next_sequence += n;
        first
    }

    /// Queues a step; the return value is its id.
    pub fn send(&mut self, rows: Vec<proto::Row>, forget: Vec<u64>) -> anyhow::Result<u64> {
        let step_id = self.next_step;
        self.next_step += 1;
        self.steps
            .send(proto::StepRequest { step_id, forget, rows })
            .context("the stream of steps was closed")?;
        Ok(step_id)
    }

    /// The answer to the oldest step that has none yet. A row that failed is an error.
    pub async fn receive(&mut self) -> anyhow::Result<Reply> {
        let reply = self.replies.message().await.context("the shard broke off")?;
        let at = Instant::now();
        let proto::StepReply { step_id, results, scores, .. } =
            reply.context("the shard ended the stream of steps")?;
        let tokens = results.into_iter().map(token).collect::<anyhow::Result<_>>()?;
        let scores = scores.into_iter().map(|row| (row.sequence_id, row.logprobs)).collect();
        Ok(Reply { at, step_id, tokens, scores })
    }
}

fn token(row: proto::RowResult) -> anyhow::Result<(u64, Token)> {
    let id = row.sequence_id;
    match row.outcome {
        Some(proto::row_result::Outcome::Sampled(proto::Sampled { token: Some(token), top })) => {
            let top = top.into_iter().map(|token| (token.id, token.logprob)).collect();
            Ok((id, Token { id: token.id, logprob: token.logprob, top }))
        }
        Some(proto::row_result::Outcome::Error(error)) => bail!("sequence {id} failed: {error}"),
        _ => bail!("sequence {id}: a result without a token"),
    }
}
