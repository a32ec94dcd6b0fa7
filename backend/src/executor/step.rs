//! A step as the executor sees it, and its outcome: plain data, made by `service` from the wire's
//! messages. Nothing in it has been checked.

use crate::sampler::{Sampled, SamplingParameters, Score};

/// One step: after `forget`, all `rows`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Step {
    pub step_id: u64,
    /// Sequences that ended.
    pub forget: Vec<u64>,
    /// At most one a sequence.
    pub rows: Vec<Row>,
}

/// One sequence's share of a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    pub sequence_id: u64,
    /// With a sequence's first row, and only then.
    pub start: Option<Start>,
    /// Of the first input token.
    pub position: usize,
    /// Appended to the sequence's block table.
    pub new_blocks: Vec<u32>,
    pub input: Option<Input>,
    /// Sample after the last input token.
    pub sample: bool,
    /// Tokens whose log-probability is wanted after each of the first input tokens.
    pub score_ids: Vec<u32>,
    /// A bit for each token that may be sampled; empty = all.
    pub allowed: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    Tokens(Vec<u32>),
    /// The token that this sequence sampled last.
    LastSampled,
}

/// What a sequence brings with its first row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Start {
    pub sampling: Option<SamplingParameters>,
    /// Tokens of the prompt; those at later positions were generated.
    pub prompt_length: usize,
    /// Tokens before the row's position, whose K and V are in the first blocks already.
    pub cached_ids: Vec<u32>,
    /// Tokens whose logits get something added, and what.
    pub bias_ids: Vec<u32>,
    pub bias_values: Vec<f32>,
}

/// What a step gave: one outcome a row with `sample`, and one a row that failed, in the rows' order.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    pub step_id: u64,
    pub results: Vec<RowOutcome>,
    /// One a row with `score_ids` that did not fail, in the rows' order.
    pub scores: Vec<RowScores>,
}

/// A row's `score_ids` under the model's own logits.
#[derive(Debug, Clone, PartialEq)]
pub struct RowScores {
    pub sequence_id: u64,
    pub scores: Vec<Score>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RowOutcome {
    pub sequence_id: u64,
    /// `Err`: this row failed and changed nothing; others are unaffected.
    pub result: Result<Sampled, String>,
}
