//! Times a checkpoint on the CPU, as the shard runs it: load, prompt, decode, sequences together.
//!
//! Prints one JSON object. `integration-tests/bench/bench_cpu.py` runs it beside llama.cpp; by hand:
//! `cargo run --release -p text-generation-backend --example bench_cpu -- --model-path DIR`.
//! Tokens are arbitrary and sampling is greedy: no step depends on what the model says.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use text_generation_backend::config::ModelConfig;
use text_generation_backend::executor::{Budget, Executor, Input, Row, Start, Step};
use text_generation_backend::memory_plan::{self, BLOCK_SIZE};
use text_generation_backend::model::{decoder::Decoder, load};
use text_generation_backend::ops::cpu::CpuOps;
use text_generation_backend::sampler::SamplingParameters;
use text_generation_backend::weights::Checkpoint;

#[derive(Parser)]
struct Args {
    #[arg(long)]
    model_path: PathBuf,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Tokens of the timed prompt.
    #[arg(long, default_value_t = 512)]
    prompt: usize,
    /// Tokens decoded after it, one at a time.
    #[arg(long, default_value_t = 128)]
    decode: usize,
    /// Sequences that then decode together.
    #[arg(long, default_value_t = 8)]
    sequences: usize,
    /// Tokens of the prompt of each of them.
    #[arg(long, default_value_t = 128)]
    batch_prompt: usize,
    /// Tokens that each of them decodes.
    #[arg(long, default_value_t = 64)]
    batch_decode: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if [args.prompt, args.decode, args.sequences, args.batch_prompt, args.batch_decode].contains(&0) {
        bail!("every count must be at least 1");
    }
    let started = Instant::now();
    let config = ModelConfig::from_dir(&args.model_path, None)?;
    let checkpoint = Checkpoint::open(&args.model_path)?;
    let mut ops = CpuOps::new(args.threads);
    let level = ops.level().name();
    let weights = load::load(&mut ops, &config, &checkpoint, &mut |_, _| {})?;
    let executor = Executor::new(Decoder::new(ops, config.clone(), weights));
    let mut bench = Bench::new(executor, &config, &args)?;
    let load = started.elapsed();
    bench.warm_up()?;
    let (prompt, decode) = bench.alone(args.prompt, args.decode)?;
    let together = bench.together(&args)?;
    let peak_rss_mb = peak_rss_mb()?;
    let weight_bytes = bytes_per_token(&config, &checkpoint);
    let kv_bytes = memory_plan::kv_bytes_per_token(&config, size_of::<f32>());
    let report = serde_json::json!({
        "level": level,
        "threads": args.threads,
        "load_s": load.as_secs_f64(),
        "prompt_tok_s": args.prompt as f64 / prompt.as_secs_f64(),
        "decode_tok_s": args.decode as f64 / decode.as_secs_f64(),
        "batch_decode_tok_s": (args.sequences * args.batch_decode) as f64 / together.as_secs_f64(),
        "weight_bytes_per_token": weight_bytes,
        "kv_bytes_per_token": kv_bytes * (args.prompt + args.decode / 2),
        "read_bytes_s": read_bandwidth(args.threads),
        "peak_rss_mb": peak_rss_mb,
    });
    println!("{report}");
    Ok(())
}

struct Bench {
    executor: Executor<CpuOps>,
    vocab: usize,
    next_step: u64,
    next_sequence: u64,
    blocks: usize,
    next_block: usize,
}

impl Bench {
    fn new(mut executor: Executor<CpuOps>, config: &ModelConfig, args: &Args) -> anyhow::Result<Self> {
        let longest = args.prompt.max(args.batch_prompt) + args.decode.max(args.batch_decode) + 1;
        let budget = Budget {
            max_step_tokens: args.prompt.max(args.sequences * args.batch_prompt),
            max_step_rows: args.sequences,
            max_batch_total_tokens: (args.sequences + 2) * longest.next_multiple_of(BLOCK_SIZE),
            max_total_tokens: longest,
        };
        let plan = executor.plan(&budget, memory_plan::available_bytes)?;
        let vocab = config.vocab;
        Ok(Bench { executor, vocab, next_step: 1, next_sequence: 1, blocks: plan.n_blocks, next_block: 0 })
    }

    /// Touches every weight and page once.
    fn warm_up(&mut self) -> anyhow::Result<()> {
        self.alone(32, 2).map(drop)
    }

