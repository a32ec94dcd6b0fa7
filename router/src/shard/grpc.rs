//! The gRPC client of the step protocol over a shard's unix socket.
//!
//! `server` builds a `Connector`, reads the first shard's `Info`, fixes the limits and plans it; the driver
//! keeps the `Source` made of it for the shards that may follow. Protobuf types do not leave this file and
//! `convert`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use text_generation_proto::shard as proto;
use text_generation_proto::shard::shard_client::ShardClient;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::step_thread::StepThread;
use super::supervisor::Supervisor;
use super::{PlannedShard, ShardError, ShardLink, ShardSource, convert};
use crate::engine::{PlannedStep, StepOutcome};
use crate::request::{Limits, ShardInfo};

/// Between two attempts to connect: short beside any model's load time.
const RETRY_EVERY: Duration = Duration::from_millis(20);
/// One line of log for so many attempts in vain (ten seconds).
const ATTEMPTS_PER_LOG: u32 = 500;
/// A step's reply holds a few numbers a row: far below this. The library's default of 4 MiB is not.
const MAX_REPLY_BYTES: usize = 256 << 20;
/// Allocating and warming up can take a minute; a shard that takes so much longer hangs.
const PLAN_PATIENCE: Duration = Duration::from_secs(600);

/// Connects to whatever shard binds the path, for as long as the process lives. Cheap to clone.
#[derive(Clone)]
pub struct Connector(Arc<Inner>);

struct Inner {
    thread: StepThread,
    path: String,
    supervisor: Option<Supervisor>,
}

impl Connector {
    /// `supervisor` replaces shards that are lost; without one the first loss is final.
    ///
    /// # Errors
    /// When the path is not UTF-8 or the system has no thread left.
    pub fn new(path: &Path, supervisor: Option<Supervisor>) -> Result<Self, ShardError> {
        let path = path.to_str().ok_or_else(|| ShardError::Path(path.to_path_buf()))?.to_string();
        let thread = StepThread::start().map_err(ShardError::Thread)?;
        Ok(Self(Arc::new(Inner { thread, path, supervisor })))
    }

    /// Waits without end for a shard: who started both processes ends the wait when none will come.
    ///
    /// # Errors
    /// When what answers is not a single shard that speaks this protocol.
    pub async fn connect(&self) -> Result<ShardConnection, ShardError> {
        self.on_step_thread(|this| async move { this.connect_but(None).await }).await
    }

    /// Plans the first shard, or the one that comes in its place. `max_batch_total_tokens` 0 asks for as
    /// many KV tokens as the shard's memory allows.
    ///
    /// # Errors
    /// When the shard cannot allocate the budget or breaks off for good.
    pub async fn plan(
        self,
        first: ShardConnection,
        limits: Limits,
    ) -> Result<(Source, PlannedShard<GrpcLink>), ShardError> {
        let source = Source { connector: self, limits };
        let pid = first.pid;
        let shard = match first.plan(limits).await {
            Err(error @ ShardError::Lost(_)) if source.replace(pid, &error.to_string()) => {
                source.connector.on_step_thread(move |this| this.next_planned(pid, limits)).await?
            }
            planned => planned?,
        };
        Ok((source, shard))
    }

    /// The connection's tasks then live where the driver will.
    async fn on_step_thread<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Self) -> F,
    ) -> Result<T, ShardError>
    where
        F: Future<Output = Result<T, ShardError>> + Send + 'static,
    {
        let done = self.0.thread.runtime().spawn(work(self.clone())).await;
        done.unwrap_or_else(|error| Err(ShardError::Lost(error.to_string())))
    }

    async fn next_planned(self, mut lost: u32, limits: Limits) -> Result<PlannedShard<GrpcLink>, ShardError> {
        loop {
            let connection = self.connect_but(Some(lost)).await?;
            lost = connection.pid;
            match connection.plan(limits).await {
                Ok(shard) => return Ok(shard),
                Err(error) if self.replace(lost, &error.to_string()) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn replace(&self, pid: u32, reason: &str) -> bool {
        self.0.supervisor.as_ref().map(|supervisor| supervisor.useless(pid, reason)).is_some()
    }

    /// The connection to a shard whose process is not `lost`, which may linger on.
    async fn connect_but(&self, mut lost: Option<u32>) -> Result<ShardConnection, ShardError> {
        loop {
            let socket = self.socket_but(lost).await?;
            let pid = peer(&socket);
            match introduce(socket, pid).await {
                Err(error @ ShardError::Lost(_)) if self.replace(pid, &error.to_string()) => lost = Some(pid),
                done => return done,
            }
        }
    }

    async fn socket_but(&self, lost: Option<u32>) -> Result<UnixStream, ShardError> {
        let mut n_attempts: u32 = 0;
        loop {
            let waits_for = match UnixStream::connect(&self.0.path).await {
                Ok(socket) if lost.is_none_or(|lost| lost == 0 || lost != peer(&socket)) => {
                    return Ok(socket);
                }
                Ok(_) => "the one before has not ended".to_string(),
                Err(error) => error.to_string(),
            };
            n_attempts = n_attempts.wrapping_add(1);
            if n_attempts.is_multiple_of(ATTEMPTS_PER_LOG) {
                tracing::info!("Waiting for the shard at {}: {waits_for}", self.0.path);
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_EVERY) => {}
                () = self.gave_up() => return Err(ShardError::GivenUp),
            }
        }
    }

    async fn gave_up(&self) {
        match &self.0.supervisor {
            Some(supervisor) => supervisor.gave_up().await,
            None => std::future::pending().await,
        }
    }
}

/// The process that listens at the other end; 0 when the system does not tell.
fn peer(socket: &UnixStream) -> u32 {
    let pid = socket.peer_cred().ok().and_then(|credentials| credentials.pid());
    pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0)
}

