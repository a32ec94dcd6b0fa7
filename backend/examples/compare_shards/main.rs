//! Compares two shards on one checkpoint, the CPU's with the GPU's say: same greedy tokens, same logprobs.
//!
//! `compare_shards --model-path DIR --golden FILE [--first "--device cpu"] [--second "--device cuda"]` prints what each part
//! found and its worst difference, and ends with exit code 1 if one of them breaks the rules of `judge`. The prompts are
//! the goldens' token ids; the goldens' own tokens are not looked at.

mod judge;
mod parts;
#[path = "../shard_client/mod.rs"]
#[allow(dead_code)] // it takes times and sizes, which only the bench reads
mod shard_client;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use text_generation_proto::shard as proto;

use judge::Verdict;
use parts::Pair;
use shard_client::connection::Connection;
use shard_client::process::ShardProcess;

const START_LIMIT: Duration = Duration::from_secs(300);

#[derive(Parser)]
struct Args {
    #[arg(long)]
    model_path: PathBuf,
    /// JSON with `cases`, each with `prompt_ids`.
    #[arg(long)]
    golden: PathBuf,
    /// The shard's program. Left out: beside this one, or beside this one's folder.
    #[arg(long)]
    shard: Option<PathBuf>,
    /// Flags of the shard whose tokens are right.
    #[arg(long, default_value = "--device cpu", allow_hyphen_values = true)]
    first: String,
    /// Flags of the shard that is judged.
    #[arg(long, default_value = "--device cuda", allow_hyphen_values = true)]
    second: String,
    /// Tokens that each prompt is continued by.
    #[arg(long, default_value_t = 48)]
    new_tokens: usize,
    /// KV tokens of each shard.
    #[arg(long, default_value_t = 16_384)]
    kv_tokens: u64,
    /// Where the verdicts go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let prompts = prompts(&args.golden)?;
    let (_first, first) = start(&args, &args.first).await?;
    let (_second, second) = start(&args, &args.second).await?;
    println!("{}: {} prompts, {} then {}", args.model_path.display(), prompts.len(), args.first, args.second);
    let mut pair = Pair { first, second, prompts, new_tokens: args.new_tokens };
    let verdicts = parts::all(&mut pair).await?;
    for verdict in &verdicts {
        println!("{verdict}");
    }
    if let Some(path) = &args.json {
        std::fs::write(path, json(&args, &pair, &verdicts)).with_context(|| path.display().to_string())?;
    }
    Ok(if verdicts.iter().all(Verdict::holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn start(args: &Args, flags: &str) -> anyhow::Result<(ShardProcess, Connection)> {
    let binary = args.shard.clone().map_or_else(ShardProcess::find_binary, Ok)?;
    let flags: Vec<String> = flags.split_whitespace().map(str::to_owned).collect();
    let process = ShardProcess::start(&binary, &args.model_path, &flags, START_LIMIT).await?;
    let budget = |info: &proto::InfoReply| proto::PlanRequest {
        max_step_tokens: 2048 + parts::TOGETHER as u32,
        max_step_rows: parts::TOGETHER as u32,
        max_batch_total_tokens: args.kv_tokens,
        max_total_tokens: info.max_positions.min(2048),
    };
    let connection = Connection::open(&process.socket, budget).await?;
    Ok((process, connection))
}

fn prompts(path: &Path) -> anyhow::Result<Vec<Vec<u32>>> {
    let name = path.display().to_string();
    let text = std::fs::read(path).with_context(|| name.clone())?;
    let golden: serde_json::Value = serde_json::from_slice(&text).with_context(|| name.clone())?;
    let cases = golden["cases"].as_array().with_context(|| format!("{name}: no list `cases`"))?;
    let ids = |case: &serde_json::Value| serde_json::from_value::<Vec<u32>>(case["prompt_ids"].clone());
    let prompts = cases.iter().map(ids).collect::<Result<Vec<_>, _>>();
    let prompts = prompts.with_context(|| format!("{name}: a case without token ids in `prompt_ids`"))?;
    if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
        bail!("{name}: no prompts, or an empty one");
    }
    Ok(prompts)
}

fn json(args: &Args, pair: &Pair, verdicts: &[Verdict]) -> String {
    let report = serde_json::json!({
        "model": args.model_path.file_name().map(|name| name.to_string_lossy()),
        "first": { "flags": args.first, "device": pair.first.info.device_type },
        "second": { "flags": args.second, "device": pair.second.info.device_type },
        "holds": verdicts.iter().all(Verdict::holds),
        "parts": verdicts.iter().map(Verdict::json).collect::<Vec<_>>(),
    });
    format!("{report:#}\n")
}
