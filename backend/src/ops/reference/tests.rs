//! Each operation against its formula in float64, on shapes small enough to check by hand.

use super::*;
use crate::batch::Span;
use crate::config::RopeScaling;
use crate::sampler::philox::uniform;
use crate::weights::{DType, LinearWeight};
use std::sync::Arc;

fn random(seed: u64, n: usize) -> Vec<f32> {
    (0..n).map(|i| (uniform(seed, i as u64) * 4.0 - 2.0) as f32).collect()
}

fn matrix(seed: u64, rows: usize, cols: usize) -> Matrix {
    Matrix::from_values(random(seed, rows * cols), rows, cols)
}

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let range = 0..bytes.len();
    Tensor { name: "test".into(), dtype: DType::F32, shape: shape.to_vec(), data: Arc::new(bytes), range }
}

#[track_caller]
fn check(got: &[f32], expected: impl IntoIterator<Item = f64>) {
    let expected: Vec<f64> = expected.into_iter().collect();
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(*got) - expected).abs() < 1e-5, "element {i}: {got}, expected {expected}");
    }
}

#[test]
fn rms_norm_divides_by_the_root_mean_square() {
    let mut ops = ReferenceOps::default();
    let (x, weight) = (matrix(1, 3, 5), random(3, 5));
    let mut out = Matrix::zeros(3, 5).unwrap();
    ops.rms_norm(&x, &weight, 0.25, &mut out).unwrap();
    for row in 0..3 {
        let x: Vec<f64> = x.row(row).iter().copied().map(f64::from).collect();
        let scale = (x.iter().map(|x| x * x).sum::<f64>() / 5.0 + 0.25).sqrt();
        check(out.row(row), x.iter().zip(&weight).map(|(x, w)| x / scale * f64::from(*w)));
    }
}

#[test]
fn silu_mul_gates_the_second_half_with_the_first() {
    let gate_up = Matrix::from_values(vec![0.0, 1.0, -100.0, 100.0, 7.0, 3.0, 5.0, -2.0], 1, 8);
    let mut out = Matrix::zeros(1, 4).unwrap();
    ReferenceOps::default().silu_mul(&gate_up, &mut out).unwrap();
    check(out.row(0), [0.0, 3.0 / (1.0 + (-1f64).exp()), 0.0, -200.0]);
}

#[test]
fn linear_layers_are_joined_side_by_side_with_their_biases() {
    let mut ops = ReferenceOps::default();
    let x = matrix(1, 2, 3);
    let parts = [(2usize, true), (1, false), (4, true)];
    let weights: Vec<Vec<f32>> = parts.iter().map(|&(n, _)| random(n as u64, n * 3)).collect();
    let biases: Vec<Vec<f32>> = parts.iter().map(|&(n, _)| random(n as u64 + 50, n)).collect();
    let sources: Vec<LinearSource> = (0..3)
        .map(|i| LinearSource {
            name: format!("part {i}"),
            in_features: 3,
            out_features: parts[i].0,
            weight: LinearWeight::Plain(tensor(&[parts[i].0, 3], &weights[i])),
            bias: parts[i].1.then(|| tensor(&[parts[i].0], &biases[i])),
        })
        .collect();
    let layer = ops.load_linear(&sources).unwrap();
    let (mut out, mut delta) = (Matrix::zeros(2, 7).unwrap(), Matrix::zeros(2, 7).unwrap());
    ops.linear(&x, &layer, &mut out).unwrap();
    let mut residual = matrix(9, 2, 7);
    let before = residual.clone();
    ops.linear_add((&x, &layer), &mut delta, &mut residual).unwrap();
    for row in 0..2 {
        let sums = before.row(row).iter().zip(out.row(row)).map(|(a, b)| f64::from(*a) + f64::from(*b));
        check(residual.row(row), sums);
        let dot =
            |w: &[f32]| w.iter().zip(x.row(row)).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
        let expected = (0..3).flat_map(|i| {
            let bias = |n: usize| if parts[i].1 { f64::from(biases[i][n]) } else { 0.0 };
            weights[i].chunks(3).enumerate().map(move |(n, w)| dot(w) + bias(n)).collect::<Vec<_>>()
        });
        check(out.row(row), expected);
    }
    let other = LinearSource { in_features: 2, ..sources[1].clone() };
    let error = ops.load_linear(&[sources[0].clone(), other]).unwrap_err().to_string();
    assert!(error.contains("expected 3 input features"), "{error}");
}

