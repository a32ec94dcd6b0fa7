//! Linear layers stored as float16, bfloat16 or float32 `[N, K]`: unquantised checkpoints and the
//! logits of every one.
//!
//! The mapped tensor is read in place. Every output is 16 partial sums, feature k in lane k % 16, added
//! up in the one order of `Simd::sum`, whatever the processor and however many rows there are. A weight
//! row is read once for up to four rows of activations, and from the cache for the others.

use crate::error::LoadError;
use crate::ops::cpu::grid::{Cuts, Rect};
use crate::ops::cpu::pool::Pool;
use crate::ops::cpu::simd::{Kernel, LANES, Level, Simd, load_partial};
use crate::ops::cpu::stored::{BF16, F16, F32, Stored};
use crate::weights::{DType, Tensor};

/// Output features computed together.
const COLUMNS: usize = 4;
/// Rows of activations that share a task when there are many.
const ROWS: usize = 64;
/// Weights are asked for this many bytes before they are used.
const AHEAD: usize = 16 << 10;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Weight bytes a task streams at least.
const TASK_BYTES: usize = 1 << 20;

/// A mapped `[n, k]` matrix.
pub struct PlainMatrix {
    pub k: usize,
    pub n: usize,
    weight: Tensor,
}

impl PlainMatrix {
    pub fn new(weight: &Tensor, n: usize, k: usize) -> Result<Self, LoadError> {
        let sane = weight.dtype.is_float() && n > 0 && k > 0;
        if !sane || weight.bytes().len() != n * k * weight.dtype.size() {
            let detail = format!(
                "is {:?} {:?}; expected float16, bfloat16 or float32 [{n}, {k}]",
                weight.dtype, weight.shape
            );
            return Err(LoadError::Tensor { name: weight.name.clone(), detail });
        }
        Ok(PlainMatrix { k, n, weight: weight.clone() })
    }

    /// `out[r, first + n] = sum_k x[r, k] w[n, k]`; `x` is `[rows, k]`, `out` `[rows, width]`.
    pub fn multiply(
        &self,
        (pool, level): (&mut Pool, Level),
        x: &[f32],
        (out, width, first): (&mut [f32], usize, usize),
    ) {
        let row_bytes = self.k * self.weight.dtype.size();
        let share = self.n.div_ceil(pool.n_threads() * 2).next_multiple_of(COLUMNS);
        let step = (TASK_BYTES / row_bytes).next_multiple_of(COLUMNS).clamp(COLUMNS, share.max(COLUMNS));
        let cols = Cuts::Within { start: first, end: first + self.n, step };
        pool.grid(out, width, (Cuts::Every(ROWS), cols), move |_, out| {
            level.run(Multiply { x, w: self, first, out });
        });
    }
}

struct Multiply<'a, 'b> {
    x: &'a [f32],
    w: &'a PlainMatrix,
    first: usize,
    out: Rect<'b, f32>,
}

impl Kernel for Multiply<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.w.weight.dtype {
            DType::F16 => self.stored::<S, F16>(s),
            DType::BF16 => self.stored::<S, BF16>(s),
            DType::F32 | DType::I16 | DType::I32 => self.stored::<S, F32>(s),
        }
    }
}

impl Multiply<'_, '_> {
    #[inline(always)]
    fn stored<S: Simd, W: Stored>(mut self, s: S) {
        let (cols, rows) = (self.out.cols(), self.out.rows());
        // Rows that do not fill their last vector go the slow way; no known model has them.
        let blocks = if self.w.k.is_multiple_of(LANES) { cols.len() / COLUMNS } else { 0 };
        for c in (cols.start..).step_by(COLUMNS).take(blocks) {
            let mut r = rows.start;
            while r < rows.end {
                r += match rows.end - r {
                    1 => self.block::<S, W, 1>(s, r, c),
                    2 => self.block::<S, W, 2>(s, r, c),
                    3 => self.block::<S, W, 3>(s, r, c),
                    _ => self.block::<S, W, 4>(s, r, c),
                };
            }
        }
        for c in cols.start + blocks * COLUMNS..cols.end {
            for r in rows.clone() {
                self.one::<S, W>(s, r, c);
            }
        }
    }

    /// Weights of output `c`.
    #[inline(always)]
    fn weights(&self, c: usize) -> &[u8] {
        let len = self.w.k * self.w.weight.dtype.size();
        &self.w.weight.bytes()[(c - self.first) * len..][..len]
    }

    /// Outputs `[r..r + R, c..c + COLUMNS]`; returns R.
    #[inline(always)]
    fn block<S: Simd, W: Stored, const R: usize>(&mut self, s: S, r: usize, c: usize) -> usize {
        let k = self.w.k;
        // Loops, not `map`: closures would not be compiled for the level.
        let (mut x, mut w) = ([[].as_slice(); R], [[].as_slice(); COLUMNS]);
        for (i, x) in x.iter_mut().enumerate() {
            *x = &self.x[(r + i) * k..(r + i + 1) * k].as_chunks().0[..k / LANES];
        }
        for (j, w) in w.iter_mut().enumerate() {
            *w = &W::chunks(self.weights(c + j)).0[..k / LANES];
        }
        let row = k * self.w.weight.dtype.size();
        let next = (c - self.first) * row + AHEAD.max(COLUMNS * row);
        let acc = dot::<S, W, R>(s, x, w, self.w.weight.bytes().get(next..).unwrap_or_default());
        let start = c - self.out.cols().start;
        for (i, acc) in acc.iter().enumerate() {
            self.out.row(r + i)[start..start + COLUMNS].copy_from_slice(&s.sums(*acc));
        }
        R
    }

    /// Output `[r, c]`.
    #[inline(always)]
    fn one<S: Simd, W: Stored>(&mut self, s: S, r: usize, c: usize) {
        let (x, x_rest) = self.x[r * self.w.k..(r + 1) * self.w.k].as_chunks::<LANES>();
        let (w, w_rest) = W::chunks(self.weights(c));
        let mut acc = s.splat(0.0);
        for (x, w) in x.iter().zip(w) {
            acc = s.fma(s.load(x), W::load(s, w), acc);
        }
        if !x_rest.is_empty() {
            acc = s.fma(load_partial(s, x_rest), W::load_rest(s, w_rest), acc);
        }
        let at = c - self.out.cols().start;
        self.out.row(r)[at] = s.sum(acc);
    }
}

/// `R` rows times `COLUMNS` weight rows. `next` is what will be read afterwards: the weights are one
/// stream, but cut into pieces too short for the processor to notice.
#[inline(always)]
fn dot<S: Simd, W: Stored, const R: usize>(
    s: S,
    x: [&[[f32; LANES]]; R],
    w: [&[W::Chunk]; COLUMNS],
    next: &[u8],
) -> [[S::F; COLUMNS]; R] {
    let mut acc = [[s.splat(0.0); COLUMNS]; R];
    let steps = x[0].len();
    let (x, w) = (x.map(|x| &x[..steps]), w.map(|w| &w[..steps]));
    let lines = COLUMNS * size_of::<W::Chunk>() / LINE;
    for k in 0..steps {
        for line in 0..lines {
            s.prefetch(next.get((k * lines + line) * LINE..).unwrap_or_default());
        }
        let mut weights = [s.splat(0.0); COLUMNS];
        for c in 0..COLUMNS {
            weights[c] = W::load(s, &w[c][k]);
        }
        for r in 0..R {
            let x = s.load(&x[r][k]);
            for c in 0..COLUMNS {
                acc[r][c] = s.fma(x, weights[c], acc[r][c]);
            }
        }
    }
    acc
}
