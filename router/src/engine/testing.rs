//! What tests of the engine, the driver and the shard link build their cases from: requests,
//! answers, and rows in short. Compiled for tests only.

use std::time::Duration;

use super::{EngineConfig, PlannedStep, RowInput, RowOutcome, SampledToken, SeqId, StepOutcome};
use crate::request::{Caller, Sampling, TokenLogprob, ValidRequest};

/// A request of `n_prompt` tokens; token 0 ends it when `eos`.
pub(crate) fn request(n_prompt: u32, max_new_tokens: u32, eos: bool) -> ValidRequest {
    let eos_ids: &[u32] = if eos { &[0] } else { &[] };
    ValidRequest {
        prompt_ids: (1..=n_prompt).collect(),
        sampling: Sampling::greedy(),
        max_new_tokens,
        eos_ids: eos_ids.into(),
        caller: Caller::ANONYMOUS,
        prompt_logprobs: false,
        constraint: None,
    }
}

pub(crate) fn config() -> EngineConfig {
    EngineConfig {
        max_batch_size: 8,
        max_batch_prefill_tokens: 16,
        block_size: 4,
        n_blocks: 32,
        max_steps_in_flight: 1,
        prefix_caching: false,
        ntk_seq_length: 0,
        max_total_tokens: 65,
    }
}

pub(crate) fn sampled(id: u32) -> SampledToken {
    SampledToken { token: TokenLogprob { id, logprob: -1.0 }, top: Vec::new() }
}

/// An answer in which every row that samples gets `id`.
pub(crate) fn answer(step: &PlannedStep, id: u32) -> StepOutcome {
    let rows = step.rows.iter().filter(|row| row.sample);
    let results = rows.map(|row| RowOutcome { seq_id: row.seq_id, result: Ok(sampled(id)) });
    StepOutcome {
        step_id: step.step_id,
        results: results.collect(),
        scores: Vec::new(),
        compute: Duration::ZERO,
    }
}

/// A row in short: sequence, position, prompt tokens (0 = the last sampled one), whether it samples.
pub(crate) type Row = (u64, u32, usize, bool);

pub(crate) fn rows(step: &PlannedStep) -> Vec<Row> {
    let n_tokens = |input: &RowInput| match input {
        RowInput::Tokens(ids) => ids.len(),
        RowInput::LastSampled => 0,
    };
    step.rows.iter().map(|row| (row.seq_id.0, row.position, n_tokens(&row.input), row.sample)).collect()
}

pub(crate) fn forgotten(step: &PlannedStep) -> Vec<u64> {
    step.forget.iter().map(|&SeqId(id)| id).collect()
}