/// Rotation turns the pair (i, i + dim / 2) by position * theta^(-2i / dim), leaves the other
/// dimensions and v alone, and scales q by log-n.
#[test]
fn rope_turns_pairs_by_their_angle() {
    let shape = AttentionShape {
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 6,
        rope_dim: 4,
        logn_seq_length: Some(4),
        window: None,
    };
    let batch = Batch {
        tokens: vec![0; 2],
        spans: vec![Span { first_row: 0, n_rows: 2, position: 8, blocks: vec![0, 2], rope_theta: 50.0 }],
        logits_rows: vec![],
    };
    let mut ops = ReferenceOps::default();
    let kv_shape = KvShape { n_layers: 1, n_blocks: 3, block_size: 8, n_kv_heads: 1, head_dim: 6 };
    let mut kv = ops.new_kv(kv_shape).unwrap();
    let mut qkv = matrix(9, 2, 24);
    let before = qkv.clone();
    ops.begin_step(&batch, &shape, &RopeScaling::NONE).unwrap();
    ops.rope_and_store(&mut qkv, &mut kv, 0, &batch, &shape).unwrap();
    for row in 0..2 {
        let position = (8 + row) as f64;
        let logn = (position + 1.0).ln() / 4f64.ln();
        let expected = (0..24).map(|column| {
            let (head, i) = (column / 6, column % 6);
            let x = |i: usize| f64::from(before.row(row)[head * 6 + i]);
            let (sin, cos) = (position * 50f64.powf(-2.0 * (i % 2) as f64 / 4.0)).sin_cos();
            let rotated = match i {
                _ if head == 3 => x(i),
                0 | 1 => x(i) * cos - x(i + 2) * sin,
                2 | 3 => x(i) * cos + x(i - 2) * sin,
                _ => x(i),
            };
            if head < 2 { rotated * logn } else { rotated }
        });
        check(qkv.row(row), expected);
    }
}

/// Keys and values come from the sequence's own blocks, in position order, up to the query.
#[test]
fn attention_reads_the_past_through_the_block_table() {
    let shape = AttentionShape {
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 2,
        rope_dim: 2,
        logn_seq_length: None,
        window: None,
    };
    let kv_shape = KvShape { n_layers: 2, n_blocks: 5, block_size: 2, n_kv_heads: 2, head_dim: 2 };
    let mut ops = ReferenceOps::default();
    let mut kv = ops.new_kv(kv_shape).unwrap();
    let (keys, values) = (matrix(1, 5, 4), matrix(2, 5, 4));
    let blocks = vec![4, 0, 3];
    for position in 0..5 {
        kv.store(1, &blocks, position, keys.row(position), values.row(position));
    }
    let batch = Batch {
        tokens: vec![0; 2],
        spans: vec![Span { first_row: 0, n_rows: 2, position: 3, blocks, rope_theta: 1.0 }],
        logits_rows: vec![],
    };
    let (qkv, mut out) = (matrix(3, 2, 16), Matrix::zeros(2, 8).unwrap());
    ops.attention(&qkv, &kv, 1, &batch, &shape, &mut out).unwrap();
    for row in 0..2 {
        let expected = (0..4).flat_map(|head| {
            let at = |m: &Matrix, t: usize, i: usize| f64::from(m.row(t)[head / 2 * 2 + i]);
            let q = |i: usize| f64::from(qkv.row(row)[head * 2 + i]);
            let weight = |t: usize| ((q(0) * at(&keys, t, 0) + q(1) * at(&keys, t, 1)) / 2f64.sqrt()).exp();
            let total: f64 = (0..4 + row).map(weight).sum();
            [0, 1].map(|i| (0..4 + row).map(|t| weight(t) / total * at(&values, t, i)).sum::<f64>())
        });
        check(out.row(row), expected.collect::<Vec<_>>());
    }
}

#[test]
fn impossible_sizes_are_refused() {
    let mut ops = ReferenceOps::default();
    assert!(ops.new_act(ActKind::Hidden, usize::MAX, 2).is_err());
    let shape =
        KvShape { n_layers: 1 << 20, n_blocks: 1 << 20, block_size: 32, n_kv_heads: 64, head_dim: 128 };
    assert!(ops.new_kv(shape).is_err());
}