    /// A row that begins a sequence of `prompt` tokens with room for `total`.
    fn start(&mut self, prompt: usize, total: usize) -> Row {
        let sequence_id = self.next_sequence;
        self.next_sequence += 1;
        let n_blocks = (total + 1).div_ceil(BLOCK_SIZE);
        let new_blocks = (0..n_blocks).map(|i| ((self.next_block + i) % self.blocks) as u32).collect();
        self.next_block += n_blocks;
        let token = |i: usize| ((i * 7919 + 1000 * sequence_id as usize) % (self.vocab / 2) + 100) as u32;
        let tokens = (0..prompt).map(token).collect();
        let sampling = Some(SamplingParameters::GREEDY);
        Row {
            sequence_id,
            start: Some(Start { sampling, prompt_length: prompt, ..Start::default() }),
            position: 0,
            new_blocks,
            input: Some(Input::Tokens(tokens)),
            sample: true,
            score_ids: Vec::new(),
            allowed: Vec::new(),
        }
    }

    fn step(&mut self, rows: Vec<Row>, forget: Vec<u64>) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let outcome = self.executor.step(Step { step_id: self.next_step, forget, rows })?;
        self.next_step += 1;
        let elapsed = started.elapsed();
        for row in outcome.results {
            row.result.map_err(anyhow::Error::msg)?;
        }
        Ok(elapsed)
    }

    /// Times of `n` decode steps of `sequences` that have `prompt` tokens each.
    fn decode(&mut self, sequences: &[u64], prompt: usize, n: usize) -> anyhow::Result<Duration> {
        let mut total = Duration::ZERO;
        for i in 0..n {
            let row = |&sequence_id: &u64| Row {
                sequence_id,
                start: None,
                position: prompt + i,
                new_blocks: Vec::new(),
                input: Some(Input::LastSampled),
                sample: true,
                score_ids: Vec::new(),
                allowed: Vec::new(),
            };
            total += self.step(sequences.iter().map(row).collect(), Vec::new())?;
        }
        self.step(Vec::new(), sequences.to_vec())?;
        Ok(total)
    }

    /// Times of one prompt and of decoding after it.
    fn alone(&mut self, prompt: usize, decode: usize) -> anyhow::Result<(Duration, Duration)> {
        let row = self.start(prompt, prompt + decode);
        let id = row.sequence_id;
        Ok((self.step(vec![row], Vec::new())?, self.decode(&[id], prompt, decode)?))
    }

    fn together(&mut self, args: &Args) -> anyhow::Result<Duration> {
        let (prompt, n) = (args.batch_prompt, args.batch_decode);
        let rows: Vec<_> = (0..args.sequences).map(|_| self.start(prompt, prompt + n)).collect();
        let ids: Vec<_> = rows.iter().map(|r| r.sequence_id).collect();
        self.step(rows, Vec::new())?;
        self.decode(&ids, prompt, n)
    }
}

/// Weights that a decode step reads: all but an embedding matrix that is not also the head.
fn bytes_per_token(config: &ModelConfig, checkpoint: &Checkpoint) -> usize {
    let embedding = if config.tied { 0 } else { config.vocab * config.hidden * 2 };
    checkpoint.total_bytes().saturating_sub(embedding)
}

/// Bytes a second that `threads` threads read from memory, the best of several passes.
fn read_bandwidth(threads: usize) -> f64 {
    let words = vec![1u64; 32 << 20];
    let share = words.len().div_ceil(threads.max(1));
    let pass = || {
        let started = Instant::now();
        let total: u64 = std::thread::scope(|scope| {
            let parts: Vec<_> = words.chunks(share).map(|part| scope.spawn(|| sum(part))).collect();
            parts.into_iter().map(|part| part.join().unwrap_or(0)).sum()
        });
        assert_eq!(total, words.len() as u64);
        size_of_val(&words[..]) as f64 / started.elapsed().as_secs_f64()
    };
    (0..8).map(|_| pass()).fold(0.0, f64::max)
}

/// Sixty-four running sums, so that only memory limits it.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 64];
    for chunk in words.as_chunks::<64>().0 {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().sum()
}

fn peak_rss_mb() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM is missing")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse().context("VmHWM is not a number")?;
    Ok(kib / 1024.0)
}
