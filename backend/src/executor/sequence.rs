//! The sequences that a shard knows, and the checks that a row must pass before it touches one.
//! Called by the executor for every row of a step. A row that fails changes nothing, so a fault
//! stays with the row that has it.

use std::collections::{HashMap, HashSet};

use super::step::{Input, Row, Start};
use crate::config::ModelConfig;
use crate::memory_plan::BLOCK_SIZE;
use crate::model::rope;
use crate::sampler::{SamplingParameters, TokenCounts};

/// What `Plan` fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub max_step_tokens: usize,
    pub max_step_rows: usize,
    pub max_total_tokens: usize,
    pub n_blocks: usize,
}

/// One running sequence.
#[derive(Debug, Clone)]
pub struct Sequence {
    pub sampling: SamplingParameters,
    /// Of all tokens so far; kept only for a sequence with penalties.
    pub counts: TokenCounts,
    prompt_length: usize,
    pub rope_theta: f64,
    /// Physical block ids, in order of position.
    pub blocks: Vec<u32>,
    /// Tokens whose K and V are in the cache, those of the running step included.
    pub n_tokens: usize,
    /// Sampled after the last token, and not yet an input.
    pub last_sampled: Option<u32>,
}

impl Sequence {
    fn new(start: &Start, sampling: SamplingParameters, config: &ModelConfig) -> Sequence {
        let mut sequence = Sequence {
            sampling,
            counts: TokenCounts::default(),
            prompt_length: start.prompt_length,
            rope_theta: rope::theta(&config.rope, start.prompt_length),
            blocks: Vec::new(),
            n_tokens: 0,
            last_sampled: None,
        };
        sequence.append(&start.cached_ids);
        sequence
    }

    fn append(&mut self, tokens: &[u32]) {
        if self.sampling.penalizes() {
            for (position, &token) in (self.n_tokens..).zip(tokens) {
                match position < self.prompt_length {
                    true => self.counts.add_prompt(token),
                    false => self.counts.add_generated(token),
                }
            }
        }
        self.n_tokens += tokens.len();
        self.last_sampled = None;
    }
}

/// A row that passed all checks and is part of its sequence now.
#[derive(Debug, Clone, PartialEq)]
pub struct AdmittedRow {
    /// Place in the step.
    pub index: usize,
    pub sequence_id: u64,
    pub tokens: Vec<u32>,
    /// Of the first token.
    pub position: usize,
    pub sample: bool,
}

/// All sequences of this shard.
#[derive(Debug, Default)]
pub struct SequenceTable {
    sequences: HashMap<u64, Sequence>,
}

impl SequenceTable {
    pub fn clear(&mut self) {
        self.sequences.clear();
    }

    /// Unknown sequences are fine: one may end before its first row was accepted.
    pub fn forget(&mut self, sequence_ids: &[u64]) {
        for id in sequence_ids {
            self.sequences.remove(id);
        }
    }

    pub fn get(&self, sequence_id: u64) -> Option<&Sequence> {
        self.sequences.get(&sequence_id)
    }

    pub fn get_mut(&mut self, sequence_id: u64) -> Option<&mut Sequence> {
        self.sequences.get_mut(&sequence_id)
    }

    /// Checks `row` and makes it part of its sequence.
    pub fn admit(&mut self, row: Row, admission: &mut Admission) -> Result<AdmittedRow, String> {
        let index = admission.next_index();
        if admission.sequence_ids.contains(&row.sequence_id) {
            return Err("a second row for this sequence in one step".to_owned());
        }
        let new = match (&row.start, self.sequences.get(&row.sequence_id)) {
            (Some(_), Some(_)) => return Err("start of a sequence that was started already".to_owned()),
            (None, None) => return Err("no such sequence; its first row must carry `start`".to_owned()),
            (Some(start), None) => Some(admission.check_start(start)?),
            (None, Some(_)) => None,
        };
        let known = new.as_ref().or_else(|| self.sequences.get(&row.sequence_id));
        let sequence = known.expect("invariant: it is new or in the table");
        let tokens = admission.check_row(&row, sequence)?;
        admission.count(row.sequence_id, tokens.len())?;
        if let Some(sequence) = new {
            self.sequences.insert(row.sequence_id, sequence);
        }
        let sequence = self.get_mut(row.sequence_id).expect("invariant: it is in the table");
        sequence.blocks.extend_from_slice(&row.new_blocks);
        sequence.append(&tokens);
        let Row { sequence_id, position, sample, .. } = row;
        Ok(AdmittedRow { index, sequence_id, tokens, position, sample })
    }
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

    fn next_index(&mut self) -> usize {
        self.n_seen += 1;
        self.n_seen - 1
    }

    fn check_start(&self, start: &Start) -> Result<Sequence, String> {
        let sampling = start.sampling.ok_or("start without sampling parameters")?;
        sampling.check()?;
        let longest = self.limits.max_total_tokens;
        if start.prompt_length == 0 || start.prompt_length > longest {
            return Err(format!("prompt_length must be 1..={longest}, got {}", start.prompt_length));
        }
        self.check_ids(&start.cached_ids)?;
        Ok(Sequence::new(start, sampling, self.config))
    }

    /// The row's input tokens, if everything about it fits `sequence` (as it was before the row).
    fn check_row(&self, row: &Row, sequence: &Sequence) -> Result<Vec<u32>, String> {
        if row.position != sequence.n_tokens {
            return Err(format!("row at position {}, expected {}", row.position, sequence.n_tokens));
        }
        let tokens = match &row.input {
            Some(Input::Tokens(ids)) if !ids.is_empty() => ids.clone(),
            Some(Input::LastSampled) => {
                vec![
                    sequence
                        .last_sampled
                        .ok_or("last_sampled, but the last row of this sequence sampled nothing")?,
                ]
            }
            _ => return Err("row without input tokens".to_owned()),
        };
        self.check_ids(&tokens)?;
        let end = row.position.saturating_add(tokens.len());
        if end > self.limits.max_total_tokens {
            let longest = self.limits.max_total_tokens;
            return Err(format!("{end} tokens, but a sequence has at most {longest} (max_total_tokens)"));
        }
        self.check_blocks(row, sequence, end)?;
        Ok(tokens)
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
    fn count(&mut self, sequence_id: u64, n_tokens: usize) -> Result<(), String> {
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
