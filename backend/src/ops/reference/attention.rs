//! Rotary embedding, the paged KV cache and attention, one query at a time. Called by
//! `ReferenceOps` only. Angles are computed in float64 and rounded once, so that positions far into
//! a sequence are as exact as the first; everything after is float32.

use super::matrix::zeroed;
use crate::batch::Batch;
use crate::config::RopeScaling;
use crate::error::LoadError;
use crate::ops::{AttentionShape, KvShape};

/// Cosines and sines of a step's rows, and the factor of Qwen v1's log-n attention.
#[derive(Debug, Default)]
pub struct Rotations {
    /// `[rows, rope_dim / 2]` pairs (cos, sin).
    angles: Vec<(f32, f32)>,
    /// `[rows]`; 1 when log-n attention is off.
    query_factors: Vec<f32>,
}

impl Rotations {
    pub fn compute(&mut self, batch: &Batch, shape: &AttentionShape, scaling: &RopeScaling) {
        self.angles.clear();
        self.query_factors.clear();
        for span in &batch.spans {
            for position in span.position..span.position + span.n_rows {
                for i in 0..shape.rope_dim / 2 {
                    let frequency = span.rope_theta.powf(-(2.0 * i as f64) / shape.rope_dim as f64);
                    let angle = position as f64 * frequency * scaling.factor(i);
                    let [cos, sin] = [angle.cos(), angle.sin()].map(|x| (x * scaling.attention) as f32);
                    self.angles.push((cos, sin));
                }
                self.query_factors.push(logn_factor(position, shape.logn_seq_length));
            }
        }
    }

    /// Rotates the q and k heads of one row of qkv, and scales q.
    pub fn apply(&self, row: usize, qkv: &mut [f32], shape: &AttentionShape) {
        let half = shape.rope_dim / 2;
        let angles = &self.angles[row * half..][..half];
        let rotated = shape.n_heads + shape.n_kv_heads;
        for (index, head) in qkv.chunks_exact_mut(shape.head_dim).take(rotated).enumerate() {
            for (i, (cos, sin)) in angles.iter().enumerate() {
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * cos - b * sin;
                head[i + half] = b * cos + a * sin;
            }
            if index < shape.n_heads {
                head.iter_mut().for_each(|x| *x *= self.query_factors[row]);
            }
        }
    }
}

/// `max(1, ln(p + 1) / ln(seq_length))` at 0-based position p.
fn logn_factor(position: usize, seq_length: Option<usize>) -> f32 {
    match seq_length {
        Some(length) => (((position + 1) as f64).ln() / (length as f64).ln()).max(1.0) as f32,
        None => 1.0,
    }
}

/// K and V of all layers: `[n_layers, n_blocks, block_size, n_kv_heads, head_dim]` each.
#[derive(Debug)]
pub struct PagedKv {
    shape: KvShape,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl PagedKv {
    pub fn new(shape: KvShape) -> Result<PagedKv, LoadError> {
        let KvShape { n_layers, n_blocks, block_size, n_kv_heads, head_dim } = shape;
        let sizes = [n_blocks, block_size, n_kv_heads, head_dim];
        let elements = sizes.into_iter().fold(n_layers, usize::saturating_mul);
        Ok(PagedKv { shape, keys: zeroed("KV cache", elements)?, values: zeroed("KV cache", elements)? })
    }

    /// Writes k and v (`[n_kv_heads, head_dim]`) of the token at `position`.
    pub fn store(&mut self, layer: usize, blocks: &[u32], position: usize, k: &[f32], v: &[f32]) {
        let at = self.offset(layer, blocks, position);
        self.keys[at..][..k.len()].copy_from_slice(k);
        self.values[at..][..v.len()].copy_from_slice(v);
    }

    /// The first `length` tokens of a sequence.
    pub fn sequence<'a>(&'a self, layer: usize, blocks: &'a [u32], length: usize) -> Past<'a> {
        Past { kv: self, layer, blocks, length }
    }

    /// Where the token's K (and V) start.
    fn offset(&self, layer: usize, blocks: &[u32], position: usize) -> usize {
        let KvShape { n_blocks, block_size, n_kv_heads, head_dim, .. } = self.shape;
        let block = layer * n_blocks + blocks[position / block_size] as usize;
        (block * block_size + position % block_size) * n_kv_heads * head_dim
    }
}

/// One sequence's tokens in the cache of one layer.
pub struct Past<'a> {
    kv: &'a PagedKv,
    layer: usize,
    blocks: &'a [u32],
    length: usize,
}

impl<'a> Past<'a> {
    /// K and V of one head at one position, `[head_dim]`.
    fn head(&self, position: usize, head: usize) -> (&'a [f32], &'a [f32]) {
        let width = self.kv.shape.head_dim;
        let at = self.kv.offset(self.layer, self.blocks, position) + head * width;
        (&self.kv.keys[at..][..width], &self.kv.values[at..][..width])
    }
}

/// softmax(q k^T / sqrt(head_dim)) v of the last row of `past`: `q` starts with `[n_heads, head_dim]`, `out` is
/// that. `scores` has room for `past.length` numbers.
pub fn attend(q: &[f32], past: &Past, shape: &AttentionShape, scores: &mut [f32], out: &mut [f32]) {
    let first = shape.first_key(past.length - 1);
    let scores = &mut scores[first..past.length];
    let queries_per_kv_head = shape.n_heads / shape.n_kv_heads;
    let scale = 1.0 / (shape.head_dim as f32).sqrt();
    let heads = q.chunks_exact(shape.head_dim).zip(out.chunks_exact_mut(shape.head_dim));
    for (head, (q, out)) in heads.enumerate() {
        let kv_head = head / queries_per_kv_head;
        for (position, score) in scores.iter_mut().enumerate() {
            let (k, _) = past.head(first + position, kv_head);
            *score = q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>() * scale;
        }
        softmax(scores);
        out.fill(0.0);
        for (position, &weight) in scores.iter().enumerate() {
            let (_, v) = past.head(first + position, kv_head);
            out.iter_mut().zip(v).for_each(|(out, v)| *out += weight * v);
        }
    }
}

fn softmax(scores: &mut [f32]) {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|x| *x /= sum);
}
