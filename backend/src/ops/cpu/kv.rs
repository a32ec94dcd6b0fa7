//! The paged KV cache in float32, laid out so that attention reads vectors and never adds across lanes.
//!
//! A *unit* is 32 keys of one head: K as `[head_dim, 32 keys]`, so that 32 scores grow together, then
//! V as `[slices, 32 keys, 32 dims]`, the last slice padded with zeros. Memory is
//! `[layers, blocks, kv heads, units a block]`, untouched until first written. Written by `rope`, read
//! by `attention`.

use super::memory::{product, zeroed};
use crate::batch::Batch;
use crate::error::{LoadError, StepError};
use crate::ops::KvShape;

/// Keys of a unit.
pub const KEYS: usize = 32;
/// Dimensions of a slice of V.
pub const SLICE: usize = 32;

pub struct CpuKv {
    pub shape: KvShape,
    values: Box<[f32]>,
}

/// Keys and values of 32 positions of one head.
#[derive(Clone, Copy)]
pub struct Unit<'a> {
    /// `[head_dim]`
    pub k: &'a [[f32; KEYS]],
    /// `[slices * KEYS]`
    pub v: &'a [[f32; SLICE]],
}

impl CpuKv {
    /// # Errors
    /// A block size that is not a multiple of 32, no memory.
    pub fn new(shape: KvShape) -> Result<Self, LoadError> {
        if shape.block_size == 0 || !shape.block_size.is_multiple_of(KEYS) {
            let detail = format!("KV blocks of {} tokens; expected a multiple of {KEYS}", shape.block_size);
            return Err(LoadError::Unsupported(detail));
        }
        let rows = product(&[shape.n_layers, shape.n_blocks]);
        let width = product(&[shape.n_kv_heads, shape.block_size / KEYS, unit_len(shape.head_dim)]);
        Ok(CpuKv { shape, values: zeroed("the KV cache", product(&[rows, width]))? })
    }

    /// `[layers * blocks, block_len]` and `block_len`.
    pub fn blocks_mut(&mut self) -> (&mut [f32], usize) {
        let len = self.block_len();
        (&mut self.values, len)
    }

    /// Floats of one block of one layer.
    pub fn block_len(&self) -> usize {
        self.shape.n_kv_heads * self.units() * self.unit_len()
    }

    /// Units of a block and head.
    pub fn units(&self) -> usize {
        self.shape.block_size / KEYS
    }

    pub fn unit_len(&self) -> usize {
        unit_len(self.shape.head_dim)
    }

    /// The `unit`-th 32 positions of the sequence that owns `blocks`.
    #[inline(always)]
    pub fn unit(&self, layer: usize, blocks: &[u32], head: usize, unit: usize) -> Unit<'_> {
        let units = self.units();
        let row = layer * self.shape.n_blocks + blocks[unit / units] as usize;
        let len = self.unit_len();
        let at = row * self.block_len() + (head * units + unit % units) * len;
        let (k, v) = self.values[at..at + len].split_at(self.shape.head_dim * KEYS);
        Unit { k: k.as_chunks().0, v: v.as_chunks().0 }
    }

    /// Fails unless every span of `batch` has its blocks inside the cache.
    pub fn check(&self, op: &'static str, layer: usize, batch: &Batch) -> Result<(), StepError> {
        let fail = |detail: String| Err(StepError::Device { op, detail });
        if layer >= self.shape.n_layers {
            return fail(format!("layer {layer} of a cache for {}", self.shape.n_layers));
        }
        for span in &batch.spans {
            let needed = (span.position + span.n_rows).div_ceil(self.shape.block_size);
            if span.blocks.len() < needed {
                return fail(format!("a span needs {needed} blocks and has {}", span.blocks.len()));
            }
            if let Some(b) = span.blocks[..needed].iter().find(|&&b| b as usize >= self.shape.n_blocks) {
                return fail(format!("block {b} of a cache of {}", self.shape.n_blocks));
            }
        }
        Ok(())
    }
}

/// Slices of V.
pub fn slices(head_dim: usize) -> usize {
    head_dim.div_ceil(SLICE)
}

fn unit_len(head_dim: usize) -> usize {
    product(&[KEYS, head_dim.saturating_add(slices(head_dim).saturating_mul(SLICE))])
}

/// Writes one position's `k` and `v` (`[head_dim]`) into slot `slot` of a unit.
pub fn store(unit: &mut [f32], slot: usize, k: &[f32], v: &[f32]) {
    let (keys, values) = unit.split_at_mut(k.len() * KEYS);
    for (&k, keys) in k.iter().zip(keys.chunks_exact_mut(KEYS)) {
        keys[slot] = k;
    }
    for (v, values) in v.chunks(SLICE).zip(values.chunks_exact_mut(KEYS * SLICE)) {
        values[slot * SLICE..][..v.len()].copy_from_slice(v);
    }
}
