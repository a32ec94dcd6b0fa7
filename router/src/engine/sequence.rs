//! One running sequence: what was planned for it, what came back, which blocks it owns.
//!
//! The scheduler asks it for its next row, the engine feeds it sampled tokens. It counts planned and
//! received samples apart, because a step may be planned before the reply to the one before it.

use std::time::Instant;

use super::block_pool::BlockTable;
use super::queue::Waiting;
use super::step::{PlannedRow, RowInput, SampledToken, StartSequence};
use crate::request::{FinishReason, GenerationEvent, Timing, ValidRequest};

/// Names a sequence for its whole life; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

#[derive(Debug)]
pub struct Sequence {
    seq_id: SeqId,
    request: ValidRequest,
    timing: Timing,
    blocks: BlockTable,
    /// Prompt tokens given to steps so far.
    n_prompt_planned: usize,
    /// Samples that planned steps will bring or have brought; never more than `max_new_tokens`.
    n_samples_planned: u32,
    /// Samples received.
    n_generated: u32,
    /// Planned rows whose reply has not come.
    n_rows_in_flight: u32,
    /// Finished, failed or cancelled: plans no more rows, and replies to it are ignored.
    ended: bool,
}

/// KV tokens a request can ever need. Every token of the sequence is an input of some step, and so
/// written to the KV cache, except the last one generated: `max_new_tokens` ends the sequence there.
pub fn kv_tokens(request: &ValidRequest) -> usize {
    request.prompt_ids.len() + request.max_new_tokens as usize - 1
}

impl Sequence {
    /// `blocks` hold at least `kv_tokens` positions.
    pub fn admit(waiting: Waiting, blocks: BlockTable, now: Instant) -> Self {
        Self {
            seq_id: waiting.seq_id,
            request: waiting.request,
            timing: Timing { queued: waiting.queued, started: now },
            blocks,
            n_prompt_planned: 0,
            n_samples_planned: 0,
            n_generated: 0,
            n_rows_in_flight: 0,
            ended: false,
        }
    }

    /// Plans the sequence's share of a step that has room for `prompt_budget` more prompt tokens.
    /// `None` when there is nothing to compute: no budget, all samples planned, or ended.
    pub fn plan_row(&mut self, prompt_budget: usize) -> Option<PlannedRow> {
        let prompt_len = self.request.prompt_ids.len();
        let row = if self.ended {
            return None;
        } else if self.n_prompt_planned < prompt_len {
            self.plan_chunk(prompt_budget)?
        } else if self.n_samples_planned < self.request.max_new_tokens {
            self.decode_row(prompt_len)
        } else {
            return None;
        };
        self.n_samples_planned += u32::from(row.sample);
        self.n_rows_in_flight += 1;
        Some(row)
    }

    fn plan_chunk(&mut self, prompt_budget: usize) -> Option<PlannedRow> {
        let prompt_len = self.request.prompt_ids.len();
        let start = self.n_prompt_planned;
        let end = prompt_len.min(start + prompt_budget);
        if end == start {
            return None;
        }
        self.n_prompt_planned = end;
        let first = start == 0;
        Some(PlannedRow {
            seq_id: self.seq_id,
            start: first.then(|| StartSequence {
                sampling: self.request.sampling.clone(),
                prompt_length: prompt_len as u32,
            }),
            position: start as u32,
            new_blocks: if first { self.blocks.as_slice().to_vec() } else { Vec::new() },
            input: RowInput::Prompt { ids: self.request.prompt_ids.clone(), chunk: start..end },
            sample: end == prompt_len,
        })
    }

    fn decode_row(&self, prompt_len: usize) -> PlannedRow {
        PlannedRow {
            seq_id: self.seq_id,
            start: None,
            position: prompt_len as u32 + self.n_samples_planned - 1,
            new_blocks: Vec::new(),
            input: RowInput::LastSampled,
            sample: true,
        }
    }

    /// Counts the reply to one of the rows; false when the sequence had ended before it.
    pub fn row_replied(&mut self) -> bool {
        self.n_rows_in_flight -= 1;
        !self.ended
    }

    /// Takes the next sampled token; ends the sequence where TGI does: at `max_new_tokens` first
    /// (even when that token is an end-of-sequence token), then at an end-of-sequence token.
    pub fn accept(&mut self, sampled: SampledToken, now: Instant) -> GenerationEvent {
        self.n_generated += 1;
        let finish = if self.n_generated >= self.request.max_new_tokens {
            Some(FinishReason::Length)
        } else if self.request.eos_ids.contains(&sampled.token.id) {
            Some(FinishReason::Eos)
        } else {
            None
        };
        self.ended = finish.is_some();
        GenerationEvent::Token {
            token: sampled.token,
            top: sampled.top,
            finish,
            timing: self.timing,
            at: now,
        }
    }

    pub fn seq_id(&self) -> SeqId {
        self.seq_id
    }

    /// False once it finished, failed or was cancelled.
    pub fn is_live(&self) -> bool {
        !self.ended
    }

    /// Fails or cancels it.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// True when no step still in flight can write to its blocks and none will be planned.
    pub fn can_be_forgotten(&self) -> bool {
        self.ended && self.n_rows_in_flight == 0
    }

    /// Gives up the blocks, to release them.
    pub fn into_blocks(self) -> BlockTable {
        self.blocks
    }
}
