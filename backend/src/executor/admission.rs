//! The checks that a row must pass before it touches a sequence: nothing that a step says is taken on
//! trust. Called by `SequenceTable::admit`. Every refusal says what was expected.

use std::collections::HashSet;

use super::sequence::{LastSampled, Sequence};
use super::step::{Input, Row, Start};
use crate::config::ModelConfig;
use crate::memory_plan::BLOCK_SIZE;

/// Most tokens of a sequence with a bias: a GPU has room for so many.
pub const MAX_BIASES: usize = 1024;

/// What `Plan` fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub max_step_tokens: usize,
    pub max_step_rows: usize,
    pub max_total_tokens: usize,
    pub n_blocks: usize,
}

/// The input tokens of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum RowTokens {
    Ids(Vec<u32>),
    /// One token, which the device sampled and the host has not seen.
    OnDevice,
}

impl RowTokens {
    pub fn len(&self) -> usize {
        match self {
            RowTokens::Ids(ids) => ids.len(),
            RowTokens::OnDevice => 1,
        }
    }
}

/// A row that passed all checks and is part of its sequence now.
#[derive(Debug, Clone, PartialEq)]
pub struct AdmittedRow {
    /// Place in the step.
    pub index: usize,
    pub sequence_id: u64,
    pub tokens: RowTokens,
    /// Of the first token.
    pub position: usize,
    pub sample: bool,
    /// No longer than `tokens`.
    pub score_ids: Vec<u32>,
    /// A bit for each token that may be sampled, at least one of them set; empty = all.
    pub allowed: Vec<u8>,
}

/// The checks of one step's rows, and what the step holds so far.
#[derive(Debug)]
pub struct Admission<'a> {
    config: &'a ModelConfig,
    limits: &'a Limits,
    n_seen: usize,
    n_tokens: usize,
    sequence_ids: HashSet<u64>,
}

