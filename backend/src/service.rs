//! The step protocol over gRPC: the only file of the backend that knows protobuf. Called by `main`
//! with a listening socket; turns messages into commands for the device thread and its answers into
//! messages. Never waits for the device but in the call that asks it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use text_generation_proto::shard as proto;
use text_generation_proto::shard::shard_server::{Shard, ShardServer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::config::Quantization;
use crate::device_thread::{Command, Device, StepReply};
use crate::error::StepError;
use crate::executor::{Budget, Input, Row, RowOutcome, Start, Step, StepOutcome};
use crate::memory_plan::BLOCK_SIZE;
use crate::sampler::{Sampled, SamplingParameters, TokenLogprob};

/// Largest message accepted: a step that replays many long sequences, with room to spare.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// The CPU computes while it would queue: one step at a time.
const MAX_STEPS_IN_FLIGHT: u32 = 1;

/// Answers calls on `listener` until the process ends.
pub async fn serve(listener: UnixListener, device: Device) -> Result<(), tonic::transport::Error> {
    let service = ShardServer::new(ShardService { device: Arc::new(device), n_streams: AtomicU64::new(0) })
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let incoming = UnixListenerStream::new(listener);
    tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
}

struct ShardService {
    device: Arc<Device>,
    /// Streams of steps so far; the last one is served.
    n_streams: AtomicU64,
}

#[tonic::async_trait]
impl Shard for ShardService {
    type StepsStream = Pin<Box<dyn Stream<Item = Result<proto::StepReply, Status>> + Send>>;

    async fn info(&self, _: Request<proto::InfoRequest>) -> Result<Response<proto::InfoReply>, Status> {
        Ok(Response::new(info(&self.device)))
    }

    async fn health(&self, _: Request<proto::HealthRequest>) -> Result<Response<proto::HealthReply>, Status> {
        let progress = &self.device.progress;
        Ok(Response::new(proto::HealthReply {
            steps: progress.n_steps(),
            last_step_age_ms: progress.last_step_age_ms(Instant::now()),
            busy: progress.is_busy(),
        }))
    }

    async fn plan(&self, request: Request<proto::PlanRequest>) -> Result<Response<proto::PlanReply>, Status> {
        let (reply, answer) = flume::bounded(1);
        self.command(Command::Plan { budget: budget(&request.into_inner()), reply }).await?;
        let plan = answer.recv_async().await.map_err(|_| device_gone())?;
        let plan = plan.map_err(|error| Status::invalid_argument(error.to_string()))?;
        tracing::info!(
            "Planned {} KV blocks of {BLOCK_SIZE} tokens ({} MB) and {} MB of workspace",
            plan.n_blocks,
            plan.kv_bytes / 1_000_000,
            plan.workspace_bytes / 1_000_000
        );
        Ok(Response::new(proto::PlanReply {
            n_blocks: plan.n_blocks as u32,
            max_batch_total_tokens: plan.max_batch_total_tokens as u64,
            weight_bytes: self.device.info.weight_bytes as u64,
            kv_bytes: plan.kv_bytes as u64,
            workspace_bytes: plan.workspace_bytes as u64,
        }))
    }

    async fn steps(
        &self,
        request: Request<Streaming<proto::StepRequest>>,
    ) -> Result<Response<Self::StepsStream>, Status> {
        let stream = self.n_streams.fetch_add(1, Ordering::AcqRel) + 1;
        self.command(Command::OpenStream { stream }).await?;
        let (reply, replies) = flume::unbounded();
        tokio::spawn(forward(request.into_inner(), stream, reply, self.device.commands.clone()));
        Ok(Response::new(Box::pin(replies.into_stream().map(step_reply))))
    }
}

impl ShardService {
    async fn command(&self, command: Command) -> Result<(), Status> {
        self.device.commands.send_async(command).await.map_err(|_| device_gone())
    }
}

/// Passes a stream's steps to the device thread, which answers into `reply`. Ends with the stream;
/// the stream of replies then ends after the last answer.
async fn forward(
    mut requests: Streaming<proto::StepRequest>,
    stream: u64,
    reply: flume::Sender<StepReply>,
    commands: flume::Sender<Command>,
) {
    loop {
        let request = match requests.message().await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(status) => return tracing::warn!("The stream of steps broke: {}", status.message()),
        };
        let command = Command::Step { stream, step: step(request), reply: reply.clone() };
        if commands.send_async(command).await.is_err() {
            return;
        }
    }
}

