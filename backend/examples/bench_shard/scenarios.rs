//! What is measured: each scenario runs requests through the shard and reduces the times to figures.
//!
//! Called by `main`. Definitions follow the way in which other engines are timed: decode rates leave the prompt out, a
//! decode step is the interval between two answers of steps in which every sequence decodes, load is a closed loop.

use std::time::Instant;

use crate::report::median;
use crate::shard_client::batch::{Batch, Outcome, Request, Run, StepRecord};
use crate::shard_client::connection::Connection;
use crate::shard_client::greedy;

/// Prompt and new tokens of a request under load.
const LOAD: (usize, usize) = (512, 128);
/// Times that a prompt is repeated within one measurement of its time to first token.
const PROMPTS: usize = 5;

pub struct Scenario {
    pub name: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One sequence: tokens a second after the first one.
    Decode { prompt: usize, new: usize },
    /// One prompt at a time: milliseconds until its first token, median of five.
    FirstToken { prompt: usize },
    /// So many sequences that decode together: milliseconds a step.
    Step { sequences: usize },
    /// So many sequences at a time, each followed by the next: rates and latencies.
    Load { concurrency: usize, requests: usize },
}

/// Every scenario, in the order in which they run.
pub fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut push = |name: String, kind| all.push(Scenario { name, kind });
    for (prompt, new) in [(128, 512), (16, 2048), (1, 8191)] {
        push(format!("decode_tok_s_b1_{prompt}_{new}"), Kind::Decode { prompt, new });
    }
    for sequences in [8, 16, 32, 64] {
        push(format!("decode_step_ms_b{sequences}"), Kind::Step { sequences });
    }
    for prompt in [512, 2048, 3696] {
        push(format!("ttft_ms_{prompt}"), Kind::FirstToken { prompt });
    }
    for (concurrency, requests) in [(8, 32), (16, 48), (32, 96), (64, 192), (128, 256)] {
        push(format!("load_c{concurrency}"), Kind::Load { concurrency, requests });
    }
    all
}

impl Scenario {
    /// Why this shard, as planned, cannot run the scenario.
    pub fn misfit(&self, shard: &Connection) -> Option<String> {
        let (sequences, tokens) = match self.kind {
            Kind::Decode { prompt, new } => (1, prompt + new),
            Kind::FirstToken { prompt } => (1, prompt + 1),
            Kind::Step { sequences } | Kind::Load { concurrency: sequences, .. } => {
                (sequences, LOAD.0 + LOAD.1)
            }
        };
        let (rows, longest) = (shard.request.max_step_rows as usize, shard.request.max_total_tokens as usize);
        let blocks = sequences * tokens.div_ceil(shard.info.block_size as usize);
        match () {
            () if sequences > rows => Some(format!("{sequences} sequences, but a step has {rows} rows")),
            () if tokens > longest => Some(format!("{tokens} tokens, but a sequence has at most {longest}")),
            () if blocks > shard.plan.n_blocks as usize => {
                Some(format!("{blocks} blocks of KV cache, but there are {}", shard.plan.n_blocks))
            }
            () => None,
        }
    }

    /// Long ones are stable, and run once.
    pub fn repeats(&self, asked: usize) -> usize {
        match self.kind {
            Kind::Decode { new, .. } if new > 2048 => 1,
            Kind::Load { .. } => 1,
            _ => asked.max(1),
        }
    }

    /// Not measured: what a device does once for each shape of step is done then.
    pub async fn warm_up(&self, shard: &mut Connection, prompt_budget: usize) -> anyhow::Result<()> {
        let (sequences, prompt, new) = match self.kind {
            Kind::Decode { prompt, .. } => (1, prompt, 8),
            Kind::FirstToken { prompt } => (1, prompt, 1),
            Kind::Step { sequences } | Kind::Load { concurrency: sequences, .. } => (sequences, LOAD.0, 4),
        };
        let requests = requests(shard, sequences, prompt, new);
        Batch::run(shard, &requests, sequences, prompt_budget).await.map(drop)
    }

    /// The figures of one run.
    pub async fn measure(
        &self,
        shard: &mut Connection,
        prompt_budget: usize,
    ) -> anyhow::Result<Vec<(String, f64)>> {
        let (requests, concurrency) = match self.kind {
            Kind::Decode { prompt, new } => (requests(shard, 1, prompt, new), 1),
            Kind::FirstToken { prompt } => (requests(shard, PROMPTS, prompt, 1), 1),
            Kind::Step { sequences } => (requests(shard, sequences, LOAD.0, LOAD.1), sequences),
            Kind::Load { concurrency, requests: n } => (requests(shard, n, LOAD.0, LOAD.1), concurrency),
        };
        let began = Instant::now();
        let run = Batch::run(shard, &requests, concurrency, prompt_budget).await?;
        let figure = |value| vec![(self.name.clone(), value)];
        Ok(match self.kind {
            Kind::Decode { .. } => figure(1.0 / seconds_a_token(&run.outcomes[0])),
            Kind::FirstToken { .. } => figure(first_token_ms(&run)),
            Kind::Step { sequences } => figure(step_ms(&run, sequences)),
            Kind::Load { concurrency, .. } => load(&run, concurrency, began),
        })
    }
}

/// `n` different prompts.
fn requests(shard: &Connection, n: usize, prompt: usize, new: usize) -> Vec<Request> {
    let vocab = shard.info.vocab_size as usize;
    let token = |sequence: usize, i: usize| ((i * 7919 + sequence * 1013) % vocab) as u32;
    let prompt = |sequence| (0..prompt).map(|i| token(sequence, i)).collect();
    (0..n).map(|sequence| Request::new(prompt(sequence), new, greedy(0))).collect()
}

/// After the first token.
fn seconds_a_token(outcome: &Outcome) -> f64 {
    let (first, last) = (outcome.at[0], outcome.at[outcome.at.len() - 1]);
    (last - first).as_secs_f64() / (outcome.at.len() - 1).max(1) as f64
}

fn first_token_ms(run: &Run) -> f64 {
    let ms = |outcome: &Outcome| (outcome.at[0] - outcome.admitted).as_secs_f64() * 1e3;
    median(&run.outcomes.iter().map(ms).collect::<Vec<_>>())
}

/// Median interval of steps in which all decode.
fn step_ms(run: &Run, sequences: usize) -> f64 {
    let all_decode = |step: &StepRecord| step.rows == sequences && step.decode_rows == sequences;
    let intervals: Vec<f64> = run
        .steps
        .windows(2)
        .filter(|pair| pair.iter().all(all_decode))
        .map(|pair| (pair[1].at - pair[0].at).as_secs_f64() * 1e3)
        .collect();
    median(&intervals)
}

fn load(run: &Run, concurrency: usize, began: Instant) -> Vec<(String, f64)> {
    let n_tokens: usize = run.outcomes.iter().map(|outcome| outcome.at.len()).sum();
    let seconds = run.steps.last().map_or(0.0, |step| (step.at - began).as_secs_f64());
    let all = (run.outcomes.len() * LOAD.0 + n_tokens) as f64;
    let token_ms: Vec<f64> = run.outcomes.iter().map(|outcome| seconds_a_token(outcome) * 1e3).collect();
    let name = |figure: &str| format!("load_{figure}_c{concurrency}");
    vec![
        (name("out_tok_s"), n_tokens as f64 / seconds),
        (name("total_tok_s"), all / seconds),
        (name("step_ms"), step_ms(run, concurrency)),
        (name("ttft_ms"), first_token_ms(run)),
        (name("tpot_ms"), median(&token_ms)),
    ]
}
