//! The rows of one step in the device's order: sequences with one input token first, which decode attention
//! takes together, then the prompts. Made by the executor from admitted rows; knows no addresses.

use crate::cuda::step_inputs::{SpanInput, Writer};
use crate::cuda::sys;
use crate::executor::admission::{AdmittedRow, RowTokens};
use crate::executor::sequence::{LastSampled, Sequence, SequenceTable};

use super::slots::{Slot, Slots};

/// One sequence's share of a step, with all that the device must know of it.
struct Share {
    tokens: RowTokens,
    position: usize,
    prompt_length: usize,
    theta: f64,
    blocks: Vec<u32>,
    slot: Slot,
    /// Tokens whose log-probability is wanted after the first rows.
    score_ids: Vec<u32>,
    /// How to sample after the last token.
    sampling: Option<sys::QuernSamplingRow>,
    /// The tokens to choose from; empty = all.
    allowed: Vec<u8>,
}

/// See the module.
pub struct StepBatch {
    shares: Vec<Share>,
    n_rows: usize,
    n_decode: usize,
    n_masks: usize,
    /// For each of the step's logits, in order: the index of the row in the request that wants them.
    pub outputs: Vec<Option<usize>>,
    /// For each row of the request that wants scores, in the device's order: its index, and how many.
    pub scores: Vec<(usize, usize)>,
}

impl StepBatch {
    /// `rows` are in `table` and have their `slots`.
    pub fn new(mut rows: Vec<AdmittedRow>, table: &mut SequenceTable, slots: &Slots) -> StepBatch {
        rows.sort_by_key(|row| row.tokens.len() > 1);
        let mut batch = StepBatch {
            shares: Vec::with_capacity(rows.len()),
            n_rows: 0,
            n_decode: 0,
            n_masks: 0,
            outputs: vec![],
            scores: vec![],
        };
        for row in rows {
            let (Some(sequence), Some(slot)) = (table.get_mut(row.sequence_id), slots.get(row.sequence_id))
            else {
                continue;
            };
            batch.push(row, sequence, slot);
        }
        batch
    }

    fn push(&mut self, row: AdmittedRow, sequence: &mut Sequence, slot: Slot) {
        let decodes = row.tokens.len() == 1;
        self.n_rows += row.tokens.len();
        self.n_decode += usize::from(decodes);
        self.n_masks += usize::from(!row.allowed.is_empty());
        let mask = if row.allowed.is_empty() { 0 } else { self.n_masks as i32 };
        let sampling = row.sample.then(|| sys::QuernSamplingRow { mask, ..sampling_row(sequence, slot) });
        // Every decode row has logits, so that a bucket's graph fits whatever is wanted of them.
        if decodes || row.sample {
            self.outputs.push(row.sample.then_some(row.index));
        }
        if !row.score_ids.is_empty() {
            self.scores.push((row.index, row.score_ids.len()));
        }
        if row.sample {
            sequence.last_sampled = LastSampled::OnDevice;
        }
        self.shares.push(Share {
            tokens: row.tokens,
            position: row.position,
            prompt_length: sequence.prompt_length,
            theta: sequence.rope_theta,
            blocks: sequence.blocks.clone(),
            slot,
            score_ids: row.score_ids,
            sampling,
            allowed: row.allowed,
        });
    }

    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub fn n_spans(&self) -> usize {
        self.shares.len()
    }

    pub fn n_decode(&self) -> usize {
        self.n_decode
    }

    /// Rows that may sample some tokens only.
    pub fn n_masks(&self) -> usize {
        self.n_masks
    }

    /// Log-probabilities of given tokens that are wanted.
    pub fn n_scores(&self) -> usize {
        self.scores.iter().map(|(_, n)| n).sum()
    }

    /// Whether a captured decode step does all of it.
    pub fn decodes_only(&self) -> bool {
        self.n_decode == self.shares.len() && self.scores.is_empty()
    }

    /// Rows of the longest prompt; 0 without one.
    pub fn max_prefill_rows(&self) -> usize {
        self.shares[self.n_decode..].iter().map(|share| share.tokens.len()).max().unwrap_or(0)
    }

