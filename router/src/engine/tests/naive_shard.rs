//! A shard that computes nothing and checks everything the step protocol promises it.
//!
//! It remembers who wrote each KV slot, so a block that is shared or reused too early shows up as a
//! position of a sequence that holds someone else's token.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::engine::testing::sampled;
use crate::engine::{PlannedRow, PlannedStep, RowInput, RowOutcome, SeqId, StepOutcome};

#[derive(Debug, Default)]
struct Known {
    blocks: Vec<u32>,
    prompt_length: u32,
    next_position: u32,
    /// The last row sampled.
    has_sample: bool,
    failed: bool,
}

#[derive(Debug)]
pub struct NaiveShard {
    block_size: u32,
    last_step_id: u64,
    known: BTreeMap<SeqId, Known>,
    /// Owner and position of what each (block, offset) holds.
    kv: HashMap<(u32, u32), (SeqId, u32)>,
}

/// The token that sequence `seq_id` has at `position`; one in five is the end-of-sequence token 0.
pub fn token_at(seq_id: SeqId, position: u32) -> u32 {
    let mixed = (seq_id.0 << 32 | u64::from(position)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as u32 % 5
}

impl NaiveShard {
    pub fn new(block_size: u32) -> Self {
        Self::after(block_size, 0)
    }

    /// A fresh shard that takes the place of one that was sent steps up to `last_step_id`.
    pub fn after(block_size: u32, last_step_id: u64) -> Self {
        Self { block_size, last_step_id, known: BTreeMap::new(), kv: HashMap::new() }
    }

    pub fn last_step_id(&self) -> u64 {
        self.last_step_id
    }

    pub fn n_known(&self) -> usize {
        self.known.len()
    }

    /// Runs a step; the row at `fail` (if there is one) fails, and so do its sequence's later rows.
    pub fn execute(&mut self, step: &PlannedStep, fail: Option<usize>) -> StepOutcome {
        assert_eq!(step.step_id, self.last_step_id + 1, "steps are numbered without a gap");
        self.last_step_id = step.step_id;
        for seq_id in &step.forget {
            assert!(self.known.remove(seq_id).is_some(), "{seq_id:?} is forgotten once, after its start");
        }
        assert!(!step.rows.is_empty());
        assert!(step.rows.is_sorted_by(|a, b| a.seq_id < b.seq_id), "one row a sequence");
        let mut results = Vec::new();
        for (i, row) in step.rows.iter().enumerate() {
            let token = self.run_row(row);
            let known = self.known.get_mut(&row.seq_id).expect("started");
            known.failed |= fail == Some(i);
            if known.failed {
                results.push(RowOutcome { seq_id: row.seq_id, result: Err("failed".into()) });
            } else if row.sample {
                results.push(RowOutcome { seq_id: row.seq_id, result: Ok(sampled(token)) });
            }
        }
        StepOutcome { step_id: step.step_id, results, compute: Duration::ZERO }
    }

    fn run_row(&mut self, row: &PlannedRow) -> u32 {
        if let Some(start) = &row.start {
            let known = Known { prompt_length: start.prompt_length, ..Known::default() };
            assert!(self.known.insert(row.seq_id, known).is_none(), "a start comes once");
        }
        let known = self.known.get_mut(&row.seq_id).expect("the first row carries a start");
        assert_eq!(row.position, known.next_position, "positions follow each other");
        known.blocks.extend(&row.new_blocks);
        let n_tokens = match &row.input {
            RowInput::Prompt { ids, chunk } => {
                assert_eq!(chunk.start as u32, row.position);
                assert_eq!(ids.len() as u32, known.prompt_length);
                chunk.len() as u32
            }
            RowInput::LastSampled => {
                assert!(known.has_sample, "there is a last sampled token");
                1
            }
        };
        assert!(n_tokens > 0);
        known.next_position += n_tokens;
        known.has_sample = row.sample;
        assert_eq!(row.sample, known.next_position >= known.prompt_length, "only a whole prompt samples");
        self.write_kv(row.seq_id, row.position);
        token_at(row.seq_id, self.known[&row.seq_id].next_position)
    }

    /// Writes the row's tokens, then checks that all of the sequence is still there.
    fn write_kv(&mut self, seq_id: SeqId, from: u32) {
        let known = &self.known[&seq_id];
        let slot = |position: u32| {
            let block = known.blocks.get((position / self.block_size) as usize);
            (*block.expect("the block table covers every position"), position % self.block_size)
        };
        for position in from..known.next_position {
            self.kv.insert(slot(position), (seq_id, position));
        }
        for position in 0..known.next_position {
            assert_eq!(self.kv[&slot(position)], (seq_id, position), "KV of another sequence");
        }
    }
}
