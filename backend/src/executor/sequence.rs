//! The sequences that a shard knows. Called by the executor for every row of a step, once
//! `admission` has found the row sound. A row that fails changes nothing, so a fault stays with the
//! row that has it.

use std::collections::HashMap;

use super::admission::{Admission, AdmittedRow, RowTokens};
use super::step::{Row, Start};
use crate::config::ModelConfig;
use crate::model::rope;
use crate::sampler::{SamplingParameters, TokenCounts};

/// What a sequence's last row sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastSampled {
    Nothing,
    Token(u32),
    /// It is in the device's memory; the host may not have seen it yet.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    OnDevice,
}

/// One running sequence.
#[derive(Debug, Clone)]
pub struct Sequence {
    pub sampling: SamplingParameters,
    /// Of all tokens so far; kept only for a sequence with penalties.
    pub counts: TokenCounts,
    /// Added to the logits of these tokens.
    pub bias: Vec<(u32, f32)>,
    pub prompt_length: usize,
    pub rope_theta: f64,
    /// Physical block ids, in order of position.
    pub blocks: Vec<u32>,
    /// Tokens whose K and V are in the cache, those of the running step included.
    pub n_tokens: usize,
    /// Sampled after the last token, and not yet an input.
    pub last_sampled: LastSampled,
}

impl Sequence {
    pub fn new(start: &Start, sampling: SamplingParameters, config: &ModelConfig) -> Sequence {
        let mut sequence = Sequence {
            sampling,
            counts: TokenCounts::default(),
            bias: start.bias_ids.iter().copied().zip(start.bias_values.iter().copied()).collect(),
            prompt_length: start.prompt_length,
            rope_theta: rope::theta(&config.rope, start.prompt_length),
            blocks: Vec::new(),
            n_tokens: 0,
            last_sampled: LastSampled::Nothing,
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
        self.last_sampled = LastSampled::Nothing;
    }
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
        admission.check_first(row.sequence_id)?;
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
        match &tokens {
            RowTokens::Ids(ids) => sequence.append(ids),
            // The device counts it, too.
            RowTokens::OnDevice => sequence.n_tokens += 1,
        }
        let Row { sequence_id, position, sample, score_ids, allowed, .. } = row;
        Ok(AdmittedRow { index, sequence_id, tokens, position, sample, score_ids, allowed })
    }
}
