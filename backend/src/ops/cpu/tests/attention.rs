//! Rotary embedding, the paged cache and attention, over whole sequences.

use super::*;
use crate::batch::{Batch, Span};
use crate::config::RopeScaling;
use crate::ops::ActKind;
use crate::ops::{AttentionShape, KvShape};

const BLOCK: usize = 32;

#[derive(Clone, Copy)]
struct Case {
    shape: AttentionShape,
    /// Tokens of each sequence.
    lengths: &'static [usize],
    /// Tokens a step computes of one sequence.
    chunk: usize,
}

impl Case {
    fn width(&self) -> usize {
        (self.shape.n_heads + 2 * self.shape.n_kv_heads) * self.shape.head_dim
    }

    fn theta(sequence: usize) -> f64 {
        10_000.0 * (1 + sequence) as f64
    }
}

fn shape(n_heads: usize, n_kv_heads: usize, head_dim: usize, rope_dim: usize) -> AttentionShape {
    AttentionShape { n_heads, n_kv_heads, head_dim, rope_dim, logn_seq_length: None, window: None }
}

/// q, k and v of every token of every sequence before the rotation.
fn inputs(case: Case) -> Vec<Vec<f32>> {
    let mut random = Random(case.width() as u64);
    case.lengths.iter().map(|n| random.floats(n * case.width()).iter().map(|x| 2.0 * x).collect()).collect()
}

/// Attention's output for every token, sequence by sequence. `alone` runs each sequence by itself.
fn run(ops: &mut CpuOps, case: Case, alone: bool) -> Vec<Vec<f32>> {
    let (shape, qkv) = (case.shape, inputs(case));
    let longest = *case.lengths.iter().max().unwrap();
    let per_sequence = longest.div_ceil(BLOCK);
    let n_blocks = per_sequence * case.lengths.len() + 1;
    let kv_shape = KvShape {
        n_layers: 2,
        n_blocks,
        block_size: BLOCK,
        n_kv_heads: shape.n_kv_heads,
        head_dim: shape.head_dim,
    };
    let mut kv = ops.new_kv(kv_shape).unwrap();
    let mut outs = vec![Vec::new(); case.lengths.len()];
    let companies: Vec<Vec<usize>> = match alone {
        true => (0..case.lengths.len()).map(|s| vec![s]).collect(),
        false => vec![(0..case.lengths.len()).collect()],
    };
    for company in companies {
        for first in (0..longest).step_by(case.chunk) {
            let members: Vec<_> = company.iter().copied().filter(|&s| first < case.lengths[s]).collect();
            let mut batch = Batch::default();
            let mut rows = Vec::new();
            for &s in &members {
                let n_rows = case.chunk.min(case.lengths[s] - first);
                // Blocks of the sequences are interleaved, and go backwards.
                let blocks = (0..per_sequence)
                    .map(|b| ((per_sequence - 1 - b) * case.lengths.len() + s) as u32)
                    .collect();
                let first_row = batch.tokens.len();
                batch.spans.push(Span {
                    first_row,
                    n_rows,
                    position: first,
                    blocks,
                    rope_theta: Case::theta(s),
                });
                batch.tokens.resize(first_row + n_rows, 0);
                rows.extend_from_slice(&qkv[s][first * case.width()..(first + n_rows) * case.width()]);
            }
            let step = step(ops, case, &batch, &rows, &mut kv);
            let width = shape.n_heads * shape.head_dim;
            for (span, &s) in batch.spans.iter().zip(&members) {
                outs[s]
                    .extend_from_slice(&step[span.first_row * width..(span.first_row + span.n_rows) * width]);
            }
        }
    }
    outs
}

fn step(ops: &mut CpuOps, case: Case, batch: &Batch, rows: &[f32], kv: &mut CpuKv) -> Vec<f32> {
    let mut qkv = act(ops, case.width(), rows);
    let mut out =
        ops.new_act(ActKind::Hidden, batch.n_rows(), case.shape.n_heads * case.shape.head_dim).unwrap();
    ops.set_rows(&mut out, batch.n_rows());
    ops.begin_step(batch, &case.shape, &RopeScaling::NONE).unwrap();
    ops.rope_and_store(&mut qkv, kv, 1, batch, &case.shape).unwrap();
    ops.attention(&qkv, kv, 1, batch, &case.shape, &mut out).unwrap();
    out.values().to_vec()
}

