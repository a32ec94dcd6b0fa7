//! Weights straight from the packed stream: for a few rows, when reading them is what takes the time.
//!
//! The zero point comes in at the end of a group, through the sums of the digits:
//! `sum (q - z) d = sum q d - z sum d`.

use super::activations::{HEADER, group_words};
use super::kernel::{Weights, accumulate};
use super::pack::{Line, Tile};
use crate::ops::cpu::simd::Simd;

/// Lines, in twos, that are asked for before they are used.
const AHEAD: usize = 64;

impl Weights for Tile<'_> {
    #[inline(always)]
    fn product<S: Simd, const R: usize>(self, s: S, x: [&[u32]; R]) -> [[S::F; 2]; R] {
        let mut y = [[s.splat(0.0); 2]; R];
        let (words, steps) = (group_words(self.group), self.group / 8);
        for (g, lines) in self.lines.chunks_exact(steps).enumerate() {
            // Loops, not `map`: closures would not be compiled for the level.
            let (mut headers, mut digits) = ([[].as_slice(); R], [[].as_slice(); R]);
            for (r, x) in x.iter().enumerate() {
                let (header, words) = x[g * words..(g + 1) * words].split_at(HEADER);
                (headers[r], digits[r]) = (header, &words.as_chunks::<6>().0[..steps]);
            }
            let ahead = self.stream.get(g * steps + AHEAD..).unwrap_or_default();
            let sums = digit_sums(s, lines, ahead, digits);
            for h in 0..2 {
                let zeros = s.widen_u8(&self.zeros[g][h]);
                let scales = s.load_f16(&self.scales[g][h]);
                for r in 0..R {
                    let mut t = sums[r][h];
                    for i in 0..3 {
                        // The lanes of `zeros` have empty high halves: the broadcast's plays no part.
                        t[i] = s.dot_words(t[i], zeros, s.isplat(headers[r][2 + i]));
                    }
                    y[r][h] = accumulate(s, t, headers[r], scales, y[r][h]);
                }
            }
        }
        y
    }
}

/// `sum q d_i` over one group: `[row][half of the tile][digit]`.
#[inline(always)]
fn digit_sums<S: Simd, const R: usize>(
    s: S,
    lines: &[[Line; 2]],
    ahead: &[[Line; 2]],
    digits: [&[[u32; 6]]; R],
) -> [[[S::I; 3]; 2]; R] {
    let mut sums = [[[s.isplat(0); 3]; 2]; R];
    for (j, line) in lines.iter().enumerate() {
        if let Some(line) = ahead.get(j) {
            s.prefetch(&line[0].0);
            s.prefetch(&line[1].0);
        }
        let w = [s.iload(&line[0].0), s.iload(&line[1].0)];
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
