//! What a step costs the engine: planning it and taking its answer, for 256 running and 1,000 waiting
//! requests (`cargo bench -p text-generation-router`).
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use criterion::Criterion;
use text_generation_router::engine::{
    Engine, EngineConfig, PlannedStep, RowOutcome, SampledToken, SeqId, StepOutcome,
};
use text_generation_router::request::{Caller, Limits, Tenant, TokenLogprob, ValidRequest};
use text_generation_router::text::Tokenizer;
use text_generation_router::validation::rules::Rules;
use text_generation_router::validation::{Draft, Input, Validator};

const N_RUNNING: u64 = 256;
const N_WAITING: u64 = 1000;
const MAX_NEW_TOKENS: u32 = 2000;

const LIMITS: Limits = Limits {
    max_input_tokens: 2048,
    max_total_tokens: 4096,
    max_batch_prefill_tokens: 4096,
    max_batch_total_tokens: 1 << 20,
    max_batch_size: N_RUNNING as u32,
    prefix_caching: true,
};

const CONFIG: EngineConfig = EngineConfig {
    max_batch_size: LIMITS.max_batch_size,
    max_batch_prefill_tokens: LIMITS.max_batch_prefill_tokens,
    block_size: 32,
    n_blocks: (LIMITS.max_batch_total_tokens / 32) as u32,
    max_steps_in_flight: 1,
    prefix_caching: true,
    ntk_seq_length: 0,
    max_total_tokens: LIMITS.max_total_tokens,
};

/// Bytes as tokens: the requests bring their ids.
fn validator() -> anyhow::Result<Validator> {
    let dir = tempfile::tempdir()?;
    let line = |byte: u8| format!("{} {byte}\n", STANDARD.encode([byte]));
    std::fs::write(dir.path().join("qwen.tiktoken"), (0..=u8::MAX).map(line).collect::<String>())?;
    let tokenizer = Arc::new(Tokenizer::from_dir(dir.path())?);
    let rules = Rules { max_best_of: 1, max_stop_sequences: 0, max_top_n_tokens: 0 };
    Ok(Validator::new(tokenizer, LIMITS, rules, 256))
}

/// Requests of `n_tenants` tenants with prompts of 1 to 256 tokens, all different.
fn requests(n_tenants: u64) -> anyhow::Result<Vec<ValidRequest>> {
    let validator = validator()?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let request = |i: u64| {
        let ids = (0..1 + i * 37 % 256).map(|k| ((i * 7919 + k * 31) % 256) as u32);
        let mut tenant = [0; 32];
        tenant[..8].copy_from_slice(&(i % n_tenants).to_le_bytes());
        let mut draft = Draft::new(Input::Ids(ids.collect()), i);
        draft.max_new_tokens = Some(MAX_NEW_TOKENS);
        draft.caller = Caller { tenant: Tenant(tenant), deadline: None };
        let accepted = runtime.block_on(validator.validate(draft));
        Ok(accepted.context("a good request")?.request)
    };
    (0..N_RUNNING + N_WAITING).map(request).collect()
}

fn answer(step: &PlannedStep) -> StepOutcome {
    let sampled = || SampledToken { token: TokenLogprob { id: 1, logprob: -1.0 }, top: Vec::new() };
    let rows = step.rows.iter().filter(|row| row.sample);
    let results = rows.map(|row| RowOutcome { seq_id: row.seq_id, result: Ok(sampled()) }).collect();
    StepOutcome { step_id: step.step_id, results, scores: Vec::new(), compute: Duration::ZERO }
}

/// An engine whose batch is full and decodes.
fn busy(requests: &[ValidRequest], now: Instant) -> anyhow::Result<Engine> {
    let mut engine = Engine::new(CONFIG);
    for (id, request) in (1..).zip(requests) {
        anyhow::ensure!(engine.submit(SeqId(id), request.clone(), now).is_empty(), "refused");
    }
    loop {
        let step = engine.plan_step(now).context("a step")?;
        engine.apply(answer(&step), now)?;
        if step.rows.len() as u64 == N_RUNNING && !step.is_prefill() {
            break;
        }
    }
    let counts = (engine.n_running() as u64, engine.n_waiting() as u64);
    anyhow::ensure!(counts == (N_RUNNING, N_WAITING), "running and waiting: {counts:?}");
    Ok(engine)
}

/// Steps before the first of them ends.
const N_STEPS: u32 = MAX_NEW_TOKENS - 100;

/// Time of `n` steps' planning, and of taking their answers.
fn run(requests: &[ValidRequest], n: u64) -> anyhow::Result<[Duration; 2]> {
    let now = Instant::now();
    let mut times = [Duration::ZERO; 2];
    let (mut engine, mut left) = (busy(requests, now)?, N_STEPS);
    for _ in 0..n {
        if left == 0 {
            (engine, left) = (busy(requests, now)?, N_STEPS);
        }
        left -= 1;
        let begun = Instant::now();
        let step = black_box(engine.plan_step(now)).context("a step")?;
        times[0] += begun.elapsed();
        let outcome = answer(&step);
        let begun = Instant::now();
        black_box(engine.apply(outcome, now)?);
        times[1] += begun.elapsed();
    }
    Ok(times)
}

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    for n_tenants in [1, 100] {
        let requests = requests(n_tenants)?;
        run(&requests, 1)?;
        for (i, what) in ["plan a step", "take its answer"].into_iter().enumerate() {
            criterion.bench_function(&format!("{what}, {n_tenants} tenants"), |bencher| {
                bencher.iter_custom(|n| run(&requests, n).expect("invariant: it ran before")[i]);
            });
        }
    }
    Ok(())
}
