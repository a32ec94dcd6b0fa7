//! Causal attention over the paged cache.
//!
//! For one query: a score for each key, features in ascending order in one chain; the largest score;
//! `e^(score - largest)`; their sum by lane and then by `Simd::sum`; the weighted sum of the values, keys
//! in ascending order in one chain; one division. Each of these is a chain of its own for every query,
//! so queries may share the loads of K and V without touching each other's results. Work is cut by
//! (rows, kv head); when a decode step has too few of those for the threads, by keys and then by
//! dimensions, which changes no chain either.

mod kernel;

use super::CpuOps;
use super::act::CpuAct;
use super::grid::{Cuts, Rect};
use super::kv::{CpuKv, KEYS, SLICE, slices};
use super::step::{StepState, Tile};
use crate::batch::Batch;
use crate::error::StepError;
use crate::ops::AttentionShape;
use kernel::{Attend, Mix, QUERIES, Score};
use std::ops::Range;
use std::sync::Mutex;

/// Keys of one task when scores are computed in parallel.
const SPLIT_KEYS: usize = 4 * KEYS;

/// A worker's own buffers.
#[derive(Default)]
pub struct Scratch {
    /// Queries, scaled, `[head_dim, queries]`.
    q: Vec<f32>,
    /// Scores, then weights, `[queries, keys]`.
    p: Vec<f32>,
}

/// All of attention's buffers; they grow to the longest sequence seen and are then reused.
pub struct Buffers {
    workers: Vec<Mutex<Scratch>>,
    /// Of a split decode step: `[tiles * kv heads, key tasks, group, SPLIT_KEYS]`.
    scores: Vec<f32>,
    /// `[tiles * kv heads * slices, group, SLICE]`.
    mixed: Vec<f32>,
}

impl Buffers {
    pub fn new(n_threads: usize) -> Self {
        let workers = (0..n_threads).map(|_| Mutex::default()).collect();
        Buffers { workers, scores: Vec::new(), mixed: Vec::new() }
    }

    fn reserve(&mut self, max_keys: usize, group: usize, head_dim: usize) {
        let queries = group.max(QUERIES);
        let keys = max_keys.next_multiple_of(16 * KEYS);
        for worker in &mut self.workers {
            let worker = worker.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
            grow(&mut worker.q, head_dim * QUERIES);
            grow(&mut worker.p, queries * keys);
        }
    }
}

fn grow(v: &mut Vec<f32>, len: usize) {
    if v.len() < len {
        v.resize(len, 0.0);
    }
}

/// What every task reads.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    qkv: &'a CpuAct,
    kv: &'a CpuKv,
    layer: usize,
    batch: &'a Batch,
    step: &'a StepState,
    head_dim: usize,
    /// Query heads a kv head.
    group: usize,
    window: Option<usize>,
}

impl<'a> Inputs<'a> {
    fn head(&self, tile: Tile, head: usize) -> kernel::Head<'a> {
        let blocks = &self.batch.spans[tile.span].blocks;
        kernel::Head { kv: self.kv, layer: self.layer, blocks, head }
    }

    fn queries(&self, tile: Tile, head: usize) -> kernel::Queries<'a> {
        let Inputs { qkv, group, head_dim, window, .. } = *self;
        kernel::Queries { qkv, tile, group, head_dim, head, window }
    }

    /// Keys that the one row of `tile` sees.
    fn keys(&self, tile: Tile) -> Range<usize> {
        self.window.map_or(0, |window| tile.n_keys.saturating_sub(window))..tile.n_keys
    }
}

/// See `Ops::attention`.
pub fn attention(
    ops: &mut CpuOps,
    qkv: &CpuAct,
    (kv, layer): (&CpuKv, usize),
    batch: &Batch,
    shape: &AttentionShape,
    out: &mut CpuAct,
) -> Result<(), StepError> {
    check(&ops.step, qkv, (kv, layer), batch, shape)?;
    out.expect("attention", batch.n_rows(), shape.n_heads * shape.head_dim)?;
    let group = shape.n_heads / shape.n_kv_heads;
    ops.attention.reserve(ops.step.max_keys, group, shape.head_dim);
    let AttentionShape { head_dim, window, .. } = *shape;
    let inputs = Inputs { qkv, kv, layer, batch, step: &ops.step, head_dim, group, window };
    let n_tasks = ops.step.tiles.len() * shape.n_kv_heads;
    let decode_only = ops.step.tiles.len() == batch.n_rows();
    let threads = ops.pool.n_threads();
    let split = decode_only && threads > 1 && n_tasks < 4 * threads && ops.step.max_keys > SPLIT_KEYS;
    if split && group <= QUERIES {
        split_decode(&mut ops.pool, ops.level, &mut ops.attention, inputs, out);
    } else {
        whole(&mut ops.pool, ops.level, &ops.attention, inputs, out);
    }
    Ok(())
}

