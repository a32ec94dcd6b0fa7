//! A shard without a model: answers every step after a fixed time with made-up tokens.
//!
//! For measuring the router and for tests that need a shard but no arithmetic:
//! `cargo run --release --example fake_shard -- --uds-path /tmp/shard.sock --step-ms 2.7`.
//! Tokens depend on sequence id and position only. It checks nothing of what it is sent, and can be told to
//! die of a token.
#![forbid(unsafe_code)]

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use text_generation_proto::shard as proto;
use text_generation_proto::shard::shard_server::{Shard, ShardServer};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Sleeping ends this long before the due time; the rest is spun.
const SPIN: Duration = Duration::from_micros(30);
/// Ids below are special tokens or single bytes in most vocabularies.
const FIRST_TOKEN: u32 = 300;

#[derive(Debug, Clone, Parser)]
struct Args {
    /// Socket to bind.
    #[arg(long)]
    uds_path: PathBuf,
    /// Duration of every step; a step begins when it has arrived and the one before it is done.
    #[arg(long, default_value_t = 2.7)]
    step_ms: f64,
    #[arg(long, default_value_t = 49152)]
    vocab_size: u32,
    /// One token in 64 becomes this one.
    #[arg(long)]
    eos_id: Option<u32>,
    #[arg(long, default_value_t = 2)]
    max_steps_in_flight: u32,
    #[arg(long, default_value_t = 8192)]
    max_positions: u32,
    #[arg(long, default_value_t = 32)]
    block_size: u32,
    /// KV tokens when the plan asks for as many as there are.
    #[arg(long, default_value_t = 1 << 20)]
    kv_tokens: u64,
    /// Aborts the process, as a fault in a kernel would, in a step with a prompt that holds this token.
    #[arg(long)]
    abort_on: Option<u32>,
}

struct FakeShard {
    args: Args,
    n_steps: Arc<AtomicU64>,
}

/// A step and when it arrived.
type Arrived = (proto::StepRequest, Instant);
type Replies = mpsc::UnboundedSender<Result<proto::StepReply, Status>>;

#[tonic::async_trait]
impl Shard for FakeShard {
    type StepsStream = UnboundedReceiverStream<Result<proto::StepReply, Status>>;

    async fn info(&self, _: Request<proto::InfoRequest>) -> Result<Response<proto::InfoReply>, Status> {
        Ok(Response::new(proto::InfoReply {
            architecture: "LlamaForCausalLM".into(),
            dtype: "float32".into(),
            quantize: String::new(),
            device_type: "cpu".into(),
            vocab_size: self.args.vocab_size,
            max_positions: self.args.max_positions,
            block_size: self.args.block_size,
            kv_bytes_per_token: 1,
            max_steps_in_flight: self.args.max_steps_in_flight,
            ntk_seq_length: 0,
            rank: 0,
            world_size: 1,
        }))
    }

    async fn health(&self, _: Request<proto::HealthRequest>) -> Result<Response<proto::HealthReply>, Status> {
        let steps = self.n_steps.load(Relaxed);
        Ok(Response::new(proto::HealthReply { steps, last_step_age_ms: 0, busy: false }))
    }

    async fn plan(&self, request: Request<proto::PlanRequest>) -> Result<Response<proto::PlanReply>, Status> {
        let wanted = match request.into_inner().max_batch_total_tokens {
            0 => self.args.kv_tokens,
            wanted => wanted,
        };
        let block_size = u64::from(self.args.block_size);
        let n_blocks = u32::try_from(wanted.div_ceil(block_size))
            .map_err(|_| Status::resource_exhausted(format!("{wanted} KV tokens are too many")))?;
        Ok(Response::new(proto::PlanReply {
            n_blocks,
            max_batch_total_tokens: u64::from(n_blocks) * block_size,
            ..proto::PlanReply::default()
        }))
    }

