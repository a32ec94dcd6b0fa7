//! Attention's inner loops over one kv head: scores, softmax, weighted values.
//!
//! `super` cuts the work and owns the buffers. Every query is a chain of its own; see there.

use crate::ops::cpu::act::CpuAct;
use crate::ops::cpu::grid::Rect;
use crate::ops::cpu::kv::{CpuKv, KEYS, SLICE, Unit, slices};
use crate::ops::cpu::math::exp;
use crate::ops::cpu::simd::{Kernel, LANES, Simd, load_partial, store_partial};
use crate::ops::cpu::step::Tile;
use std::ops::Range;

/// Queries that share the loads of K and V.
pub const QUERIES: usize = 6;

/// Units of 32 keys that are asked for before they are used.
const AHEAD: usize = 3;

/// Calls `$f::<S, n>` for n = `$n`, at most 6; more counts as 6. Returns the count.
macro_rules! by_count {
    ($n:expr, $f:ident($($arg:expr),*)) => {
        match $n {
            1 => { $f::<S, 1>($($arg),*); 1 }
            2 => { $f::<S, 2>($($arg),*); 2 }
            3 => { $f::<S, 3>($($arg),*); 3 }
            4 => { $f::<S, 4>($($arg),*); 4 }
            5 => { $f::<S, 5>($($arg),*); 5 }
            _ => { $f::<S, 6>($($arg),*); 6 }
        }
    };
}

/// A kv head of one sequence in one layer.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub kv: &'a CpuKv,
    pub layer: usize,
    pub blocks: &'a [u32],
    pub head: usize,
}

impl<'a> Head<'a> {
    #[inline(always)]
    fn unit(&self, unit: usize) -> Unit<'a> {
        self.kv.unit(self.layer, self.blocks, self.head, unit)
    }
}

/// The queries of a tile that share a kv head, row by row: query i is row `i / group`, head `i % group`.
#[derive(Clone, Copy)]
pub struct Queries<'a> {
    pub qkv: &'a CpuAct,
    pub tile: Tile,
    pub group: usize,
    pub head_dim: usize,
    pub head: usize,
    pub window: Option<usize>,
}

impl Queries<'_> {
    fn count(&self) -> usize {
        self.tile.n_rows * self.group
    }

    /// Keys that query `i` sees.
    #[inline(always)]
    fn n_keys(&self, i: usize) -> usize {
        self.tile.n_keys + i / self.group
    }

    /// The first key that query `i` sees.
    #[inline(always)]
    fn first_key(&self, i: usize) -> usize {
        self.window.map_or(0, |window| self.n_keys(i).saturating_sub(window))
    }

    /// Queries `first..first + Q`, divided by sqrt(head_dim), as `[head_dim, Q]`.
    #[inline(always)]
    fn pack<const Q: usize>(&self, first: usize, to: &mut [f32]) {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        for i in 0..Q {
            let row = self.qkv.row(self.tile.row + (first + i) / self.group);
            let head = self.head * self.group + (first + i) % self.group;
            let q = &row[head * self.head_dim..(head + 1) * self.head_dim];
            for (to, q) in to.as_chunks_mut::<Q>().0.iter_mut().zip(q) {
                to[i] = q * scale;
            }
        }
    }
}

/// All of a tile and kv head.
pub struct Attend<'a, 'b> {
    pub head: Head<'a>,
    pub queries: Queries<'a>,
    pub q: &'b mut [f32],
    pub p: &'b mut [f32],
    pub out: Rect<'b, f32>,
}

impl Kernel for Attend<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let mut first = 0;
        while first < self.queries.count() {
            first += by_count!(self.queries.count() - first, attend(s, &mut self, first));
        }
    }
}

