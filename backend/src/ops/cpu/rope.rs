//! Rotary embedding of q and k, and the way of k and v into the cache.

use super::CpuOps;
use super::act::CpuAct;
use super::grid::Cuts;
use super::kv::{CpuKv, KEYS, store};
use super::simd::{Kernel, Simd};
use crate::batch::Batch;
use crate::error::StepError;
use crate::ops::AttentionShape;

/// Rotates the heads of `row`: dimension i pairs with i + half; `(a, b)` becomes
/// `(a cos - b sin, b cos + a sin) * factor`.
struct Rotate<'a> {
    heads: &'a mut [f32],
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
    factor: f32,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for head in self.heads.chunks_exact_mut(self.head_dim) {
            let (a, b) = head.split_at_mut(self.cos.len());
            for (((a, b), cos), sin) in a.iter_mut().zip(&mut *b).zip(self.cos).zip(self.sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
            if self.factor != 1.0 {
                for x in head {
                    *x *= self.factor;
                }
            }
        }
    }
}

/// Fails unless `qkv` and the step's preparation fit `shape`, and the cache the batch.
fn check(
    ops: &CpuOps,
    qkv: &CpuAct,
    (kv, layer): (&CpuKv, usize),
    batch: &Batch,
    shape: &AttentionShape,
) -> Result<(), StepError> {
    qkv.expect("rope_and_store", batch.n_rows(), (shape.n_heads + 2 * shape.n_kv_heads) * shape.head_dim)?;
    let prepared = ops.step.n_rows() == batch.n_rows() && ops.step.half == shape.rope_dim / 2;
    let same = (kv.shape.n_kv_heads, kv.shape.head_dim) == (shape.n_kv_heads, shape.head_dim);
    if !prepared || !same || shape.rope_dim > shape.head_dim {
        let detail = format!("{shape:?} on a cache of {:?}, a step of {} rows", kv.shape, ops.step.n_rows());
        return Err(StepError::Device { op: "rope_and_store", detail });
    }
    kv.check("rope_and_store", layer, batch)
}

/// See `Ops::rope_and_store`.
pub fn rope_and_store(
    ops: &mut CpuOps,
    qkv: &mut CpuAct,
    (kv, layer): (&mut CpuKv, usize),
    batch: &Batch,
    shape: &AttentionShape,
) -> Result<(), StepError> {
    check(ops, qkv, (kv, layer), batch, shape)?;
    let (level, step, head_dim) = (ops.level, &ops.step, shape.head_dim);
    let (q_len, kv_len) = (shape.n_heads * head_dim, shape.n_kv_heads * head_dim);
    super::each_row(&mut ops.pool, qkv, |r, row| {
        let (cos, sin, factor) = step.rotation(r);
        let (q, rest) = row.split_at_mut(q_len);
        level.run(Rotate { heads: q, head_dim, cos, sin, factor });
        level.run(Rotate { heads: &mut rest[..kv_len], head_dim, cos, sin, factor: 1.0 });
    });
    let (block_size, n_blocks, units, unit_len) =
        (kv.shape.block_size, kv.shape.n_blocks, kv.units(), kv.unit_len());
    let (blocks, width) = kv.blocks_mut();
    // One task a unit of every block: it takes its head's rows, and of these the positions in its unit.
    let rows = Cuts::Within { start: layer * n_blocks, end: (layer + 1) * n_blocks, step: n_blocks };
    let step = if batch.n_rows() < PARALLEL_ROWS { width } else { unit_len };
    ops.pool.grid(blocks, width, (rows, Cuts::Every(step)), |_, mut rect| {
        let tasks = rect.cols().start / unit_len..rect.cols().end / unit_len;
        for (r, position, block) in positions(batch, block_size) {
            let row = rect.row(layer * n_blocks + block as usize);
            for (unit, task) in row.chunks_exact_mut(unit_len).zip(tasks.clone()) {
                let (head, part) = (task / units, task % units);
                if position % block_size / KEYS == part {
                    let k = &qkv.row(r)[q_len + head * head_dim..][..head_dim];
                    let v = &qkv.row(r)[q_len + kv_len + head * head_dim..][..head_dim];
                    store(unit, position % KEYS, k, v);
                }
            }
        }
    });
    Ok(())
}

/// Fewer rows than this are stored by one thread.
const PARALLEL_ROWS: usize = 16;

/// `(row, position, block)` of every row.
fn positions(batch: &Batch, block_size: usize) -> impl Iterator<Item = (usize, usize, u32)> {
    batch.spans.iter().flat_map(move |span| {
        (0..span.n_rows).map(move |i| {
            let position = span.position + i;
            (span.first_row + i, position, span.blocks[position / block_size])
        })
    })
}
