//! The product of fixed-point activations and a packed 4-bit matrix.
//!
//! For every group of input features, in ascending order, and every row r and column c:
//! `t_i = sum q d_i - z sum d_i` (exact, int32, i = 0, 1, 2; |t_i| < 2^18), then in float32, each
//! operation rounded once: `u = t_1 * 256 + t_0` (integer, then converted), `v = u * s_x`,
//! `v = fma(t_2, 65536 s_x, v)`, `y = fma(s_w, v, y)`; `y` starts at zero. Nothing depends on how rows
//! and columns are grouped into registers, tasks or threads.

use super::activations::{FixedPoint, HEADER, group_words};
use super::pack::{AwqMatrix, Tile};
use super::{TILE, pack};
use crate::ops::cpu::grid::{Cuts, Rect};
use crate::ops::cpu::pool::Pool;
use crate::ops::cpu::simd::{Kernel, LANES, Level, Simd, store_partial};

/// Rows that share a task when there are many; a multiple of the register block.
const ROWS: usize = 128;
/// Tasks a thread, so that a delayed one is helped out.
const TASKS_PER_THREAD: usize = 2;

/// `out[r, first + c] = (x W)[r, c]` for the `rows` of `x`; `out` is `[rows, width]`.
pub fn multiply(
    (pool, level): (&mut Pool, Level),
    x: FixedPoint<'_>,
    w: &AwqMatrix,
    (out, width, first): (&mut [f32], usize, usize),
) {
    let tiles = w.n_tiles().div_ceil(pool.n_threads() * TASKS_PER_THREAD);
    let cols = Cuts::Within { start: first, end: first + w.n, step: tiles * TILE };
    pool.grid(out, width, (Cuts::Every(ROWS), cols), &|_, rect| {
        level.run(Multiply { x, w, first, out: rect });
    });
}

struct Multiply<'a, 'b> {
    x: FixedPoint<'a>,
    w: &'a AwqMatrix,
    first: usize,
    out: Rect<'b, f32>,
}

impl Kernel for Multiply<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (rows, cols) = (self.out.rows(), self.out.cols());
        let tiles = (cols.start - self.first) / TILE..(cols.end - self.first).div_ceil(TILE);
        for t in tiles {
            let tile = self.w.tile(t);
            let mut r = rows.start;
            while r < rows.end {
                r += match rows.end - r {
                    1 => self.rows::<S, 1>(s, tile, t, r),
                    2 => self.rows::<S, 2>(s, tile, t, r),
                    3 => self.rows::<S, 3>(s, tile, t, r),
                    _ => self.rows::<S, 4>(s, tile, t, r),
                };
            }
        }
    }
}

impl Multiply<'_, '_> {
    /// Rows `r..r + R` of one tile; returns R.
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&mut self, s: S, tile: Tile<'_>, t: usize, r: usize) -> usize {
        let x = std::array::from_fn(|i| self.x.row(r + i));
        let y = product::<S, R>(s, x, tile, self.x.group);
        let start = self.first + t * TILE - self.out.cols().start;
        for (i, y) in y.iter().enumerate() {
            let row = &mut self.out.row(r + i)[start..];
            let n = row.len().min(TILE);
            for (h, to) in row[..n].chunks_mut(LANES).enumerate() {
                store_partial(s, y[h], to);
            }
        }
        R
    }
}

/// `R` rows times one tile.
#[inline(always)]
fn product<S: Simd, const R: usize>(s: S, x: [&[u32]; R], tile: Tile<'_>, group: usize) -> [[S::F; 2]; R] {
    let mut y = [[s.splat(0.0); 2]; R];
    let (words, steps) = (group_words(group), group / 8);
    for (g, lines) in tile.lines.chunks_exact(steps).enumerate() {
        let x = x.map(|x| x[g * words..(g + 1) * words].split_at(HEADER));
        let digits = x.map(|(_, digits)| &digits.as_chunks::<6>().0[..steps]);
        let sums = digit_sums(s, lines, digits);
        for h in 0..2 {
            let zeros = s.widen_u8(&tile.zeros[g][h]);
            let scales = s.load_f16(&tile.scales[g][h]);
            for r in 0..R {
                let v = combine(s, sums[r][h], zeros, x[r].0);
                y[r][h] = s.fma(scales, v, y[r][h]);
            }
        }
    }
    y
}

/// `sum q d_i` over one group: `[row][half of the tile][digit]`.
#[inline(always)]
fn digit_sums<S: Simd, const R: usize>(
    s: S,
    lines: &[[pack::Line; 2]],
    digits: [&[[u32; 6]]; R],
) -> [[[S::I; 3]; 2]; R] {
    let mut sums = [[[s.isplat(0); 3]; 2]; R];
    for (j, line) in lines.iter().enumerate() {
        let w = [s.iload(&line[0].0), s.iload(&line[1].0)];
        // Not `map`: a closure would not be compiled for the level.
        let nibbles =
            [[s.low_nibbles(w[0]), s.low_nibbles(w[1])], [s.high_nibbles(w[0]), s.high_nibbles(w[1])]];
        for (half, w) in nibbles.iter().enumerate() {
            for r in 0..R {
                for i in 0..3 {
                    let d = s.isplat(digits[r][j][3 * half + i]);
                    for h in 0..2 {
                        sums[r][h][i] = s.dot_bytes(sums[r][h][i], w[h], d);
                    }
                }
            }
        }
    }
    sums
}

/// A group's sums with the zero point taken off, as float32 times the activations' scale.
#[inline(always)]
fn combine<S: Simd>(s: S, sums: [S::I; 3], zeros: S::I, header: &[u32]) -> S::F {
    let scale = f32::from_bits(header[0]);
    // `zeros` has zero in its lanes' high halves, so the high half of the broadcast sum plays no part.
    let mut t = sums;
    for i in 0..3 {
        t[i] = s.dot_words(sums[i], zeros, s.isplat(header[1 + i]));
    }
    let low = s.mul(s.to_f32(s.shift_add(t[1], t[0])), s.splat(scale));
    s.fma(s.to_f32(t[2]), s.splat(scale * 65536.0), low)
}