/// A channel over this one socket, and what the shard says of itself.
async fn introduce(socket: UnixStream, pid: u32) -> Result<ShardConnection, ShardError> {
    let mut socket = Some(TokioIo::new(socket));
    let only_once = tower::service_fn(move |_| {
        let socket = socket.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(socket)
    });
    let channel = Endpoint::from_static("http://shard").connect_with_connector(only_once).await;
    let channel = channel.map_err(|error| ShardError::Lost(error.to_string()))?;
    let mut client = ShardClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES);
    let info = in_time("Info", client.info(proto::InfoRequest {})).await?;
    Ok(ShardConnection { client, info: convert::info_from_proto(info)?, pid })
}

/// A connected shard that has not been planned yet.
pub struct ShardConnection {
    client: ShardClient<Channel>,
    info: ShardInfo,
    pid: u32,
}

impl ShardConnection {
    /// The loaded model; `n_blocks` is 0 until the plan.
    pub fn info(&self) -> &ShardInfo {
        &self.info
    }

    /// Fixes the budget and opens the stream of steps.
    async fn plan(self, limits: Limits) -> Result<PlannedShard<GrpcLink>, ShardError> {
        let Self { mut client, info, pid } = self;
        let request = proto::PlanRequest {
            max_step_tokens: limits.max_step_tokens(),
            max_step_rows: limits.max_batch_size,
            max_batch_total_tokens: limits.max_batch_total_tokens,
            max_total_tokens: limits.max_total_tokens,
        };
        let plan = in_time("Plan", client.plan(request)).await?;
        let (steps, requests) = mpsc::unbounded_channel();
        let replies = in_time("Steps", client.steps(UnboundedReceiverStream::new(requests))).await?;
        Ok(PlannedShard {
            link: GrpcLink { steps, replies },
            info: ShardInfo {
                n_blocks: plan.n_blocks,
                memory: [plan.weight_bytes, plan.kv_bytes, plan.workspace_bytes],
                startup: plan.startup.into_iter().map(|phase| (phase.name, phase.seconds)).collect(),
                ..info
            },
            limits: Limits { max_batch_total_tokens: plan.max_batch_total_tokens, ..limits },
            pid,
        })
    }
}

/// The shards that follow the first one, planned alike.
pub struct Source {
    connector: Connector,
    limits: Limits,
}

impl ShardSource for Source {
    type Link = GrpcLink;

    fn runtime(&self) -> Handle {
        self.connector.0.thread.runtime()
    }

    fn replace(&self, pid: u32, reason: &str) -> bool {
        self.connector.replace(pid, reason)
    }

    fn next(
        &self,
        lost: u32,
    ) -> impl Future<Output = Result<PlannedShard<GrpcLink>, ShardError>> + Send + 'static {
        self.connector.clone().next_planned(lost, self.limits)
    }

    fn serving(&self, pid: u32) {
        if let Some(supervisor) = &self.connector.0.supervisor {
            supervisor.serving(pid);
        }
    }
}

/// The stream of steps to a planned shard.
pub struct GrpcLink {
    /// Unbounded, yet never long: the engine keeps at most `max_steps_in_flight` steps unanswered.
    steps: mpsc::UnboundedSender<proto::StepRequest>,
    replies: Streaming<proto::StepReply>,
}

impl ShardLink for GrpcLink {
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

async fn in_time<T>(
    call: &'static str,
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, ShardError> {
    match timeout(PLAN_PATIENCE, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(call_failed(call, &status)),
        Err(_) => Err(ShardError::Lost(format!("no answer to {call} for {PLAN_PATIENCE:?}"))),
    }
}

/// The codes that a shard answers with on purpose; all others are what a broken connection looks like.
fn call_failed(call: &'static str, status: &Status) -> ShardError {
    let message = describe(status);
    match status.code() {
        Code::InvalidArgument | Code::ResourceExhausted | Code::FailedPrecondition | Code::Unimplemented => {
            ShardError::Refused { call, message }
        }
        _ => ShardError::Lost(format!("{call}: {message}")),
    }
}

fn describe(status: &Status) -> String {
    if status.message().is_empty() {
        status.code().description().to_string()
    } else {
        status.message().to_string()
    }
}