    pub fn write(&self, writer: &mut Writer) {
        let (mut row, mut output, mut mask, mut score) = (0, 0, 0, 0);
        for (index, share) in self.shares.iter().enumerate() {
            let n_rows = share.tokens.len();
            let span = SpanInput {
                first_row: row,
                n_rows,
                position: share.position,
                theta: share.theta,
                blocks: &share.blocks,
            };
            writer.span(index, &span);
            match &share.tokens {
                RowTokens::OnDevice => writer.row(row, -1 - share.slot.token, share.count_row(0)),
                RowTokens::Ids(ids) => {
                    for (i, &id) in ids.iter().enumerate() {
                        writer.row(row + i, id as i32, share.count_row(i));
                    }
                }
            }
            for (i, &id) in share.score_ids.iter().enumerate() {
                writer.score(score, row + i, id);
                score += 1;
            }
            row += n_rows;
            if !share.allowed.is_empty() {
                writer.mask(mask, &share.allowed);
                mask += 1;
            }
            match &share.sampling {
                Some(sampling) => writer.logits(output, row - 1, sampling),
                None if n_rows == 1 => {}
                None => continue,
            }
            output += 1;
        }
    }
}

impl Share {
    /// Where the `i`-th token is counted: even for the prompt's, odd for generated ones, -1 nowhere.
    fn count_row(&self, i: usize) -> i32 {
        let generated = i32::from(self.position + i >= self.prompt_length);
        self.slot.counts.map_or(-1, |row| 2 * row + generated)
    }
}

