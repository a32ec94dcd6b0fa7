//! What crosses the border between the engine and a shard: a planned step and its outcome.
//!
//! The shard link turns these into protocol messages and back; the scheduler and the engine make and
//! read them. Plain data: nothing here decides or waits.

use std::time::Duration;

use super::sequence::SeqId;
use crate::constraint::TokenMask;
use crate::request::{Sampling, Score, TokenLogprob};

/// One step to execute: after `forget`, all `rows` in one forward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedStep {
    /// Increases by one each step.
    pub step_id: u64,
    /// Sequences that ended: the shard drops them before the rows run.
    pub forget: Vec<SeqId>,
    /// At least one, at most one a sequence, in ascending order of sequence id.
    pub rows: Vec<PlannedRow>,
}

impl PlannedStep {
    /// True when the step holds tokens of a prompt or of a replay (alone or beside decodes).
    pub fn is_prefill(&self) -> bool {
        self.rows.iter().any(|row| matches!(row.input, RowInput::Tokens(_)))
    }

    /// Sequences whose first row this is.
    pub fn n_admitted(&self) -> usize {
        self.rows.iter().filter(|row| row.start.is_some()).count()
    }
}

/// One sequence's share of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedRow {
    pub seq_id: SeqId,
    /// With a sequence's first row, and with the first one after the shard forgot it (a replay).
    pub start: Option<StartSequence>,
    /// Of the first input token, counted from 0.
    pub position: u32,
    /// Appended to the sequence's block table before the row runs.
    pub new_blocks: Vec<u32>,
    pub input: RowInput,
    /// Sample after the last input token.
    pub sample: bool,
    /// Tokens whose log-probability is wanted, one after each of the first input tokens.
    pub score_ids: Vec<u32>,
    /// With a row that samples, if the sequence is constrained: the tokens to choose from.
    pub allowed: Option<TokenMask>,
}

/// What a shard must know of a sequence once.
#[derive(Debug, Clone, PartialEq)]
pub struct StartSequence {
    pub sampling: Sampling,
    /// Tokens of the whole prompt, whatever the first chunk's size; the same in every replay.
    pub prompt_length: u32,
    /// Tokens before the row's position: their K and V are in the first blocks already.
    pub cached_ids: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RowInput {
    /// A chunk of the prompt, or of a sequence that is replayed.
    Tokens(Vec<u32>),
    /// The token the shard sampled last for this sequence.
    LastSampled,
}

impl RowInput {
    pub fn n_tokens(&self) -> usize {
        match self {
            Self::Tokens(ids) => ids.len(),
            Self::LastSampled => 1,
        }
    }
}

/// A shard's answer to one step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    pub step_id: u64,
    /// One a row with `sample`, in the rows' order; other rows appear only with an error.
    pub results: Vec<RowOutcome>,
    /// One a row with `score_ids` that did not fail.
    pub scores: Vec<RowScores>,
    /// Forward pass and sampling.
    pub compute: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RowOutcome {
    pub seq_id: SeqId,
    /// `Err`: this sequence failed, others are unaffected.
    pub result: Result<SampledToken, String>,
}

/// What the model thought of a row's `score_ids`.
#[derive(Debug, Clone, PartialEq)]
pub struct RowScores {
    pub seq_id: SeqId,
    pub scores: Vec<Score>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SampledToken {
    pub token: TokenLogprob,
    /// Best first.
    pub top: Vec<TokenLogprob>,
}