impl<'a> Admission<'a> {
    pub fn new(config: &'a ModelConfig, limits: &'a Limits) -> Admission<'a> {
        Admission { config, limits, n_seen: 0, n_tokens: 0, sequence_ids: HashSet::new() }
    }

    /// Counts every row, good or bad, and says which this one is.
    pub fn next_index(&mut self) -> usize {
        self.n_seen += 1;
        self.n_seen - 1
    }

    pub fn check_first(&self, sequence_id: u64) -> Result<(), String> {
        match self.sequence_ids.contains(&sequence_id) {
            true => Err("a second row for this sequence in one step".to_owned()),
            false => Ok(()),
        }
    }

    /// A new sequence, if it may start like this.
    pub fn check_start(&self, start: &Start) -> Result<Sequence, String> {
        let sampling = start.sampling.ok_or("start without sampling parameters")?;
        sampling.check()?;
        let longest = self.limits.max_total_tokens;
        if start.prompt_length == 0 || start.prompt_length > longest {
            return Err(format!("prompt_length must be 1..={longest}, got {}", start.prompt_length));
        }
        self.check_ids(&start.cached_ids)?;
        self.check_bias(start)?;
        Ok(Sequence::new(start, sampling, self.config))
    }

    /// The row's input tokens, if everything about it fits `sequence` (as it was before the row).
    pub fn check_row(&self, row: &Row, sequence: &Sequence) -> Result<RowTokens, String> {
        if row.position != sequence.n_tokens {
            return Err(format!("row at position {}, expected {}", row.position, sequence.n_tokens));
        }
        let tokens = match &row.input {
            Some(Input::Tokens(ids)) if !ids.is_empty() => RowTokens::Ids(ids.clone()),
            Some(Input::LastSampled) => match sequence.last_sampled {
                LastSampled::Token(id) => RowTokens::Ids(vec![id]),
                LastSampled::OnDevice => RowTokens::OnDevice,
                LastSampled::Nothing => {
                    return Err("last_sampled, but the last row of this sequence sampled nothing".to_owned());
                }
            },
            _ => return Err("row without input tokens".to_owned()),
        };
        if let RowTokens::Ids(ids) = &tokens {
            self.check_ids(ids)?;
        }
        self.check_scores(&row.score_ids, tokens.len())?;
        self.check_allowed(row)?;
        let end = row.position.saturating_add(tokens.len());
        if end > self.limits.max_total_tokens {
            let longest = self.limits.max_total_tokens;
            return Err(format!("{end} tokens, but a sequence has at most {longest} (max_total_tokens)"));
        }
        self.check_blocks(row, sequence, end)?;
        Ok(tokens)
    }

    fn check_scores(&self, score_ids: &[u32], n_tokens: usize) -> Result<(), String> {
        if score_ids.len() > n_tokens {
            return Err(format!("{} tokens to score after {n_tokens} input tokens", score_ids.len()));
        }
        self.check_ids(score_ids)
    }

    fn check_bias(&self, start: &Start) -> Result<(), String> {
        let (ids, values) = (&start.bias_ids, &start.bias_values);
        if ids.len() != values.len() || ids.len() > MAX_BIASES {
            let n = (ids.len(), values.len());
            return Err(format!(
                "{} bias ids and {} values, expected as many, at most {MAX_BIASES}",
                n.0, n.1
            ));
        }
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(format!("a bias must be finite, got {value}"));
        }
        if ids.iter().collect::<HashSet<_>>().len() < ids.len() {
            return Err("a token with two biases".to_owned());
        }
        self.check_ids(ids)
    }

    fn check_allowed(&self, row: &Row) -> Result<(), String> {
        let (vocab, n) = (self.config.vocab, row.allowed.len());
        let wanted = 4 * vocab.div_ceil(32);
        if n == 0 || (n == wanted && row.sample) {
            let any =
                (0..vocab).any(|id| row.allowed.get(id / 8).is_some_and(|byte| byte >> (id % 8) & 1 == 1));
            return if n == 0 || any { Ok(()) } else { Err("no token is allowed".to_owned()) };
        }
        match row.sample {
            true => Err(format!("{n} bytes of allowed tokens, expected none or {wanted}")),
            false => Err("allowed tokens of a row that does not sample".to_owned()),
        }
    }

    fn check_ids(&self, ids: &[u32]) -> Result<(), String> {
        let vocab = self.config.vocab;
        match ids.iter().find(|&&id| id as usize >= vocab) {
            Some(id) => Err(format!("token id {id}, expected less than {vocab}")),
            None => Ok(()),
        }
    }

    fn check_blocks(&self, row: &Row, sequence: &Sequence, end: usize) -> Result<(), String> {
        let n_blocks = self.limits.n_blocks;
        if let Some(block) = row.new_blocks.iter().find(|&&block| block as usize >= n_blocks) {
            return Err(format!("block {block}, expected less than {n_blocks}"));
        }
        let table = sequence.blocks.len() + row.new_blocks.len();
        let (least, most) = (end.div_ceil(BLOCK_SIZE), self.limits.max_total_tokens.div_ceil(BLOCK_SIZE));
        match (least..=most).contains(&table) {
            true => Ok(()),
            false => {
                Err(format!("a block table of {table} blocks for {end} tokens, expected {least} to {most}"))
            }
        }
    }

    /// Makes sure that the step has room for one more row, and takes it.
    pub fn count(&mut self, sequence_id: u64, n_tokens: usize) -> Result<(), String> {
        let Limits { max_step_rows, max_step_tokens, .. } = *self.limits;
        if self.sequence_ids.len() == max_step_rows {
            return Err(format!("a step has at most {max_step_rows} rows (max_step_rows)"));
        }
        if self.n_tokens + n_tokens > max_step_tokens {
            return Err(format!("a step has at most {max_step_tokens} input tokens (max_step_tokens)"));
        }
        self.sequence_ids.insert(sequence_id);
        self.n_tokens += n_tokens;
        Ok(())
    }
}
