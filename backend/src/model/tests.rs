//! The decoder against the definition of each family, and its promise that company changes nothing.

use super::decoder::{Decoder, Memory, Room};
use super::rope;
use super::tiny::{KINDS, Tiny};
use crate::batch::{Batch, Span};
use crate::ops::Ops;
use crate::ops::cpu::CpuOps;
use crate::ops::reference::ReferenceOps;

/// A sequence with blocks scattered over the cache, no two sequences sharing one.
struct Sequence {
    ids: Vec<u32>,
    prompt_length: usize,
    blocks: Vec<u32>,
}

fn sequences(tiny: &Tiny, block_size: usize) -> Vec<Sequence> {
    let lengths = [(1, 1), (37, 37), (5, 3), (18, 18), (40, 33), (12, 12)];
    let sequence = |(index, (length, prompt_length)): (usize, (usize, usize))| {
        let id = |i: usize| ((i * 31 + index * 17 + i * i * 7) % tiny.config.vocab) as u32;
        let blocks =
            (0..length.div_ceil(block_size)).map(|b| (b * lengths.len() + lengths.len() - 1 - index) as u32);
        Sequence { ids: (0..length).map(id).collect(), prompt_length, blocks: blocks.collect() }
    };
    lengths.into_iter().enumerate().map(sequence).collect()
}

struct Runner<O: Ops> {
    decoder: Decoder<O>,
    memory: Memory<O>,
}

impl<O: Ops> Runner<O> {
    fn new(tiny: &Tiny, ops: O, block_size: usize) -> Runner<O> {
        let mut decoder = tiny.decoder(ops);
        let room = Room { n_blocks: 80, block_size, max_rows: 128, max_logits_rows: 128 };
        let memory = decoder.allocate(&room).unwrap();
        Runner { decoder, memory }
    }

    /// One pass over pieces (sequence, first position, rows): the logits of all rows.
    fn pass(&mut self, pieces: &[(&Sequence, usize, usize)]) -> Vec<Vec<f32>> {
        let mut batch = Batch::default();
        for (sequence, position, n_rows) in pieces {
            batch.spans.push(Span {
                first_row: batch.tokens.len(),
                n_rows: *n_rows,
                position: *position,
                blocks: sequence.blocks.clone(),
                rope_theta: rope::theta(&self.decoder.config().rope, sequence.prompt_length),
            });
            batch.tokens.extend_from_slice(&sequence.ids[*position..][..*n_rows]);
        }
        batch.logits_rows = (0..batch.n_rows()).collect();
        self.decoder.forward(&mut self.memory, &batch).unwrap();
        self.decoder.logits(&mut self.memory, &batch.logits_rows).unwrap();
        let read = |row| self.decoder.read_logits(&self.memory, row).unwrap().into_owned();
        (0..batch.n_rows()).map(read).collect()
    }

    /// All rows of one sequence, `chunk` tokens a pass.
    fn alone(&mut self, sequence: &Sequence, chunk: usize) -> Vec<Vec<f32>> {
        let length = sequence.ids.len();
        (0..length).step_by(chunk).flat_map(|p| self.pass(&[(sequence, p, chunk.min(length - p))])).collect()
    }
}

fn check_definition<O: Ops>(make: impl Fn() -> O, block_size: usize) {
    for kind in KINDS {
        let tiny = Tiny::new(kind);
        let mut runner = Runner::new(&tiny, make(), block_size);
        for sequence in sequences(&tiny, block_size) {
            let expected = tiny.logits(&sequence.ids, sequence.prompt_length);
            let got = runner.alone(&sequence, usize::MAX);
            for (position, (got, expected)) in got.iter().zip(&expected).enumerate() {
                for (id, (got, expected)) in got.iter().zip(expected).enumerate() {
                    let difference = (f64::from(*got) - expected).abs();
                    assert!(
                        difference < 2e-4 * expected.abs().max(1.0),
                        "{kind:?} position {position} of {} token {id}: {got}, expected {expected}",
                        sequence.ids.len()
                    );
                }
            }
        }
    }
}

/// Bit for bit the same logits: whole, in chunks, one token at a time, in a batch in either order.
fn check_company_changes_nothing<O: Ops>(make: impl Fn() -> O, block_size: usize) {
    for kind in KINDS {
        let tiny = Tiny::new(kind);
        let sequences = sequences(&tiny, block_size);
        let mut runner = Runner::new(&tiny, make(), block_size);
        let alone: Vec<_> = sequences.iter().map(|s| runner.alone(s, usize::MAX)).collect();
        for chunk in [1, 3, 16] {
            let mut runner = Runner::new(&tiny, make(), block_size);
            for (sequence, expected) in sequences.iter().zip(&alone) {
                assert!(runner.alone(sequence, chunk) == *expected, "{kind:?} in chunks of {chunk}");
            }
        }
        for reversed in [false, true] {
            let mut runner = Runner::new(&tiny, make(), block_size);
            let mut order: Vec<usize> = (0..sequences.len()).collect();
            if reversed {
                order.reverse();
            }
            let whole = |&i: &usize| (&sequences[i], 0, sequences[i].ids.len());
            let got = runner.pass(&order.iter().map(whole).collect::<Vec<_>>());
            let expected: Vec<_> = order.iter().flat_map(|&i| alone[i].clone()).collect();
            assert!(got == expected, "{kind:?} all in one batch, reversed: {reversed}");
        }
    }
}

#[test]
fn the_decoder_computes_what_its_family_defines() {
    check_definition(ReferenceOps::default, 4);
    check_definition(|| CpuOps::new(2), 32);
}

#[test]
fn company_changes_nothing() {
    check_company_changes_nothing(ReferenceOps::default, 4);
    check_company_changes_nothing(|| CpuOps::new(3), 32);
}
