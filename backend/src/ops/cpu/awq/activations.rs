//! Activations as fixed-point numbers, three signed bytes an element.
//!
//! A row is a record of u32 words, group after group: a header (see `HEADER`) and then for every 4 input
//! features one word of their d0, one of d1, one of d2. The kernel broadcasts these words. `FixedPoint`
//! is `linear`'s scratch; nothing else reads it.

use crate::ops::cpu::grid::Cuts;
use crate::ops::cpu::pool::Pool;
use crate::ops::cpu::simd::{Kernel, LANES, Level, Simd};

/// Words before a group's digits: the scale and 65536 times it, as float32 bits; minus the sums of the
/// three digits; these times `BIAS`.
pub const HEADER: usize = 8;
/// Added to `q - z` where weights must not be negative.
pub const BIAS: u8 = 15;
/// Bound of |X|. A little under 127 * 65536 + 127 * 256 + 127 = 8355711, so that rounding the scale's
/// reciprocal cannot lead past it.
const LIMIT: f32 = 8_355_000.0;
/// Groups with no larger magnitude count as zero: their reciprocal scale would overflow.
const TINY: f32 = 1e-30;
/// Rows a task quantises.
const ROWS: usize = 8;

/// Words of a group of `group` features.
pub fn group_words(group: usize) -> usize {
    HEADER + group * 3 / 4
}

/// Words of a row of `k` features.
pub fn row_words(k: usize, group: usize) -> usize {
    k / group * group_words(group)
}

/// The rows of one linear layer's input. Borrowed from the scratch of the ops.
#[derive(Clone, Copy)]
pub struct FixedPoint<'a> {
    pub words: &'a [u32],
    pub k: usize,
    pub group: usize,
}

impl<'a> FixedPoint<'a> {
    /// Fills `words` (`rows * row_words`) from `x` (`[rows, k]`, `k` in whole groups of 32, 64 or 128).
    pub fn quantize(
        (pool, level): (&mut Pool, Level),
        x: &[f32],
        (k, group): (usize, usize),
        words: &'a mut [u32],
    ) -> Self {
        let width = row_words(k, group);
        pool.grid(words, width, (Cuts::Every(ROWS), Cuts::Every(width)), |_, mut rect| {
            for r in rect.rows() {
                level.run(QuantizeRow { x: &x[r * k..(r + 1) * k], group, to: rect.row(r) });
            }
        });
        FixedPoint { words, k, group }
    }

    pub fn rows(&self) -> usize {
        self.words.len() / row_words(self.k, self.group)
    }

    #[inline(always)]
    pub fn row(&self, r: usize) -> &'a [u32] {
        let width = row_words(self.k, self.group);
        &self.words[r * width..(r + 1) * width]
    }
}

struct QuantizeRow<'a> {
    x: &'a [f32],
    group: usize,
    to: &'a mut [u32],
}

impl Kernel for QuantizeRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (x, to) in self.x.chunks_exact(self.group).zip(self.to.chunks_exact_mut(group_words(self.group)))
        {
            quantize_group(s, x.as_chunks().0, to);
        }
    }
}

#[inline(always)]
fn quantize_group<S: Simd>(s: S, x: &[[f32; LANES]], to: &mut [u32]) {
    let (header, words) = to.split_at_mut(HEADER);
    let max = max_magnitude(x.as_flattened());
    // Zero digits times a NaN scale make every output of the row NaN: the sampler must see it.
    let (scale, inverse) = match max {
        m if !m.is_finite() => (f32::NAN, 0.0),
        m if m < TINY => (0.0, 0.0),
        m => (m / LIMIT, LIMIT / m),
    };
    let inverse = s.splat(inverse);
    let ones = s.isplat(0x0101_0101);
    let mut sums = s.isplat(0);
    for (x, words) in x.iter().zip(words.as_chunks_mut().0) {
        // `max` and `min` of NaN and infinities give numbers, whose product with 0 is 0.
        let finite = s.max(s.min(s.load(x), s.splat(f32::MAX)), s.splat(f32::MIN));
        let planes = s.digits(s.round(s.mul(finite, inverse)));
        sums = s.dot_bytes(sums, ones, planes);
        s.store_digits(planes, words);
    }
    let sums = s.to_array(sums);
    header[0] = scale.to_bits();
    header[1] = (scale * 65536.0).to_bits();
    for i in 0..3 {
        let sum: i32 = (0..4).map(|j| sums[4 * j + i]).sum();
        header[2 + i] = -sum as u32;
        header[5 + i] = (-sum * i32::from(BIAS)) as u32;
    }
}

/// Largest |x|; infinity or NaN if there is one. Compares bit patterns, which order like magnitudes.
#[inline(always)]
fn max_magnitude(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().fold(0, |max, x| max.max(x.to_bits() & 0x7fff_ffff)))
}