    async fn steps(
        &self,
        request: Request<Streaming<proto::StepRequest>>,
    ) -> Result<Response<Self::StepsStream>, Status> {
        let mut requests = request.into_inner();
        let (arrivals, arrived) = std::sync::mpsc::channel::<Arrived>();
        let (replies, replied) = mpsc::unbounded_channel();
        let (args, n_steps) = (self.args.clone(), self.n_steps.clone());
        std::thread::spawn(move || run_steps(&args, &arrived, &replies, &n_steps));
        tokio::spawn(async move {
            while let Ok(Some(step)) = requests.message().await {
                if arrivals.send((step, Instant::now())).is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(replied)))
    }
}

/// The device's thread: one step after the other, each for the same time.
fn run_steps(
    args: &Args,
    arrived: &std::sync::mpsc::Receiver<Arrived>,
    replies: &Replies,
    n_steps: &AtomicU64,
) {
    if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
        eprintln!("timers stay coarse: {error}");
    }
    let step_time = Duration::from_secs_f64(args.step_ms / 1000.0);
    let mut free_at = Instant::now();
    while let Ok((step, arrived_at)) = arrived.recv() {
        if holds(&step, args.abort_on) {
            std::process::abort();
        }
        free_at = free_at.max(arrived_at) + step_time;
        let reply = make_reply(args, step, step_time);
        wait_until(free_at);
        n_steps.fetch_add(1, Relaxed);
        if replies.send(Ok(reply)).is_err() {
            return;
        }
    }
}

fn holds(step: &proto::StepRequest, token: Option<u32>) -> bool {
    let Some(token) = token else { return false };
    step.rows.iter().any(|row| match &row.input {
        Some(proto::row::Input::TokenIds(tokens)) => tokens.ids.contains(&token),
        _ => false,
    })
}

#[allow(clippy::disallowed_methods)] // the device's own thread, not a runtime's
fn wait_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if left > SPIN {
        std::thread::sleep(left - SPIN);
    }
    while Instant::now() < due {
        std::hint::spin_loop();
    }
}

fn make_reply(args: &Args, step: proto::StepRequest, step_time: Duration) -> proto::StepReply {
    let results = step.rows.iter().filter(|row| row.sample).map(|row| {
        let n_tokens = match &row.input {
            Some(proto::row::Input::TokenIds(tokens)) => tokens.ids.len() as u32,
            _ => 1,
        };
        let id = token_at(args, row.sequence_id, row.position + n_tokens);
        let token = Some(proto::TokenLogprob { id, logprob: -0.5 });
        proto::RowResult {
            sequence_id: row.sequence_id,
            outcome: Some(proto::row_result::Outcome::Sampled(proto::Sampled { token, top: Vec::new() })),
        }
    });
    proto::StepReply {
        step_id: step.step_id,
        results: results.collect(),
        compute_ns: step_time.as_nanos() as u64,
        scores: Vec::new(),
    }
}

fn token_at(args: &Args, sequence_id: u64, position: u32) -> u32 {
    let mixed = (sequence_id << 32 | u64::from(position)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    match args.eos_id {
        Some(eos_id) if mixed.is_multiple_of(64) => eos_id,
        _ => FIRST_TOKEN + (mixed % u64::from(args.vocab_size - FIRST_TOKEN)) as u32,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    anyhow::ensure!(args.vocab_size > FIRST_TOKEN, "--vocab-size must be above {FIRST_TOKEN}");
    anyhow::ensure!(args.block_size > 0, "--block-size must be at least 1");
    anyhow::ensure!((0.0..=60_000.0).contains(&args.step_ms), "--step-ms must be in 0 to 60000");
    let listener = UnixListener::bind(&args.uds_path)
        .with_context(|| format!("cannot bind {}", args.uds_path.display()))?;
    let shard = FakeShard { args, n_steps: Arc::default() };
    tonic::transport::Server::builder()
        .serve_with_incoming(ShardServer::new(shard), UnixListenerStream::new(listener))
        .await
        .context("serving failed")
}