#[inline(always)]
fn attend<S: Simd, const Q: usize>(s: S, a: &mut Attend<'_, '_>, first: usize) {
    let (queries, head_dim) = (a.queries, a.queries.head_dim);
    // Units before all windows are left out; `p` begins with the first of the others.
    let units = queries.first_key(first) / KEYS..queries.n_keys(first + Q - 1).div_ceil(KEYS);
    let mut n_keys = [0; Q];
    for (i, n) in n_keys.iter_mut().enumerate() {
        *n = queries.n_keys(first + i) - units.start * KEYS;
    }
    queries.pack::<Q>(first, a.q);
    let stride = units.len() * KEYS;
    scores::<S, Q>(s, (a.q, head_dim), a.head, units.clone(), (a.p, stride));
    let mut totals = [0.0; Q];
    for (i, total) in totals.iter_mut().enumerate() {
        let unseen = queries.first_key(first + i) - units.start * KEYS;
        *total = windowed(s, &mut a.p[i * stride..][..n_keys[i]], unseen);
    }
    for slice in 0..slices(head_dim) {
        let values = mix::<S, Q>(s, (a.head, units.start), (a.p, stride), n_keys, slice);
        for i in 0..Q {
            let at = (first + i) % queries.group * head_dim;
            let row = a.out.row(queries.tile.row + (first + i) / queries.group);
            let to = &mut row[at + slice * SLICE..at + head_dim.min((slice + 1) * SLICE)];
            divide(s, values[i], totals[i], to);
        }
    }
}

/// Scores of the queries of a one-row tile for some keys: `out` is `[group, out.len() / group]`.
pub struct Score<'a, 'b> {
    pub head: Head<'a>,
    pub queries: Queries<'a>,
    /// Begins at a unit; may be empty.
    pub keys: Range<usize>,
    pub q: &'b mut [f32],
    pub out: &'b mut [f32],
}

impl Kernel for Score<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        by_count!(self.queries.count(), score(s, self));
    }
}

#[inline(always)]
fn score<S: Simd, const Q: usize>(s: S, a: Score<'_, '_>) {
    a.queries.pack::<Q>(0, a.q);
    let stride = a.out.len() / Q;
    let units = a.keys.start / KEYS..a.keys.end.div_ceil(KEYS);
    scores::<S, Q>(s, (a.q, a.queries.head_dim), a.head, units, (a.out, stride));
}

/// From the scores of a one-row tile to one slice of its output; `scores` is `[tasks, group, keys a
/// task]`, `out` is `[group, SLICE]`.
pub struct Mix<'a, 'b> {
    pub head: Head<'a>,
    pub group: usize,
    pub keys: Range<usize>,
    pub slice: usize,
    pub scores: &'a [f32],
    pub p: &'b mut [f32],
    pub out: &'b mut [f32],
}

impl Kernel for Mix<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        by_count!(self.group, mix_slice(s, self));
    }
}

#[inline(always)]
fn mix_slice<S: Simd, const Q: usize>(s: S, a: Mix<'_, '_>) {
    // Tasks before the window are left out; `p` begins with the first of the others.
    let first_task = a.keys.start / super::SPLIT_KEYS;
    let before = first_task * super::SPLIT_KEYS;
    let n_keys = a.keys.end - before;
    let stride = n_keys.next_multiple_of(KEYS);
    let mut totals = [0.0; Q];
    for (i, total) in totals.iter_mut().enumerate() {
        let p = &mut a.p[i * stride..][..n_keys];
        for (task, p) in (first_task..).zip(p.chunks_mut(super::SPLIT_KEYS)) {
            p.copy_from_slice(&a.scores[(task * Q + i) * super::SPLIT_KEYS..][..p.len()]);
        }
        *total = windowed(s, p, a.keys.start - before);
    }
    let values = mix::<S, Q>(s, (a.head, before / KEYS), (a.p, stride), [n_keys; Q], a.slice);
    for (i, to) in a.out.chunks_exact_mut(SLICE).enumerate() {
        divide(s, values[i], totals[i], to);
    }
}

/// `p[i, key] = q_i . k` for the keys of `units`; `q` is `[head_dim, Q]`, `p` has rows of `stride`.
#[inline(always)]
fn scores<S: Simd, const Q: usize>(
    s: S,
    (q, head_dim): (&[f32], usize),
    head: Head<'_>,
    units: Range<usize>,
    (p, stride): (&mut [f32], usize),
) {
    let q = &q.as_chunks::<Q>().0[..head_dim];
    for (at, u) in units.clone().enumerate() {
        let mut acc = [[s.splat(0.0); 2]; Q];
        // Blocks lie anywhere, so the processor cannot guess the next one.
        let unit = head.unit(u).k;
        let next = head.unit((u + AHEAD).min(units.end - 1)).k;
        for ((q, k), next) in q.iter().zip(unit).zip(next) {
            prefetch(s, next);
            let (low, high) = halves(s, k);
            for i in 0..Q {
                let q = s.splat(q[i]);
                acc[i][0] = s.fma(q, low, acc[i][0]);
                acc[i][1] = s.fma(q, high, acc[i][1]);
            }
        }
        for i in 0..Q {
            let (to, _) = p[i * stride + at * KEYS..][..KEYS].as_chunks_mut::<LANES>();
            s.store(acc[i][0], &mut to[0]);
            s.store(acc[i][1], &mut to[1]);
        }
    }
}