fn check(
    step: &StepState,
    qkv: &CpuAct,
    (kv, layer): (&CpuKv, usize),
    batch: &Batch,
    shape: &AttentionShape,
) -> Result<(), StepError> {
    qkv.expect("attention", batch.n_rows(), (shape.n_heads + 2 * shape.n_kv_heads) * shape.head_dim)?;
    let same = (kv.shape.n_kv_heads, kv.shape.head_dim) == (shape.n_kv_heads, shape.head_dim);
    let grouped = shape.n_kv_heads > 0 && shape.n_heads.is_multiple_of(shape.n_kv_heads);
    if !same || !grouped || step.n_rows() != batch.n_rows() {
        let detail = format!("{shape:?} on a cache of {:?}, a step of {} rows", kv.shape, step.n_rows());
        return Err(StepError::Device { op: "attention", detail });
    }
    kv.check("attention", layer, batch)
}

type Pool = super::pool::Pool;
type Level = super::simd::Level;

/// A task a tile and kv head.
fn whole(pool: &mut Pool, level: Level, buffers: &Buffers, inputs: Inputs<'_>, out: &mut CpuAct) {
    let width = out.cols();
    let cuts = (Cuts::At(&inputs.step.row_cuts), Cuts::Every(inputs.group * inputs.head_dim));
    let workers = &buffers.workers;
    pool.grid(out.values_mut(), width, cuts, |worker, out: Rect<'_, f32>| {
        let Some(tile) = inputs.step.tiles.iter().find(|t| t.row == out.rows().start).copied() else {
            return;
        };
        let head = out.cols().start / (inputs.group * inputs.head_dim);
        let mut scratch = workers[worker].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Scratch { q, p } = &mut *scratch;
        level.run(Attend { head: inputs.head(tile, head), queries: inputs.queries(tile, head), q, p, out });
    });
}

/// Tiles of one row each: scores by ranges of keys, then values by slices of dimensions.
fn split_decode(pool: &mut Pool, level: Level, buffers: &mut Buffers, inputs: Inputs<'_>, out: &mut CpuAct) {
    let Inputs { step, kv, group, head_dim, .. } = inputs;
    let heads = kv.shape.n_kv_heads;
    let (task_len, n_slices) = (group * SPLIT_KEYS, slices(head_dim));
    let key_tasks = step.max_keys.div_ceil(SPLIT_KEYS);
    let width = key_tasks * task_len;
    grow(&mut buffers.scores, step.tiles.len() * heads * width);
    grow(&mut buffers.mixed, step.tiles.len() * heads * n_slices * group * SLICE);
    let n_pairs = step.tiles.len() * heads;
    let workers = &buffers.workers;
    let scores = &mut buffers.scores[..n_pairs * width];
    pool.grid(scores, width, (Cuts::Every(1), Cuts::Every(task_len)), |worker, mut rect| {
        let pair = rect.rows().start;
        let (tile, head) = (step.tiles[pair / heads], pair % heads);
        let first = rect.cols().start / task_len * SPLIT_KEYS;
        let seen = inputs.keys(tile);
        let keys = first..seen.end.min(first + SPLIT_KEYS);
        if keys.end <= seen.start {
            return;
        }
        let mut scratch = workers[worker].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (queries, head) = (inputs.queries(tile, head), inputs.head(tile, head));
        level.run(Score { head, queries, keys, q: &mut scratch.q, out: rect.row(pair) });
    });
    let scores = &*scores;
    let mixed_len = group * SLICE;
    let mixed = &mut buffers.mixed[..n_pairs * n_slices * mixed_len];
    pool.grid(mixed, mixed_len, (Cuts::Every(1), Cuts::Every(mixed_len)), |worker, mut rect| {
        let index = rect.rows().start;
        let (pair, slice) = (index / n_slices, index % n_slices);
        let (tile, head) = (step.tiles[pair / heads], pair % heads);
        let mut scratch = workers[worker].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let scores = &scores[pair * width..(pair + 1) * width];
        let (head, keys) = (inputs.head(tile, head), inputs.keys(tile));
        level.run(Mix { head, group, keys, slice, scores, p: &mut scratch.p, out: rect.row(index) });
    });
    unslice(mixed, inputs, out);
}

/// `[pairs, slices, group, SLICE]` to `[rows, heads * head_dim]`.
fn unslice(mixed: &[f32], inputs: Inputs<'_>, out: &mut CpuAct) {
    let (group, head_dim) = (inputs.group, inputs.head_dim);
    let pair_len = slices(head_dim) * group * SLICE;
    for (heads, mixed) in
        out.values_mut().chunks_exact_mut(group * head_dim).zip(mixed.chunks_exact(pair_len))
    {
        for (slice, mixed) in mixed.chunks_exact(group * SLICE).enumerate() {
            for (head, values) in heads.chunks_exact_mut(head_dim).zip(mixed.chunks_exact(SLICE)) {
                let to = &mut head[slice * SLICE..head_dim.min((slice + 1) * SLICE)];
                to.copy_from_slice(&values[..to.len()]);
            }
        }
    }
}