use crate::ops::cpu::CpuKv;

/// A rotated head in float64.
fn rotate(case: Case, sequence: usize, position: usize, head: &[f32]) -> Vec<f64> {
    let dim = case.shape.rope_dim;
    let mut out: Vec<f64> = head.iter().map(|&x| f64::from(x)).collect();
    for i in 0..dim / 2 {
        let angle = position as f64 * Case::theta(sequence).powf(-(2.0 * i as f64) / dim as f64);
        let (a, b) = (f64::from(head[i]), f64::from(head[i + dim / 2]));
        out[i] = a * angle.cos() - b * angle.sin();
        out[i + dim / 2] = b * angle.cos() + a * angle.sin();
    }
    out
}

fn naive(case: Case, sequence: usize) -> Vec<f64> {
    let AttentionShape { n_heads, n_kv_heads, head_dim, logn_seq_length, .. } = case.shape;
    let qkv = &inputs(case)[sequence];
    let tokens: Vec<_> = qkv.chunks(case.width()).collect();
    let head = |t: usize, h: usize| &tokens[t][h * head_dim..(h + 1) * head_dim];
    let mut out = Vec::new();
    for t in 0..tokens.len() {
        let factor = logn_seq_length.map_or(1.0, |n| (((t + 1) as f64).ln() / (n as f64).ln()).max(1.0));
        for h in 0..n_heads {
            let kv_head = h / (n_heads / n_kv_heads);
            let q = rotate(case, sequence, t, head(t, h));
            let score = |j: usize| {
                let k = rotate(case, sequence, j, head(j, n_heads + kv_head));
                q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * factor / (head_dim as f64).sqrt()
            };
            let first = case.shape.window.map_or(0, |window| (t + 1).saturating_sub(window));
            let scores: Vec<f64> = (first..=t).map(score).collect();
            let top = scores.iter().copied().fold(f64::MIN, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..head_dim {
                let v = |j: usize| f64::from(head(j, n_heads + n_kv_heads + kv_head)[d]);
                out.push(weights.iter().enumerate().map(|(j, w)| w * v(first + j)).sum::<f64>() / total);
            }
        }
    }
    out
}

fn cases() -> Vec<Case> {
    let logn = AttentionShape { logn_seq_length: Some(16), ..shape(4, 4, 16, 16) };
    let windowed = |window, shape| AttentionShape { window: Some(window), ..shape };
    vec![
        Case { shape: windowed(40, shape(9, 3, 16, 16)), lengths: &[150, 5, 41], chunk: 64 },
        Case { shape: windowed(33, shape(2, 2, 32, 32)), lengths: &[300], chunk: 1 },
        Case { shape: windowed(1, shape(4, 1, 16, 16)), lengths: &[70, 3], chunk: 7 },
        Case { shape: windowed(130, shape(2, 1, 16, 16)), lengths: &[290], chunk: 33 },
        Case { shape: shape(9, 3, 64, 64), lengths: &[37, 5, 64], chunk: 64 },
        Case { shape: shape(2, 2, 32, 32), lengths: &[70], chunk: 33 },
        Case { shape: shape(14, 2, 16, 16), lengths: &[33, 40], chunk: 7 },
        Case { shape: logn, lengths: &[65], chunk: 16 },
        Case { shape: shape(4, 1, 20, 10), lengths: &[31, 32], chunk: 32 },
        Case { shape: shape(1, 1, 80, 80), lengths: &[3], chunk: 1 },
    ]
}

#[test]
fn matches_float64() {
    for case in cases() {
        let got = run(&mut CpuOps::new(2), case, false);
        for (s, got) in got.iter().enumerate() {
            let want = naive(case, s);
            // Values are in -2..2 and weights sum to one.
            assert_close(got, &want, &vec![1.0; want.len()], 3e-6, &format!("{:?}", case.shape));
        }
    }
}

#[test]
fn the_same_bits_on_every_level_in_any_company_and_chunks() {
    for case in cases() {
        let first: Vec<_> = run(&mut CpuOps::new(1), case, true).iter().map(|x| bits(x)).collect();
        for ops in &mut all_ops() {
            for (alone, chunk) in [(false, case.chunk), (true, 1), (false, 1), (false, 19), (true, 64)] {
                let got: Vec<_> = run(ops, Case { chunk, ..case }, alone).iter().map(|x| bits(x)).collect();
                let (level, threads) = (ops.level().name(), ops.pool.n_threads());
                assert!(got == first, "{:?} {level} {threads} threads {alone} {chunk}", case.shape);
            }
        }
    }
}

/// Decode steps far enough in that the work of one head is split between threads.
#[test]
fn split_decode_gives_the_same_bits() {
    let case = Case { shape: shape(6, 2, 40, 40), lengths: &[300, 263], chunk: 256 };
    let whole = run(&mut CpuOps::new(1), case, false);
    for ops in &mut all_ops() {
        if ops.pool.n_threads() == 1 {
            continue;
        }
        // The last 44 tokens one at a time, by threads of which there are too many for the tasks.
        let decoded = run(ops, Case { chunk: 1, ..case }, false);
        assert!(whole.iter().zip(&decoded).all(|(a, b)| bits(a) == bits(b)), "{}", ops.level().name());
    }
}

#[test]
fn stale_values_of_other_sequences_do_not_leak() {
    let ops = &mut CpuOps::new(1);
    let case = Case { shape: shape(2, 1, 16, 16), lengths: &[5], chunk: 5 };
    let kv_shape = KvShape { n_layers: 2, n_blocks: 1, block_size: BLOCK, n_kv_heads: 1, head_dim: 16 };
    let mut kv = ops.new_kv(kv_shape).unwrap();
    kv.blocks_mut().0.fill(f32::NAN);
    let span = Span { first_row: 0, n_rows: 5, position: 0, blocks: vec![0], rope_theta: Case::theta(0) };
    let batch = Batch { tokens: vec![0; 5], spans: vec![span], logits_rows: vec![] };
    let rows = inputs(case).concat();
    let got = step(ops, case, &batch, &rows, &mut kv);
    assert_eq!(bits(&got), bits(&run(ops, case, true).concat()));
}

#[test]
fn refuses_blocks_and_layers_outside_the_cache() {
    let ops = &mut CpuOps::new(1);
    let shape = shape(2, 1, 16, 16);
    let kv_shape = KvShape { n_layers: 1, n_blocks: 2, block_size: BLOCK, n_kv_heads: 1, head_dim: 16 };
    let mut kv = ops.new_kv(kv_shape).unwrap();
    let mut attempt = |layer: usize, position: usize, blocks: &[u32]| {
        let blocks = blocks.to_vec();
        let span = Span { first_row: 0, n_rows: 1, position, blocks, rope_theta: 1e4 };
        let batch = Batch { tokens: vec![0], spans: vec![span], logits_rows: vec![] };
        let mut qkv = act(ops, 64, &[0.0; 64]);
        ops.begin_step(&batch, &shape, &RopeScaling::NONE).unwrap();
        let result = ops.rope_and_store(&mut qkv, &mut kv, layer, &batch, &shape);
        result.err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_eq!(attempt(0, 31, &[1]), "");
    assert!(attempt(0, 31, &[2]).contains("block 2 of a cache of 2"));
    assert!(attempt(0, 32, &[1]).contains("needs 2 blocks and has 1"));
    assert!(attempt(1, 0, &[1]).contains("layer 1 of a cache for 1"));
    let odd = KvShape { block_size: 48, ..kv_shape };
    assert!(CpuOps::new(1).new_kv(odd).is_err());
    let huge = KvShape { n_blocks: usize::MAX / 2, ..kv_shape };
    assert!(CpuOps::new(1).new_kv(huge).is_err());
}
