//! What a decode step takes beside its kernels, on a GPU: steps as the shard runs them, two in flight, against the same
//! captured step launched again and again, where the device never waits for the host.
//!
//! Run by `integration-tests/gpu/run.sh overhead`, with made-up weights; prints a table and writes the figures as JSON.
//! Tokens are arbitrary and sampling is greedy: no step depends on what the model says.

use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use serde_json::{Map, Value, json};
use text_generation_backend::cuda::{self, CudaExecutor};
use text_generation_backend::device_thread::{DeviceKind, Options};
use text_generation_backend::error::StepError;
use text_generation_backend::executor::{Budget, Input, Row, Start, Step, StepExecutor, StepOutcome};
use text_generation_backend::memory_plan::BLOCK_SIZE;
use text_generation_backend::sampler::SamplingParameters;

/// Numbers of sequences.
const BATCHES: [usize; 5] = [1, 8, 16, 32, 64];
const PROMPT: usize = 448;
/// Steps before the captured one is repeated, and again after it: so that on average all have the same context.
const STEPS: usize = 128;
const REPEATS: usize = 128;
/// As many as the shard asks the router to keep going.
const IN_FLIGHT: usize = 2;

#[derive(Parser)]
struct Args {
    #[arg(long)]
    model_path: PathBuf,
    #[arg(long)]
    json: PathBuf,
    #[arg(long, default_value = "unknown")]
    commit: String,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    cuda::available()?;
    let options = Options {
        model_path: args.model_path.clone(),
        quantize: Some("awq".to_owned()),
        device: DeviceKind::Cuda { memory_fraction: 1.0 },
        dummy_weights: true,
    };
    let (executor, info) = cuda::load(&options, 1.0)?;
    let mut bench = Bench::new(executor, info.config.vocab)?;
    let mut figures = Map::new();
    println!("{:>5} {:>10} {:>10} {:>10}", "batch", "step ms", "kernels ms", "overhead");
    for n in BATCHES {
        let (step, kernels) = bench.measure(n)?;
        let share = 1.0 - kernels / step;
        println!("{n:>5} {step:>10.4} {kernels:>10.4} {:>9.2} %", 100.0 * share);
        figures.insert(format!("step_ms_b{n}"), json!(step));
        figures.insert(format!("step_kernels_ms_b{n}"), json!(kernels));
        figures.insert(format!("step_overhead_share_b{n}"), json!(share));
    }
    let settings = json!({"prompt": PROMPT, "steps": 2 * STEPS, "repeats": REPEATS, "in_flight": IN_FLIGHT, "dummy_weights": true});
    let report = json!({"device": gpu_name()?, "commit": args.commit, "settings": settings, "figures": Value::Object(figures)});
    std::fs::write(&args.json, format!("{report:#}\n")).context("cannot write the figures")
}

fn gpu_name() -> anyhow::Result<String> {
    let output =
        Command::new("nvidia-smi").args(["--query-gpu=name", "--format=csv,noheader", "--id=0"]).output();
    let output = output.context("nvidia-smi cannot be run")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

struct Bench {
    executor: CudaExecutor,
    vocab: usize,
    next_step: u64,
    next_sequence: u64,
    blocks: u32,
    told: Receiver<Result<StepOutcome, StepError>>,
    tell: Sender<Result<StepOutcome, StepError>>,
    in_flight: usize,
}

impl Bench {
    fn new(mut executor: CudaExecutor, vocab: usize) -> anyhow::Result<Self> {
        let most = BATCHES.into_iter().max().unwrap_or(1);
        let total = (PROMPT + 2 * STEPS + 1).next_multiple_of(BLOCK_SIZE);
        let budget = Budget {
            max_step_tokens: most * PROMPT,
            max_step_rows: most,
            max_batch_total_tokens: (most + 1) * total,
            max_total_tokens: total,
        };
        executor.plan(&budget)?;
        let (tell, told) = channel();
        Ok(Self { executor, vocab, next_step: 1, next_sequence: 1, blocks: 0, told, tell, in_flight: 0 })
    }

    /// Milliseconds a step of `n` sequences, and of its kernels alone.
    fn measure(&mut self, n: usize) -> anyhow::Result<(f64, f64)> {
        self.blocks = 0;
        let rows: Vec<Row> = (0..n).map(|_| self.start()).collect();
        let ids: Vec<u64> = rows.iter().map(|row| row.sequence_id).collect();
        self.submit(rows, Vec::new())?;
        self.decode(&ids, PROMPT, 16)?;
        let before = self.decode(&ids, PROMPT + 16, STEPS)?;
        let kernels = self.executor.replay(n, REPEATS)?;
        let after = self.decode(&ids, PROMPT + 16 + STEPS, STEPS - 16)?;
        self.submit(Vec::new(), ids)?;
        self.wait(0)?;
        let ms = |time: Duration, steps: usize| time.as_secs_f64() * 1e3 / steps as f64;
        Ok((ms(before + after, 2 * STEPS - 16), ms(kernels, REPEATS)))
    }

    /// A row that begins a sequence.
    fn start(&mut self) -> Row {
        let sequence_id = self.next_sequence;
        self.next_sequence += 1;
        let n_blocks = (PROMPT + 2 * STEPS + 1).div_ceil(BLOCK_SIZE) as u32;
        let new_blocks = (self.blocks..self.blocks + n_blocks).collect();
        self.blocks += n_blocks;
        let token = |i: usize| ((i * 7919 + 1000 * sequence_id as usize) % (self.vocab / 2) + 100) as u32;
        let sampling = Some(SamplingParameters::GREEDY);
        Row {
            sequence_id,
            start: Some(Start { sampling, prompt_length: PROMPT, ..Start::default() }),
            position: 0,
            new_blocks,
            input: Some(Input::Tokens((0..PROMPT).map(token).collect())),
            sample: true,
            score_ids: Vec::new(),
            allowed: Vec::new(),
        }
    }

    /// From when nothing is in flight until nothing is: the time of `n` decode steps.
    fn decode(&mut self, ids: &[u64], position: usize, n: usize) -> anyhow::Result<Duration> {
        self.wait(0)?;
        let started = Instant::now();
        for i in 0..n {
            let row = |&sequence_id: &u64| Row {
                sequence_id,
                start: None,
                position: position + i,
                new_blocks: Vec::new(),
                input: Some(Input::LastSampled),
                sample: true,
                score_ids: Vec::new(),
                allowed: Vec::new(),
            };
            self.submit(ids.iter().map(row).collect(), Vec::new())?;
        }
        self.wait(0)?;
        Ok(started.elapsed())
    }

    fn submit(&mut self, rows: Vec<Row>, forget: Vec<u64>) -> anyhow::Result<()> {
        self.wait(IN_FLIGHT - 1)?;
        let tell = self.tell.clone();
        // Nobody listens any more once the bench has failed.
        let done = Box::new(move |outcome| drop(tell.send(outcome)));
        self.executor.step(Step { step_id: self.next_step, forget, rows }, done);
        self.next_step += 1;
        self.in_flight += 1;
        Ok(())
    }

    /// Waits until at most `left` steps are in flight.
    fn wait(&mut self, left: usize) -> anyhow::Result<()> {
        while self.in_flight > left {
            let outcome = self.told.recv().context("the executor has ended")??;
            self.in_flight -= 1;
            for row in outcome.results {
                if let Err(fault) = row.result {
                    bail!("a row failed: {fault}");
                }
            }
        }
        Ok(())
    }
}
