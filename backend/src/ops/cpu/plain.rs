//! Linear layers stored as float16, bfloat16 or float32 `[N, K]`: unquantised checkpoints and the
//! logits of every one.
//!
//! The mapped tensor is read in place. Every output is 16 partial sums, feature k in lane k % 16, added
//! up in the one order of `simd::sum`, whatever the processor and however many rows there are. A weight
//! row is read once for up to four rows of activations, and from the cache for the others.

use crate::error::LoadError;
use crate::ops::cpu::grid::{Cuts, Rect};
use crate::ops::cpu::pool::Pool;
use crate::ops::cpu::simd::{Kernel, LANES, Level, Simd, load_partial, sum};
use crate::ops::cpu::stored::{BF16, F16, F32, Stored};
use crate::weights::{DType, Tensor};

/// Output features computed together.
const COLUMNS: usize = 4;
/// Rows of activations that share a task when there are many.
const ROWS: usize = 64;
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
        let sane = weight.dtype != DType::I32 && n > 0 && k > 0;
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
        pool.grid(out, width, (Cuts::Every(ROWS), cols), &|_, out| {
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
            DType::F32 | DType::I32 => self.stored::<S, F32>(s),
        }
    }
}

impl Multiply<'_, '_> {
    #[inline(always)]
    fn stored<S: Simd, W: Stored>(mut self, s: S) {
        let (cols, rows) = (self.out.cols(), self.out.rows());
        let mut c = cols.start;
        while c + COLUMNS <= cols.end {
            let mut r = rows.start;
            while r < rows.end {
                r += match rows.end - r {
                    1 => self.block::<S, W, 1, COLUMNS>(s, r, c),
                    2 => self.block::<S, W, 2, COLUMNS>(s, r, c),
                    3 => self.block::<S, W, 3, COLUMNS>(s, r, c),
                    _ => self.block::<S, W, 4, COLUMNS>(s, r, c),
                };
            }
            c += COLUMNS;
        }
        for c in c..cols.end {
            for r in rows.clone() {
                self.block::<S, W, 1, 1>(s, r, c);
            }
        }
    }

    /// Outputs `[r..r + R, c..c + C]`; returns R.
    #[inline(always)]
    fn block<S: Simd, W: Stored, const R: usize, const C: usize>(
        &mut self,
        s: S,
        r: usize,
        c: usize,
    ) -> usize {
        let (k, size) = (self.w.k, self.w.weight.dtype.size());
        let x: [_; R] = std::array::from_fn(|i| self.x[(r + i) * k..(r + i + 1) * k].as_chunks::<LANES>());
        let bytes = self.w.weight.bytes();
        let w: [_; C] = std::array::from_fn(|j| {
            let n = c + j - self.first;
            W::chunks(&bytes[n * k * size..(n + 1) * k * size])
        });
        let acc = dot::<S, W, R, C>(s, x, w);
        let start = c - self.out.cols().start;
        for (i, acc) in acc.iter().enumerate() {
            let to = &mut self.out.row(r + i)[start..start + C];
            for (to, &acc) in to.iter_mut().zip(acc) {
                *to = sum(s, acc);
            }
        }
        R
    }
}

#[inline(always)]
fn dot<S: Simd, W: Stored, const R: usize, const C: usize>(
    s: S,
    x: [(&[[f32; LANES]], &[f32]); R],
    w: [(&[W::Chunk], &[u8]); C],
) -> [[S::F; C]; R] {
    let mut acc = [[s.splat(0.0); C]; R];
    let steps = x[0].0.len();
    let x_whole = x.map(|x| &x.0[..steps]);
    let w_whole = w.map(|w| &w.0[..steps]);
    for k in 0..steps {
        let mut w = [s.splat(0.0); C];
        for c in 0..C {
            w[c] = W::load(s, &w_whole[c][k]);
        }
        for r in 0..R {
            let x = s.load(&x_whole[r][k]);
            for c in 0..C {
                acc[r][c] = s.fma(x, w[c], acc[r][c]);
            }
        }
    }
    if !x[0].1.is_empty() {
        for r in 0..R {
            let x = load_partial(s, x[r].1);
            for c in 0..C {
                acc[r][c] = s.fma(x, W::load_rest(s, w[c].1), acc[r][c]);
            }
        }
    }
    acc
}
