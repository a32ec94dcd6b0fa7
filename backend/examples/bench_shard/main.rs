//! Measures a shard as a peer's engine is measured: through its step protocol, without text or HTTP.
//!
//! `bench_shard --model-path DIR [--json FILE] [--only NAMES] -- --device cuda --dummy-weights` starts the shard itself
//! (what follows `--` are its flags) and prints a table; the JSON is `{"device", "commit", "settings", "figures"}`.
//! Sampling is greedy, lengths are fixed, tokens are arbitrary: no step depends on what the model says.

mod device;
mod report;
mod scenarios;
#[path = "../shard_client/mod.rs"]
mod shard_client;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use text_generation_proto::shard as proto;

use device::Memory;
use report::Report;
use shard_client::connection::Connection;
use shard_client::process::ShardProcess;

/// For the slowest start: a large checkpoint from a cold disk.
const START_LIMIT: Duration = Duration::from_secs(300);

#[derive(Parser)]
struct Args {
    /// Model folder; with `--dummy-weights` among the shard's flags, config.json is enough.
    #[arg(long)]
    model_path: PathBuf,
    /// The shard's program. Left out: beside this one, or beside this one's folder.
    #[arg(long)]
    shard: Option<PathBuf>,
    /// Only scenarios whose names begin with one of these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Times that each short scenario is repeated.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Seconds after which no scenario is begun or repeated any more.
    #[arg(long, default_value_t = 420)]
    seconds: u64,
    /// Prompt tokens of one step (`--max-batch-prefill-tokens` of the router).
    #[arg(long, default_value_t = 4096)]
    prompt_budget: u32,
    /// Most rows of one step.
    #[arg(long, default_value_t = 128)]
    max_rows: u32,
    /// Longest sequence; the model's positions where they are fewer.
    #[arg(long, default_value_t = 8192)]
    max_total_tokens: u32,
    /// KV tokens; 0: as many as the memory allows.
    #[arg(long, default_value_t = 0)]
    max_batch_total_tokens: u64,
    /// What the report calls the code.
    #[arg(long, default_value = "unknown")]
    commit: String,
    #[arg(long)]
    json: Option<PathBuf>,
    /// Flags of the shard.
    #[arg(last = true)]
    shard_flags: Vec<String>,
}

impl Args {
    fn budget(&self, info: &proto::InfoReply) -> proto::PlanRequest {
        proto::PlanRequest {
            max_step_tokens: self.prompt_budget + self.max_rows,
            max_step_rows: self.max_rows,
            max_batch_total_tokens: self.max_batch_total_tokens,
            max_total_tokens: self.max_total_tokens.min(info.max_positions),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let binary = args.shard.clone().map_or_else(ShardProcess::find_binary, Ok)?;
    let memory = Memory::new();
    let process = ShardProcess::start(&binary, &args.model_path, &args.shard_flags, START_LIMIT).await?;
    let socket_s = process.started.elapsed().as_secs_f64();
    let mut shard = Connection::open(&process.socket, |info| args.budget(info)).await?;
    let ready_s = process.started.elapsed().as_secs_f64();
    let mut report =
        Report::new(&args.commit, device::name(&shard.info.device_type), settings(&args, &shard));
    report.single("socket_s", socket_s);
    report.single("ready_s", ready_s);
    report.single("weights_gib", gib(shard.plan.weight_bytes));
    report
        .single("plan_gib", gib(shard.plan.weight_bytes + shard.plan.kv_bytes + shard.plan.workspace_bytes));
    report.single("used_gib_ready", gib(memory.used(&shard.info.device_type, &process)));
    measure(&args, &mut shard, &mut report).await?;
    report.single("used_gib_after_load", gib(memory.used(&shard.info.device_type, &process)));
    print!("{}", report.table());
    keep(&args, &report)
}

/// Writes what is measured so far: a bench that is broken off has not measured in vain.
fn keep(args: &Args, report: &Report) -> anyhow::Result<()> {
    match &args.json {
        Some(path) => std::fs::write(path, report.json()).with_context(|| path.display().to_string()),
        None => Ok(()),
    }
}

/// Every wanted scenario, as often as asked for, until the time is over.
async fn measure(args: &Args, shard: &mut Connection, report: &mut Report) -> anyhow::Result<()> {
    let began = Instant::now();
    let is_over = || began.elapsed() > Duration::from_secs(args.seconds);
    let is_wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| name.starts_with(only));
    for scenario in scenarios::all().into_iter().filter(|scenario| is_wanted(&scenario.name)) {
        if let Some(reason) = scenario.misfit(shard).or_else(|| is_over().then(|| "no time left".to_owned()))
        {
            eprintln!("{}: left out, {reason}", scenario.name);
            continue;
        }
        eprintln!("{}", scenario.name);
        scenario.warm_up(shard, args.prompt_budget as usize).await?;
        for repeat in 0..scenario.repeats(args.repeats) {
            if repeat == 0 || !is_over() {
                for (name, value) in scenario.measure(shard, args.prompt_budget as usize).await? {
                    report.add(&name, value);
                }
            }
        }
        keep(args, report)?;
    }
    Ok(())
}

/// What the figures hold for.
fn settings(args: &Args, shard: &Connection) -> serde_json::Value {
    let Connection { info, request, plan, .. } = shard;
    serde_json::json!({
        "model": args.model_path.file_name().map(|name| name.to_string_lossy()),
        "architecture": info.architecture,
        "dtype": info.dtype,
        "quantize": info.quantize,
        "shard_flags": args.shard_flags,
        "steps_in_flight": info.max_steps_in_flight,
        "prompt_tokens_a_step": args.prompt_budget,
        "max_step_rows": request.max_step_rows,
        "max_total_tokens": request.max_total_tokens,
        "kv_tokens": plan.max_batch_total_tokens,
        "kv_bytes": plan.kv_bytes,
        "workspace_bytes": plan.workspace_bytes,
    })
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}