fn device_gone() -> Status {
    Status::unavailable("the device thread has ended")
}

fn info(device: &Device) -> proto::InfoReply {
    let config = &device.info.config;
    proto::InfoReply {
        architecture: config.architecture.clone(),
        dtype: "float32".to_owned(),
        quantize: match config.quantization {
            Quantization::None => String::new(),
            Quantization::Awq { .. } => "awq".to_owned(),
        },
        device_type: "cpu".to_owned(),
        vocab_size: config.vocab as u32,
        max_positions: config.max_positions as u32,
        block_size: BLOCK_SIZE as u32,
        kv_bytes_per_token: device.info.kv_bytes_per_token as u64,
        max_steps_in_flight: MAX_STEPS_IN_FLIGHT,
        ntk_seq_length: config.rope.ntk_seq_length.unwrap_or(0) as u32,
        rank: 0,
        world_size: 1,
    }
}

fn budget(request: &proto::PlanRequest) -> Budget {
    Budget {
        max_step_tokens: request.max_step_tokens as usize,
        max_step_rows: request.max_step_rows as usize,
        max_batch_total_tokens: usize::try_from(request.max_batch_total_tokens).unwrap_or(usize::MAX),
        max_total_tokens: request.max_total_tokens as usize,
    }
}

fn step(request: proto::StepRequest) -> Step {
    let proto::StepRequest { step_id, forget, rows } = request;
    Step { step_id, forget, rows: rows.into_iter().map(row).collect() }
}

fn row(row: proto::Row) -> Row {
    Row {
        sequence_id: row.sequence_id,
        start: row.start.map(|start| Start {
            sampling: start.sampling.as_ref().map(sampling),
            prompt_length: start.prompt_length as usize,
            cached_ids: start.cached_ids,
        }),
        position: row.position as usize,
        new_blocks: row.new_blocks,
        input: row.input.map(|input| match input {
            proto::row::Input::TokenIds(tokens) => Input::Tokens(tokens.ids),
            proto::row::Input::LastSampled(_) => Input::LastSampled,
        }),
        sample: row.sample,
    }
}

fn sampling(message: &proto::SamplingParameters) -> SamplingParameters {
    SamplingParameters {
        do_sample: message.do_sample,
        temperature: message.temperature,
        top_k: message.top_k as usize,
        top_p: message.top_p,
        typical_p: message.typical_p,
        repetition_penalty: message.repetition_penalty,
        frequency_penalty: message.frequency_penalty,
        presence_penalty: message.presence_penalty,
        seed: message.seed,
        top_n_tokens: message.top_n_tokens as usize,
    }
}

fn step_reply(reply: StepReply) -> Result<proto::StepReply, Status> {
    match reply {
        Ok((StepOutcome { step_id, results }, took)) => Ok(proto::StepReply {
            step_id,
            results: results.into_iter().map(row_result).collect(),
            compute_ns: nanos(took),
        }),
        Err(error @ StepError::BadStep { .. }) => Err(Status::invalid_argument(error.to_string())),
        Err(error @ StepError::Device { .. }) => Err(Status::internal(error.to_string())),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn row_result(outcome: RowOutcome) -> proto::RowResult {
    let RowOutcome { sequence_id, result } = outcome;
    let outcome = match result {
        Ok(Sampled { token: chosen, top }) => proto::row_result::Outcome::Sampled(proto::Sampled {
            token: Some(token(chosen)),
            top: top.into_iter().map(token).collect(),
        }),
        Err(error) => proto::row_result::Outcome::Error(error),
    };
    proto::RowResult { sequence_id, outcome: Some(outcome) }
}

fn token(token: TokenLogprob) -> proto::TokenLogprob {
    proto::TokenLogprob { id: token.id, logprob: token.logprob }
}
