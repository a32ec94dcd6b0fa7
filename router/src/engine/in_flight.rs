//! Steps whose answer has not come: what was asked, and whether an answer is one to it.
//!
//! Kept by the engine, oldest first. Nothing of an answer may be used before all of it was checked.

use super::sequence::SeqId;
use super::step::{RowOutcome, SampledToken};

/// A reply that does not answer the oldest step in flight: the shard cannot be trusted any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepMismatch {
    #[error("the shard answered step {got}, expected step {expected:?}")]
    Step { expected: Option<u64>, got: u64 },
    #[error("the shard's answer to step {step_id} has no result for sequence {seq_id}")]
    Missing { step_id: u64, seq_id: u64 },
    #[error("the shard's answer to step {step_id} has a result for sequence {seq_id} that was not asked for")]
    Unexpected { step_id: u64, seq_id: u64 },
}

#[derive(Debug)]
pub struct InFlightStep {
    pub step_id: u64,
    pub rows: Vec<InFlightRow>,
}

#[derive(Debug)]
pub struct InFlightRow {
    pub seq_id: SeqId,
    pub sample: bool,
    /// Tokens of the sequence in the KV cache after the row.
    pub n_tokens: usize,
    /// Position of the first token whose log-probability was asked for, and how many were.
    pub scores: (usize, usize),
}

impl InFlightStep {
    /// The shard's results, one for each row.
    pub fn pair(
        &self,
        results: Vec<RowOutcome>,
    ) -> Result<Vec<Option<Result<SampledToken, String>>>, StepMismatch> {
        let step_id = self.step_id;
        let mut results = results.into_iter().peekable();
        let mut paired = Vec::with_capacity(self.rows.len());
        for InFlightRow { seq_id, sample, .. } in &self.rows {
            let result = results.next_if(|result| result.seq_id == *seq_id).map(|r| r.result);
            match result {
                None if *sample => return Err(StepMismatch::Missing { step_id, seq_id: seq_id.0 }),
                Some(Ok(_)) if !sample => {
                    return Err(StepMismatch::Unexpected { step_id, seq_id: seq_id.0 });
                }
                result => paired.push(result),
            }
        }
        match results.next() {
            Some(extra) => Err(StepMismatch::Unexpected { step_id, seq_id: extra.seq_id.0 }),
            None => Ok(paired),
        }
    }
}
