//! A sequence that owns blocks: how much of it has been planned since it got them, and its next row.
//!
//! Made at admission by the scheduler, taken apart when the sequence ends, is preempted or its shard dies.

use super::block_pool::BlockTable;
use super::sequence::Sequence;
use super::step::{PlannedRow, RowInput, StartSequence};

#[derive(Debug)]
pub struct Running {
    pub sequence: Sequence,
    blocks: BlockTable,
    /// Blocks of the table that the shard has been told of.
    n_blocks_sent: usize,
    /// Positions whose K and V are in the blocks once all planned steps have run.
    n_planned: usize,
    /// A row that samples is planned: from here on one token a step.
    decoding: bool,
    /// Prompt tokens it may compute in the step that is being planned.
    allotted: usize,
}

impl Running {
    /// `blocks` hold every token known so far. Nothing of the sequence is in flight.
    pub fn admit(sequence: Sequence, blocks: BlockTable) -> Self {
        Self { sequence, blocks, n_blocks_sent: 0, n_planned: 0, decoding: false, allotted: 0 }
    }

    /// Prompt tokens (in a replay: tokens) not planned yet.
    pub fn n_prefill_left(&self) -> usize {
        if self.decoding { 0 } else { self.sequence.len() - self.n_planned }
    }

    /// Gives it room in the step that is being planned for `n` of its `n_prefill_left`.
    pub fn allot(&mut self, n: usize) {
        self.allotted += n;
    }

    /// Its share of the step. `None` when there is nothing to compute.
    pub fn plan_row(&mut self) -> Option<PlannedRow> {
        let (input, n_tokens, sample) = self.next_input()?;
        let score_ids = self.sequence.ids_to_score(self.n_planned..self.n_planned + n_tokens);
        let start = (self.n_blocks_sent == 0).then(|| StartSequence {
            sampling: self.sequence.request.sampling.clone(),
            prompt_length: self.sequence.prompt_len() as u32,
            cached_ids: self.sequence.ids(0..self.n_planned),
        });
        let row = PlannedRow {
            seq_id: self.sequence.seq_id,
            start,
            position: self.n_planned as u32,
            new_blocks: self.blocks.as_slice()[self.n_blocks_sent..].to_vec(),
            input,
            sample,
            score_ids,
        };
        self.n_blocks_sent = self.blocks.as_slice().len();
        self.n_planned += n_tokens;
        self.decoding = sample;
        self.sequence.row_planned(sample);
        Some(row)
    }

    fn next_input(&mut self) -> Option<(RowInput, usize, bool)> {
        if self.decoding {
            let more = !self.sequence.is_fully_planned();
            return more.then_some((RowInput::LastSampled, 1, true));
        }
        let end = self.n_planned + std::mem::take(&mut self.allotted);
        (end > self.n_planned).then(|| {
            let ids = self.sequence.ids(self.n_planned..end);
            (RowInput::Tokens(ids), end - self.n_planned, end == self.sequence.len())
        })
    }

    /// Gives up the blocks.
    pub fn into_parts(self) -> (Sequence, BlockTable) {
        (self.sequence, self.blocks)
    }
}
