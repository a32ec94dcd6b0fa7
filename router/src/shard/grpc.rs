//! gRPC over a unix socket to one shard: connect, plan, then one long-lived stream of steps.
//!
//! `main` calls `connect` and `ShardConnection::plan`; the driver then owns the `GrpcLink`. Protocol
//! messages never leave this file and `convert`.

use std::path::Path;
use std::time::Duration;

use text_generation_proto::shard as proto;
use text_generation_proto::shard::shard_client::ShardClient;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use super::step_thread::StepThread;
use super::{ShardError, ShardLink, convert};
use crate::engine::{PlannedStep, StepOutcome};
use crate::request::{Limits, ShardInfo};

/// Between two attempts to connect: short beside any model's load time.
const RETRY_EVERY: Duration = Duration::from_millis(20);
/// One line of log for so many attempts in vain (ten seconds).
const ATTEMPTS_PER_LOG: u32 = 500;
/// A step's reply holds a few numbers a row: far below this. The library's default of 4 MiB is not.
const MAX_REPLY_BYTES: usize = 256 << 20;

/// A connected shard that has not been planned yet.
pub struct ShardConnection {
    thread: StepThread,
    client: ShardClient<Channel>,
    info: ShardInfo,
}

/// What a plan gives: the open link and the numbers that the engine works with.
pub struct PlannedShard {
    pub link: GrpcLink,
    /// As the shard said, with the plan's `n_blocks`.
    pub info: ShardInfo,
    /// As asked for, with the plan's `max_batch_total_tokens`.
    pub limits: Limits,
}

/// Connects to the shard that binds `path`, waiting without end for the socket to appear: who
/// started both processes ends the wait when the shard dies.
///
/// # Errors
/// When the path is not UTF-8, or what answers is not a single shard that speaks this protocol.
pub async fn connect(path: &Path) -> Result<ShardConnection, ShardError> {
    let uri = path.to_str().ok_or_else(|| ShardError::Path(path.to_path_buf()))?;
    let endpoint = Endpoint::from_shared(format!("unix:{uri}"))
        .map_err(|error| ShardError::Protocol(error.to_string()))?;
    let thread = StepThread::start().map_err(ShardError::Thread)?;
    let connecting = connect_when_bound(endpoint, uri.to_string());
    let channel = thread.runtime().spawn(connecting).await;
    let channel = channel.map_err(|error| ShardError::Lost(error.to_string()))?;
    let mut client = ShardClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES);
    let info = client.info(proto::InfoRequest {}).await.map_err(|status| call_failed("Info", &status))?;
    Ok(ShardConnection { thread, client, info: convert::info_from_proto(info.into_inner())? })
}

async fn connect_when_bound(endpoint: Endpoint, path: String) -> Channel {
    let mut n_attempts: u32 = 0;
    loop {
        let error = match endpoint.connect().await {
            Ok(channel) => return channel,
            Err(error) => error,
        };
        n_attempts = n_attempts.wrapping_add(1);
        if n_attempts.is_multiple_of(ATTEMPTS_PER_LOG) {
            tracing::info!("Waiting for the shard at {path}: {error}");
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

impl ShardConnection {
    /// The loaded model; `n_blocks` is 0 until the plan.
    pub fn info(&self) -> &ShardInfo {
        &self.info
    }

    /// Fixes the budget and opens the stream of steps. `max_batch_total_tokens` 0 asks for as many
    /// KV tokens as the shard's memory allows.
    ///
    /// # Errors
    /// When the shard cannot allocate the budget or breaks off.
    pub async fn plan(self, limits: Limits) -> Result<PlannedShard, ShardError> {
        let Self { thread, mut client, info } = self;
        let request = proto::PlanRequest {
            // A step may hold a full budget of prompt tokens beside a decode of every other sequence.
            max_step_tokens: limits.max_batch_prefill_tokens.saturating_add(limits.max_batch_size),
            max_step_rows: limits.max_batch_size,
            max_batch_total_tokens: limits.max_batch_total_tokens,
            max_total_tokens: limits.max_total_tokens,
        };
        let plan = client.plan(request).await.map_err(|status| call_failed("Plan", &status))?.into_inner();
        let (steps, requests) = mpsc::unbounded_channel();
        let replies = client.steps(UnboundedReceiverStream::new(requests)).await;
        let replies = replies.map_err(|status| call_failed("Steps", &status))?.into_inner();
        Ok(PlannedShard {
            link: GrpcLink { thread, steps, replies },
            info: ShardInfo { n_blocks: plan.n_blocks, ..info },
            limits: Limits { max_batch_total_tokens: plan.max_batch_total_tokens, ..limits },
        })
    }
}

/// The stream of steps to a planned shard.
pub struct GrpcLink {
    thread: StepThread,
    /// Unbounded, yet never long: the engine keeps at most `max_steps_in_flight` steps unanswered.
    steps: mpsc::UnboundedSender<proto::StepRequest>,
    replies: Streaming<proto::StepReply>,
}

impl ShardLink for GrpcLink {
    fn runtime(&self) -> Handle {
        self.thread.runtime()
    }

    fn send(&mut self, step: PlannedStep) -> Result<(), ShardError> {
        let sent = self.steps.send(convert::step_to_proto(step));
        sent.map_err(|_| ShardError::Lost("the stream of steps was closed".to_string()))
    }

    async fn recv(&mut self) -> Result<StepOutcome, ShardError> {
        match self.replies.message().await {
            Ok(Some(reply)) => convert::outcome_from_proto(reply),
            Ok(None) => Err(ShardError::Lost("the shard ended the stream of steps".to_string())),
            Err(status) => Err(ShardError::Lost(describe(&status))),
        }
    }
}

fn call_failed(call: &'static str, status: &Status) -> ShardError {
    ShardError::Call { call, message: describe(status) }
}

fn describe(status: &Status) -> String {
    if status.message().is_empty() {
        status.code().description().to_string()
    } else {
        status.message().to_string()
    }
}
