//! The step protocol over gRPC: with its `convert`, the only part of the backend that knows protobuf.
//! Called by `main` with a listening socket; turns calls into commands for the device thread and its
//! answers into replies. Never waits for the device but in the call that asks it.

mod convert;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use text_generation_proto::shard as proto;
use text_generation_proto::shard::shard_server::{Shard, ShardServer};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::device_thread::{Command, Device, StepReply};
use crate::memory_plan::BLOCK_SIZE;

/// Largest message accepted: a step that replays many long sequences, with room to spare.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Answers calls on `listener`; once `stop` ends, until every connection is closed.
pub async fn serve(
    listener: UnixListener,
    device: Device,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let service = ShardServer::new(ShardService { device: Arc::new(device), n_streams: AtomicU64::new(0) })
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let incoming = UnixListenerStream::new(listener);
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stop)
        .await
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
        Ok(Response::new(convert::info(&self.device.info)))
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
        self.command(Command::Plan { budget: convert::budget(&request.into_inner()), reply }).await?;
        let plan = answer.recv_async().await.map_err(|_| device_gone())?;
        let reply = plan.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let plan = reply.plan;
        tracing::info!(
            "Memory for {} KV blocks of {BLOCK_SIZE} tokens: {} bytes of weights, {} of KV cache, {} of workspace, {} of graphs",
            plan.n_blocks,
            self.device.info.weight_bytes,
            plan.kv_bytes,
            plan.workspace_bytes,
            plan.graph_bytes
        );
        tracing::info!("Start: {}", reply.startup);
        Ok(Response::new(convert::plan_reply(&reply, &self.device.info)))
    }

    async fn steps(
        &self,
        request: Request<Streaming<proto::StepRequest>>,
    ) -> Result<Response<Self::StepsStream>, Status> {
        let stream = self.n_streams.fetch_add(1, Ordering::AcqRel) + 1;
        self.command(Command::OpenStream { stream }).await?;
        let (reply, replies) = flume::unbounded();
        tokio::spawn(forward(request.into_inner(), stream, reply, self.device.commands.clone()));
        Ok(Response::new(Box::pin(replies.into_stream().map(convert::step_reply))))
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
            // The other end has gone without closing the stream.
            Err(status) => return tracing::info!("The stream of steps ended: {}", status.message()),
        };
        let command = Command::Step { stream, step: convert::step(request), reply: reply.clone() };
        if commands.send_async(command).await.is_err() {
            return;
        }
    }
}

fn device_gone() -> Status {
    Status::unavailable("the device thread has ended")
}