#[inline(always)]
fn prefetch<S: Simd>(s: S, row: &[f32; 32]) {
    let (halves, _) = row.as_chunks::<LANES>();
    s.prefetch(bytemuck::cast_ref::<_, [u8; 64]>(&halves[0]));
    s.prefetch(bytemuck::cast_ref::<_, [u8; 64]>(&halves[1]));
}

#[inline(always)]
fn halves<S: Simd>(s: S, x: &[f32; 32]) -> (S::F, S::F) {
    let (halves, _) = x.as_chunks::<LANES>();
    (s.load(&halves[0]), s.load(&halves[1]))
}

/// The same for a query that does not see the first `unseen` keys: their weights are 0.
#[inline(always)]
fn windowed<S: Simd>(s: S, p: &mut [f32], unseen: usize) -> f32 {
    let (before, seen) = p.split_at_mut(unseen);
    before.fill(0.0);
    softmax(s, seen)
}

/// Replaces scores by `e^(score - largest)`; returns their sum. A NaN makes the sum NaN.
#[inline(always)]
fn softmax<S: Simd>(s: S, p: &mut [f32]) -> f32 {
    let mut largest = s.splat(f32::NEG_INFINITY);
    let (whole, rest) = p.as_chunks_mut::<LANES>();
    for x in &*whole {
        largest = s.max(s.load(x), largest);
    }
    let mut lanes = [f32::NEG_INFINITY; LANES];
    s.store(largest, &mut lanes);
    let top = lanes.iter().chain(&*rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    let top = s.splat(top);
    let mut total = s.splat(0.0);
    for x in whole {
        let e = exp(s, s.sub(s.load(x), top));
        s.store(e, x);
        total = s.add(total, e);
    }
    if !rest.is_empty() {
        store_partial(s, exp(s, s.sub(load_partial(s, rest), top)), rest);
        total = s.add(total, load_partial(s, rest));
    }
    s.sum(total)
}

/// `sum over keys of p[i, key] * v` for one slice of dimensions; `p` begins with the first key of `first_unit`, and query i
/// has weights for `n_keys[i]` keys from there on, ascending.
#[inline(always)]
fn mix<S: Simd, const Q: usize>(
    s: S,
    (head, first_unit): (Head<'_>, usize),
    (p, stride): (&[f32], usize),
    n_keys: [usize; Q],
    slice: usize,
) -> [[S::F; 2]; Q] {
    let mut acc = [[s.splat(0.0); 2]; Q];
    let units = n_keys[Q - 1].div_ceil(KEYS);
    for u in 0..units {
        let v = &head.unit(first_unit + u).v[slice * KEYS..(slice + 1) * KEYS];
        let next = &head.unit(first_unit + (u + AHEAD).min(units - 1)).v[slice * KEYS..(slice + 1) * KEYS];
        let shared = n_keys[0].saturating_sub(u * KEYS).min(KEYS);
        let mut weights = [[].as_slice(); Q];
        for i in 0..Q {
            weights[i] = &p[i * stride + u * KEYS..][..KEYS];
        }
        for key in 0..shared {
            prefetch(s, &next[key]);
            let (low, high) = halves(s, &v[key]);
            for i in 0..Q {
                let w = s.splat(weights[i][key]);
                acc[i][0] = s.fma(w, low, acc[i][0]);
                acc[i][1] = s.fma(w, high, acc[i][1]);
            }
        }
        // Keys that only the later queries see.
        for i in 1..Q {
            for key in shared..n_keys[i].saturating_sub(u * KEYS).min(KEYS) {
                let (low, high) = halves(s, &v[key]);
                let w = s.splat(weights[i][key]);
                acc[i][0] = s.fma(w, low, acc[i][0]);
                acc[i][1] = s.fma(w, high, acc[i][1]);
            }
        }
    }
    acc
}

/// `to = values / total`.
#[inline(always)]
fn divide<S: Simd>(s: S, values: [S::F; 2], total: f32, to: &mut [f32]) {
    for (h, to) in to.chunks_mut(LANES).enumerate() {
        store_partial(s, s.div(values[h], s.splat(total)), to);
    }
}
