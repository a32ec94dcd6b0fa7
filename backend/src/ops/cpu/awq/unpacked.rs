//! One tile unpacked to a byte a weight: for many rows, when multiplying is what takes the time.
//!
//! A byte is `q - z + BIAS`, which is never negative; the bias comes off by starting the sums at
//! `-BIAS sum d`. So the inner loop loads and multiplies, and does nothing else.

use super::activations::{BIAS, HEADER, group_words};
use super::kernel::{Weights, accumulate};
use super::pack::{Line, Tile};
use crate::ops::cpu::simd::Simd;

/// Weights, for every 4 input features two lines of 16 columns, `[k / 4, 2]`.
#[derive(Clone, Copy)]
pub struct Unpacked<'a> {
    lines: &'a [[Line; 2]],
    tile: Tile<'a>,
}

impl<'a> Unpacked<'a> {
    /// Unpacks `tile` into `scratch`, which must have room for twice its lines.
    #[inline(always)]
    pub fn new<S: Simd>(s: S, tile: Tile<'a>, scratch: &'a mut [Line]) -> Self {
        let lines = &mut scratch.as_chunks_mut::<2>().0[..2 * tile.lines.len()];
        let steps = tile.group / 8;
        for ((to, from), zeros) in
            lines.chunks_exact_mut(2 * steps).zip(tile.lines.chunks_exact(steps)).zip(tile.zeros)
        {
            let add = [s.iload(&offsets(&zeros[0])), s.iload(&offsets(&zeros[1]))];
            for (to, from) in to.as_chunks_mut::<2>().0.iter_mut().zip(from) {
                for h in 0..2 {
                    let w = s.iload(&from[h].0);
                    s.istore(s.add_bytes(s.low_nibbles(w), add[h]), &mut to[0][h].0);
                    s.istore(s.add_bytes(s.high_nibbles(w), add[h]), &mut to[1][h].0);
                }
            }
        }
        Unpacked { lines, tile }
    }
}

/// `BIAS - z` in each of a column's four bytes.
#[inline(always)]
fn offsets(zeros: &[u8; 16]) -> [u8; 64] {
    let mut bytes = [0; 64];
    for (to, z) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(zeros) {
        *to = [BIAS - z; 4];
    }
    bytes
}

impl Weights for Unpacked<'_> {
    #[inline(always)]
    fn product<S: Simd, const R: usize>(self, s: S, x: [&[u32]; R]) -> [[S::F; 2]; R] {
        let mut y = [[s.splat(0.0); 2]; R];
        let (words, steps) = (group_words(self.tile.group), self.tile.group / 4);
        for (g, lines) in self.lines.chunks_exact(steps).enumerate() {
            // Loops, not `map`: closures would not be compiled for the level.
            let (mut headers, mut digits) = ([[].as_slice(); R], [[].as_slice(); R]);
            let mut t = [[[s.isplat(0); 3]; 2]; R];
            for (r, x) in x.iter().enumerate() {
                let (header, words) = x[g * words..(g + 1) * words].split_at(HEADER);
                (headers[r], digits[r]) = (header, &words.as_chunks::<3>().0[..steps]);
                for (i, &start) in header[5..].iter().enumerate() {
                    (t[r][0][i], t[r][1][i]) = (s.isplat(start), s.isplat(start));
                }
            }
            for (j, line) in lines.iter().enumerate() {
                let w = [s.iload(&line[0].0), s.iload(&line[1].0)];
                for r in 0..R {
                    for i in 0..3 {
                        let d = s.isplat(digits[r][j][i]);
                        for h in 0..2 {
                            t[r][h][i] = s.dot_bytes(t[r][h][i], w[h], d);
                        }
                    }
                }
            }
            for h in 0..2 {
                let scales = s.load_f16(&self.tile.scales[g][h]);
                for r in 0..R {
                    y[r][h] = accumulate(s, t[r][h], headers[r], scales, y[r][h]);
                }
            }
        }
        y
    }
}
