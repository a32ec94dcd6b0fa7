//! A sequence that owns blocks: how much of it has been planned since it got them, and its next row.
//!
//! Made at admission by the scheduler, taken apart when the sequence ends, is preempted or its shard dies.

use super::block_pool::BlockTable;
use super::counters::Counters;
use super::sequence::Sequence;
use super::step::{PlannedRow, RowInput, StartSequence};

#[derive(Debug)]
pub struct Running {
    pub sequence: Sequence,
    pub blocks: BlockTable,
    /// Blocks of the table that the shard has been told of.
    n_blocks_sent: usize,
    /// Blocks of the table that the prefix cache has been told of.
    pub n_blocks_published: usize,
    /// Positions whose K and V are in the blocks once all planned steps have run.
    n_planned: usize,
    /// A row that samples is planned: from here on one token a step.
    decoding: bool,
    /// A sample has come back.
    pub has_sampled: bool,
    /// Prompt tokens (in a replay: tokens) that it may compute in the step that is being planned.
    n_allotted: usize,
}

impl Running {
    /// `blocks` hold every token known so far; the first of them hold `n_cached` tokens already. Nothing
    /// of the sequence is in flight.
    pub fn admit(sequence: Sequence, blocks: BlockTable, n_cached: usize, n_shared: usize) -> Self {
        Self {
            sequence,
            blocks,
            n_blocks_sent: 0,
            n_blocks_published: n_shared,
            n_planned: n_cached,
            decoding: false,
            has_sampled: false,
            n_allotted: 0,
        }
    }

    /// Prompt tokens (in a replay: tokens) that no step computes yet, that being planned included.
    pub fn n_prefill_left(&self) -> usize {
        if self.decoding { 0 } else { self.sequence.len() - self.n_planned - self.n_allotted }
    }

    /// Gives it room in the step that is being planned for `n` of its `n_prefill_left`.
    pub fn allot(&mut self, n: usize) {
        self.n_allotted += n;
    }

    /// True when its next token has no block to go to.
    pub fn needs_block(&self, block_size: usize) -> bool {
        self.decoding && !self.sequence.is_fully_planned() && self.n_planned >= self.blocks.len() * block_size
    }

    /// True when it may ever need another block.
    pub fn can_grow(&self, block_size: usize) -> bool {
        self.sequence.max_kv_tokens() > self.blocks.len() * block_size
    }

    /// True once a step carried its start.
    pub fn is_known_to_shard(&self) -> bool {
        self.n_blocks_sent > 0
    }

    /// Its share of the step. `None` when there is nothing to compute.
    pub fn plan_row(&mut self, counters: &mut Counters) -> Option<PlannedRow> {
        let (input, sample) = self.next_input()?;
        let score_ids = self.sequence.ids_to_score(self.n_planned..self.n_planned + input.n_tokens());
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
            allowed: self.sequence.mask().filter(|_| sample).cloned(),
        };
        let n_explicit = if self.decoding { 0 } else { row.input.n_tokens() };
        self.n_blocks_sent = self.blocks.len();
        self.n_planned += row.input.n_tokens();
        self.decoding = sample;
        self.sequence.row_planned(self.n_planned, n_explicit, sample, counters);
        Some(row)
    }

    fn next_input(&mut self) -> Option<(RowInput, bool)> {
        if self.sequence.awaits_mask() {
            return None;
        }
        if self.decoding {
            let more = !self.sequence.is_fully_planned();
            return more.then_some((RowInput::LastSampled, true));
        }
        let end = self.n_planned + std::mem::take(&mut self.n_allotted);
        let ids = (end > self.n_planned).then(|| self.sequence.ids(self.n_planned..end))?;
        Some((RowInput::Tokens(ids), end == self.sequence.len()))
    }
}
