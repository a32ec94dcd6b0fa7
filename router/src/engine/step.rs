//! What crosses the border between the engine and a shard: a planned step and its outcome.
//!
//! The shard link turns these into protocol messages and back; the scheduler and the engine make and
//! read them. Plain data: nothing here decides or waits.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::sequence::SeqId;
use crate::request::{Sampling, TokenLogprob};

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
    /// True when the step holds tokens of a prompt (alone or beside decodes).
    pub fn is_prefill(&self) -> bool {
        self.rows.iter().any(|row| matches!(row.input, RowInput::Prompt { .. }))
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
    /// With a sequence's first row, and only then.
    pub start: Option<StartSequence>,
    /// Of the first input token, counted from 0.
    pub position: u32,
    /// Appended to the sequence's block table before the row runs.
    pub new_blocks: Vec<u32>,
    pub input: RowInput,
    /// Sample after the last input token.
    pub sample: bool,
}

/// What a shard must know of a sequence once.
#[derive(Debug, Clone, PartialEq)]
pub struct StartSequence {
    pub sampling: Sampling,
    /// Tokens of the whole prompt, whatever the first chunk's size.
    pub prompt_length: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RowInput {
    /// The prompt's tokens at positions `chunk`.
    Prompt { ids: Arc<[u32]>, chunk: Range<usize> },
    /// The token the shard sampled last for this sequence.
    LastSampled,
}

/// A shard's answer to one step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    pub step_id: u64,
    /// One a row with `sample`, in the rows' order; other rows appear only with an error.
    pub results: Vec<RowOutcome>,
    /// Forward pass and sampling.
    pub compute: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RowOutcome {
    pub seq_id: SeqId,
    /// `Err`: this sequence failed, others are unaffected.
    pub result: Result<SampledToken, String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SampledToken {
    pub token: TokenLogprob,
    /// Best first.
    pub top: Vec<TokenLogprob>,
}
