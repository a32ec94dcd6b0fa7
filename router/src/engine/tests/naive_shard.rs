//! A shard that computes nothing and checks everything the step protocol promises it.
//!
//! What it stores for a position is a digest of all tokens up to it, and the token it "samples" is that
//! digest too, as with a model: so a block that is shared wrongly, reused too early or believed to be
//! computed shows up at once, and a replay that loses or repeats a token gives another answer.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::engine::testing::sampled;
use crate::engine::{PlannedRow, PlannedStep, RowInput, RowOutcome, SeqId, StepOutcome};

#[derive(Debug, Default)]
struct Known {
    ids: Vec<u32>,
    blocks: Vec<u32>,
    prompt_length: u32,
    /// Sampled by the last row, and not yet an input.
    last_sampled: Option<u32>,
    failed: bool,
}

#[derive(Debug)]
pub struct NaiveShard {
    block_size: u32,
    /// Prompts beyond it have other keys; 0 = none have.
    ntk_seq_length: u32,
    last_step_id: Option<u64>,
    known: BTreeMap<SeqId, Known>,
    /// What each (block, offset) holds.
    kv: HashMap<(u32, u32), u64>,
}

/// Digests of a sequence's tokens up to each of them, and of what the rotary base does to its keys.
fn digests(ids: &[u32], ntk_seq_length: u32, prompt_length: u32) -> impl Iterator<Item = u64> {
    let mut doublings = 0;
    while ntk_seq_length > 0 && prompt_length > ntk_seq_length << doublings {
        doublings += 1;
    }
    let mix = |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ids.iter().scan(mix(1, doublings), move |hash, &id| {
        *hash = mix(*hash, u64::from(id) + 1);
        Some(*hash)
    })
}

/// The token after `ids`, which are at least one; one in nine is the end-of-sequence token 0.
pub fn token_after(ids: &[u32], ntk_seq_length: u32, prompt_length: u32) -> u32 {
    (digests(ids, ntk_seq_length, prompt_length).last().expect("not empty") >> 33) as u32 % 9
}

impl NaiveShard {
    pub fn new(block_size: u32, ntk_seq_length: u32) -> Self {
        Self { block_size, ntk_seq_length, last_step_id: None, known: BTreeMap::new(), kv: HashMap::new() }
    }

    pub fn n_known(&self) -> usize {
        self.known.len()
    }

    /// Runs a step; the row at `fail` (if there is one) fails, and so do its sequence's later rows.
    pub fn execute(&mut self, step: &PlannedStep, fail: Option<usize>) -> StepOutcome {
        if let Some(last) = self.last_step_id {
            assert_eq!(step.step_id, last + 1, "steps are numbered without a gap");
        }
        self.last_step_id = Some(step.step_id);
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
        StepOutcome { step_id: step.step_id, results, scores: Vec::new(), compute: Duration::ZERO }
    }

    fn run_row(&mut self, row: &PlannedRow) -> u32 {
        if let Some(start) = &row.start {
            let ids = start.cached_ids.clone();
            let known = Known { ids, prompt_length: start.prompt_length, ..Known::default() };
            assert!(self.known.insert(row.seq_id, known).is_none(), "a start comes once");
        }
        let known = self.known.get_mut(&row.seq_id).expect("the first row carries a start");
        assert_eq!(row.position as usize, known.ids.len(), "positions follow each other");
        known.blocks.extend(&row.new_blocks);
        match &row.input {
            RowInput::Tokens(ids) => {
                assert!(!ids.is_empty());
                known.ids.extend(ids);
            }
            RowInput::LastSampled => {
                known.ids.push(known.last_sampled.expect("there is a last sampled token"));
            }
        }
        assert!(
            !row.sample || known.ids.len() >= known.prompt_length as usize,
            "only a whole prompt samples"
        );
        let token = token_after(&known.ids, self.ntk_seq_length, known.prompt_length);
        known.last_sampled = row.sample.then_some(token);
        self.write_kv(row.seq_id, row.position as usize);
        token
    }

    /// Checks that the KV cache holds what the sequence believes it does, then writes the row's.
    fn write_kv(&mut self, seq_id: SeqId, from: usize) {
        let known = &self.known[&seq_id];
        let slot = |position: usize| {
            let block = known.blocks.get(position / self.block_size as usize);
            (*block.expect("the block table covers every position"), position as u32 % self.block_size)
        };
        let contents = digests(&known.ids, self.ntk_seq_length, known.prompt_length);
        for (position, content) in contents.enumerate() {
            if position >= from {
                self.kv.insert(slot(position), content);
            } else {
                assert_eq!(self.kv.get(&slot(position)), Some(&content), "{seq_id:?} lost {position}");
            }
        }
    }
}
