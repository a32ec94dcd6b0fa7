//! The product of fixed-point activations and a packed 4-bit matrix.
//!
//! For every group of input features, in ascending order, and every row r and column c:
//! `t_i = sum (q - z) d_i` (exact, int32, i = 0, 1, 2; |t_i| < 2^18), then in float32, each operation
//! rounded once: `u = t_1 * 256 + t_0` (integer, then converted), `v = u * s_x`,
//! `v = fma(t_2, 65536 s_x, v)`, `y = fma(s_w, v, y)`; `y` starts at zero. A few rows take the weights
//! from the stream (`packed`), many from an unpacked copy of a tile (`unpacked`); `t_i` is an integer,
//! so that nothing depends on the way, nor on how rows and columns are grouped into tasks.

use super::TILE;
use super::activations::FixedPoint;
use super::pack::{AwqMatrix, Line};
use super::unpacked::Unpacked;
use crate::ops::cpu::grid::{Cuts, Rect};
use crate::ops::cpu::pool::Pool;
use crate::ops::cpu::simd::{Kernel, LANES, Level, Simd, store_partial};
use std::sync::Mutex;

/// Rows that share a task when there are many; a multiple of the register block.
const ROWS: usize = 128;
/// From here on a tile is unpacked before it is used.
const UNPACK_ROWS: usize = 16;
/// Tasks a thread, so that a delayed one is helped out,
const TASKS_PER_THREAD: usize = 4;
/// unless they would have fewer products than this.
const TASK_WORK: usize = 1 << 18;

/// Room for one unpacked tile a worker.
pub type Scratch = [Mutex<Box<[Line]>>];

/// `out[r, first + c] = (x W)[r, c]` for the `rows` of `x`; `out` is `[rows, width]`.
pub fn multiply(
    (pool, level, scratch): (&mut Pool, Level, &Scratch),
    x: FixedPoint<'_>,
    w: &AwqMatrix,
    (out, width, first): (&mut [f32], usize, usize),
) {
    let share = w.n_tiles().div_ceil(pool.n_threads()) * TILE * w.k * x.rows();
    let n_tasks = pool.n_threads() * (share / TASK_WORK).clamp(1, TASKS_PER_THREAD);
    let tiles = w.n_tiles().div_ceil(n_tasks);
    let cols = Cuts::Within { start: first, end: first + w.n, step: tiles * TILE };
    pool.grid(out, width, (Cuts::Every(ROWS), cols), move |worker, out| {
        let mut scratch = scratch[worker].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        level.run(Multiply { x, w, first, scratch: &mut scratch, out });
    });
}

/// The weights of a tile, in one form or another.
pub trait Weights: Copy {
    /// `R` rows of fixed-point activations times the tile's two vectors of columns.
    fn product<S: Simd, const R: usize>(self, s: S, x: [&[u32]; R]) -> [[S::F; 2]; R];
}

struct Multiply<'a, 'b> {
    x: FixedPoint<'a>,
    w: &'a AwqMatrix,
    first: usize,
    scratch: &'b mut [Line],
    out: Rect<'b, f32>,
}

impl Kernel for Multiply<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Multiply { x, w, first, scratch, mut out } = self;
        let cols = out.cols();
        for t in (cols.start - first) / TILE..(cols.end - first).div_ceil(TILE) {
            let to = Target { x, start: first + t * TILE - cols.start, out: &mut out };
            match to.out.rows().len() >= UNPACK_ROWS {
                true => to.fill(s, Unpacked::new(s, w.tile(t), scratch)),
                false => to.fill(s, w.tile(t)),
            }
        }
    }
}

/// Where a tile's product goes: columns `start..` of the rectangle.
struct Target<'a, 'b, 'c> {
    x: FixedPoint<'a>,
    start: usize,
    out: &'c mut Rect<'b, f32>,
}

impl Target<'_, '_, '_> {
    #[inline(always)]
    fn fill<S: Simd>(mut self, s: S, w: impl Weights) {
        let mut r = self.out.rows().start;
        let end = self.out.rows().end;
        while r < end {
            r += match end - r {
                1 => self.rows::<S, 1>(s, w, r),
                2 => self.rows::<S, 2>(s, w, r),
                3 => self.rows::<S, 3>(s, w, r),
                _ => self.rows::<S, 4>(s, w, r),
            };
        }
    }

    /// Rows `r..r + R`; returns R.
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&mut self, s: S, w: impl Weights, r: usize) -> usize {
        let mut x = [[].as_slice(); R];
        for (i, x) in x.iter_mut().enumerate() {
            *x = self.x.row(r + i);
        }
        let y = w.product::<S, R>(s, x);
        for (i, y) in y.iter().enumerate() {
            let row = &mut self.out.row(r + i)[self.start..];
            let n = row.len().min(TILE);
            for (h, to) in row[..n].chunks_mut(LANES).enumerate() {
                store_partial(s, y[h], to);
            }
        }
        R
    }
}

/// One group's contribution for one row and vector of columns: `t` and the scales of the activations
/// (`header`) and the weights, added to `y`.
#[inline(always)]
pub fn accumulate<S: Simd>(s: S, t: [S::I; 3], header: &[u32], scales: S::F, y: S::F) -> S::F {
    let (scale, high_scale) = (f32::from_bits(header[0]), f32::from_bits(header[1]));
    let v = s.mul(s.to_f32(s.shift_add(t[1], t[0])), s.splat(scale));
    let v = s.fma(s.to_f32(t[2]), s.splat(high_scale), v);
    s.fma(scales, v, y)
}