fn sampling_row(sequence: &Sequence, slot: Slot) -> sys::QuernSamplingRow {
    let parameters = &sequence.sampling;
    sys::QuernSamplingRow {
        seed: parameters.seed,
        position: sequence.n_tokens as u64,
        temperature: parameters.temperature,
        top_p: parameters.top_p,
        typical_p: parameters.typical_p,
        repetition_penalty: parameters.repetition_penalty,
        frequency_penalty: parameters.frequency_penalty,
        presence_penalty: parameters.presence_penalty,
        top_k: i32::try_from(parameters.top_k).unwrap_or(i32::MAX),
        do_sample: i32::from(parameters.do_sample),
        top_n_tokens: parameters.top_n_tokens as i32,
        slot: slot.token,
        count_slot: slot.counts.unwrap_or(-1),
        n_biases: if slot.counts.is_some() { sequence.bias.len() as i32 } else { 0 },
        mask: 0,
        reserved: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::smollm2;
    use crate::cuda::step_inputs::{Layout, StepShape};
    use crate::executor::admission::{Admission, Limits};
    use crate::executor::{Input, Row, Start};
    use crate::sampler::SamplingParameters;

    const LIMITS: Limits =
        Limits { max_step_tokens: 64, max_step_rows: 8, max_total_tokens: 128, n_blocks: 16 };
    const PENALIZED: SamplingParameters =
        SamplingParameters { repetition_penalty: 1.5, seed: 3, ..SamplingParameters::GREEDY };

    /// The row of a sequence; `Err` holds a later row's position.
    fn row(id: u64, tokens: &[u32], start: Result<SamplingParameters, usize>, sample: bool) -> Row {
        Row {
            sequence_id: id,
            start: start.ok().map(|sampling| Start {
                sampling: Some(sampling),
                prompt_length: 3,
                ..Start::default()
            }),
            position: start.err().unwrap_or(0),
            new_blocks: if start.is_ok() { vec![id as u32] } else { vec![] },
            input: Some(if tokens.is_empty() { Input::LastSampled } else { Input::Tokens(tokens.to_vec()) }),
            sample,
            score_ids: vec![],
            allowed: vec![],
        }
    }

    fn step(table: &mut SequenceTable, slots: &mut Slots, rows: Vec<Row>) -> StepBatch {
        let config = smollm2();
        let mut admission = Admission::new(&config, &LIMITS);
        let mut admit = |row: Row| {
            let (id, start) = (row.sequence_id, row.start.clone());
            let row = table.admit(row, &mut admission).unwrap();
            if let Some(sampling) = start.and_then(|start| start.sampling) {
                slots.assign(id, sampling.penalizes()).unwrap();
            }
            row
        };
        let rows = rows.into_iter().map(&mut admit).collect();
        StepBatch::new(rows, table, slots)
    }

    #[test]
    fn decode_rows_come_first_and_keep_their_outputs() {
        let (mut table, mut slots) = (SequenceTable::default(), Slots::new(8, 2));
        let greedy = SamplingParameters::GREEDY;
        let first = step(
            &mut table,
            &mut slots,
            vec![row(1, &[10, 11, 12], Ok(PENALIZED), true), row(2, &[20, 21], Ok(greedy), false)],
        );
        assert!(!first.decodes_only());
        assert_eq!((first.n_rows(), first.n_spans(), first.n_decode()), (5, 2, 0));
        assert_eq!((first.max_prefill_rows(), &first.outputs[..]), (3, &[Some(0)][..]));

        // A prompt's last token without a sample, a long prompt, and the token that sequence 1 sampled.
        let mut allowed = vec![0; smollm2().vocab.div_ceil(32) * 4];
        allowed[3] = 7;
        let batch = step(
            &mut table,
            &mut slots,
            vec![
                Row { score_ids: vec![31, 32, 33], ..row(3, &[30, 31, 32, 33], Ok(greedy), true) },
                Row { score_ids: vec![23], ..row(2, &[22], Err(2), false) },
                Row { allowed: allowed.clone(), ..row(1, &[], Err(3), true) },
            ],
        );
        assert_eq!((batch.n_rows(), batch.n_spans(), batch.n_decode()), (6, 3, 2));
        assert_eq!(batch.outputs, [None, Some(2), Some(0)]);
        assert_eq!((first.n_masks(), batch.n_masks()), (0, 1));
        assert_eq!((batch.n_scores(), &batch.scores[..]), (4, &[(1, 1), (0, 3)][..]));

        let shape = StepShape {
            rows: 6,
            spans: 3,
            decode_spans: 2,
            logits_rows: 3,
            score_rows: batch.n_scores(),
            table_stride: 4,
            plan_ints: 0,
            mask_words: allowed.len() / 4,
        };
        let layout = Layout::new(shape);
        let mut memory = vec![0u64; layout.bytes / 8];
        batch.write(&mut Writer::new(&layout, bytemuck::cast_slice_mut(&mut memory)));
        let ints = |at: usize, n: usize| &bytemuck::cast_slice::<u64, i32>(&memory)[at / 4..][..n];
        let slot = slots.get(1).unwrap();
        assert_eq!(ints(layout.tokens, 6), [22, -1 - slot.token, 30, 31, 32, 33]);
        // Only sequence 1 has penalties: what it sampled is counted as generated.
        assert_eq!(ints(layout.count_rows, 6), [-1, 2 * slot.counts.unwrap() + 1, -1, -1, -1, -1]);
        assert_eq!(ints(layout.position, 3), [2, 3, 0]);
        assert_eq!(ints(layout.logits_rows, 3), [0, 1, 5]);
        let sampling = |i: usize, field: usize| ints(layout.sampling + 72 * i + field, 1)[0];
        let slot_at = std::mem::offset_of!(sys::QuernSamplingRow, slot);
        assert_eq!([0, 1, 2].map(|i| sampling(i, slot_at)), [-1, slot.token, slots.get(3).unwrap().token]);
        // Only sequence 1 may not choose from all tokens.
        let mask_at = std::mem::offset_of!(sys::QuernSamplingRow, mask);
        assert_eq!([0, 1, 2].map(|i| sampling(i, mask_at)), [0, 1, 0]);
        assert_eq!(ints(layout.masks, 2), [7 << 24, 0]);
        assert_eq!(ints(layout.score_rows, 4), [0, 2, 3, 4]);
        assert_eq!(ints(layout.score_ids, 4), [23, 31, 32, 33]);
    }

    /// Captured steps compute no scores.
    #[test]
    fn a_row_that_is_scored_is_no_plain_decode_row() {
        let (mut table, mut slots) = (SequenceTable::default(), Slots::new(8, 2));
        for (score_ids, decodes_only) in [(vec![], true), (vec![7], false)] {
            slots.forget(&[1]);
            table.forget(&[1]);
            let row = Row { score_ids, ..row(1, &[5], Ok(SamplingParameters::GREEDY), true) };
            assert_eq!(step(&mut table, &mut slots, vec![row]).decodes_only(), decodes_only);
        }
    }
}
