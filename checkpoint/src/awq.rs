//! 4-bit weights in AutoAWQ's "gemm" layout: group-wise rounding to nearest, and the packing of eight nibbles a word.
//! Called for each linear layer. Knows slices and shapes only; must never see a file or a tensor name.
//!
//! The layout, for a linear layer with `K` input and `N` output features in groups of `G` input features:
//! * `qweight` int32 `[K, N/8]`: word `j` of a row holds output columns `8j..8j+8`, lowest nibble first, nibble `i`
//!   being column `8j + PACK_ORDER[i]`;
//! * `qzeros` int32 `[K/G, N/8]`, packed alike; `scales` float16 `[K/G, N]`;
//! * weight `[k, n] = (q[k, n] - zero[k/G, n]) * scale[k/G, n]`.
//!
//! This is AWQ's storage format, not its method: activation-aware scaling is searched for by the quantizer, which brings
//! its own levels.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Columns of a word by nibble position, lowest first (AutoAWQ interleaves even and odd columns).
pub const PACK_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
/// Columns in a word.
pub const PACK: usize = 8;
/// Greatest 4-bit value.
pub const MAX_QUANT: f32 = 15.0;
/// Least range of a group, so that a group of zeros has a scale too.
const MIN_RANGE: f32 = 1e-5;

/// Sizes of one linear layer. `k` is a multiple of `group_size`, `n` of [`PACK`]; both are positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Input features.
    pub k: usize,
    /// Output features.
    pub n: usize,
    /// Input features a group.
    pub group_size: usize,
}

impl LinearShape {
    /// The shape, or why the layout cannot hold it.
    pub fn new(k: usize, n: usize, group_size: usize) -> Result<Self, String> {
        if group_size == 0 || k == 0 || !k.is_multiple_of(group_size) {
            return Err(format!("the group size {group_size} does not divide its {k} input features"));
        }
        if n == 0 || !n.is_multiple_of(PACK) {
            return Err(format!("{n} output features; 4-bit packing needs a multiple of {PACK}"));
        }
        Ok(Self { k, n, group_size })
    }

    /// Groups along the input features.
    pub fn n_groups(self) -> usize {
        self.k / self.group_size
    }

    /// Words in a row of `qweight` and `qzeros`.
    pub fn n_words(self) -> usize {
        self.n / PACK
    }
}

/// A quantised linear layer; see the file's head for the layout.
#[derive(Clone, Debug, PartialEq)]
pub struct AwqLinear {
    pub shape: LinearShape,
    pub qweight: Vec<u32>,
    pub qzeros: Vec<u32>,
    pub scales: Vec<f16>,
}

impl AwqLinear {
    /// A layer of zeros, to be filled by [`set_rows`](Self::set_rows).
    pub fn zeros(shape: LinearShape) -> Self {
        Self {
            shape,
            qweight: vec![0; shape.k * shape.n_words()],
            qzeros: vec![0; shape.n_groups() * shape.n_words()],
            scales: vec![f16::ZERO; shape.n_groups() * shape.n],
        }
    }

    /// Quantises output features `first..` from `rows`, `[n, K]` row-major with `first` and `n` multiples of [`PACK`].
    pub fn set_rows(&mut self, first: usize, rows: &[f16]) {
        let LinearShape { k, group_size, .. } = self.shape;
        let mut row = vec![0.0; k];
        let mut strip = Strip::new(self.shape);
        for (i, rows) in rows.chunks_exact(PACK * k).enumerate() {
            for (lane, half_row) in rows.chunks_exact(k).enumerate() {
                half_row.convert_to_f32_slice(&mut row);
                for (g, group) in row.chunks_exact(group_size).enumerate() {
                    let grid = Grid::of(group);
                    strip.scales[g][lane] = grid.scale;
                    strip.zeros[g][lane] = grid.zero as u8;
                    grid.snap_all(group, &mut strip.quants[g * group_size..], lane);
                }
            }
            self.set_strip(first / PACK + i, &strip);
        }
    }

    /// Takes output features `8 word..8 word + 8` as they are.
    pub fn set_strip(&mut self, word: usize, strip: &Strip) {
        let (n, n_words) = (self.shape.n, self.shape.n_words());
        scatter(&strip.quants, &mut self.qweight, word, n_words);
        scatter(&strip.zeros, &mut self.qzeros, word, n_words);
        for (scales, row) in strip.scales.iter().zip(self.scales.chunks_exact_mut(n)) {
            row[word * PACK..][..PACK].copy_from_slice(scales);
        }
    }
}

/// Eight neighbouring output features of a layer, quantised.
#[derive(Clone, Debug, PartialEq)]
pub struct Strip {
    /// `[K]`, values 0 to 15.
    pub quants: Vec<[u8; PACK]>,
    /// `[K/G]`, values 0 to 15.
    pub zeros: Vec<[u8; PACK]>,
    /// `[K/G]`
    pub scales: Vec<[f16; PACK]>,
}

impl Strip {
    /// Zeros, for a layer of this shape.
    pub fn new(shape: LinearShape) -> Self {
        let n_groups = shape.n_groups();
        Self {
            quants: vec![[0; PACK]; shape.k],
            zeros: vec![[0; PACK]; n_groups],
            scales: vec![[f16::ZERO; PACK]; n_groups],
        }
    }
}

/// Writes packed `columns` into word `word` of each row of `words`.
fn scatter(columns: &[[u8; PACK]], words: &mut [u32], word: usize, n_words: usize) {
    for (values, row) in columns.iter().zip(words.chunks_exact_mut(n_words)) {
        row[word] = pack(values);
    }
}

/// Eight 4-bit values of neighbouring columns as one word.
pub fn pack(values: &[u8; PACK]) -> u32 {
    PACK_ORDER.iter().enumerate().fold(0, |word, (i, &column)| word | u32::from(values[column]) << (4 * i))
}

/// The sixteen levels of one group: `(q - zero) * scale` for q in 0..=15.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    pub scale: f16,
    /// A whole number, 0 to 15.
    pub zero: f32,
}

impl Grid {
    /// The levels that span `group` and zero.
    fn of(group: &[f32]) -> Self {
        let (low, high) = group.iter().fold((0.0f32, 0.0f32), |(low, high), &w| (low.min(w), high.max(w)));
        Self::spanning(low, high)
    }

    /// The levels from `low` (at most zero) to `high` (at least zero).
    pub fn spanning(low: f32, high: f32) -> Self {
        // Rounded before use, so that q fits the scale as it is stored.
        let scale = f16::from_f32((high - low).max(MIN_RANGE) / MAX_QUANT);
        let zero = (-(low / scale.to_f32()).round_ties_even()).clamp(0.0, MAX_QUANT);
        Self { scale, zero }
    }

    /// Nearest levels of `group`, into lane `lane` of `quants`.
    fn snap_all(self, group: &[f32], quants: &mut [[u8; PACK]], lane: usize) {
        let scale = self.scale.to_f32();
        for (w, q) in group.iter().zip(quants) {
            q[lane] = ((w / scale).round_ties_even() + self.zero).clamp(0.0, MAX_QUANT) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The inverse of [`pack`].
    fn unpack(word: u32) -> [u8; PACK] {
        let mut values = [0; PACK];
        for (i, &column) in PACK_ORDER.iter().enumerate() {
            values[column] = ((word >> (4 * i)) & 15) as u8;
        }
        values
    }

    /// The float weight `[k, n]` with its scale, read by the definition of the layout.
    fn weight_at(layer: &AwqLinear, k: usize, n: usize) -> (f32, f32) {
        let (shape, group) = (layer.shape, k / layer.shape.group_size);
        let nibble = |words: &[u32], row: usize| unpack(words[row * shape.n_words() + n / PACK])[n % PACK];
        let scale = layer.scales[group * shape.n + n].to_f32();
        let steps = f32::from(nibble(&layer.qweight, k)) - f32::from(nibble(&layer.qzeros, group));
        (steps * scale, scale)
    }

    /// The range, zero included, of the group of weight `[k, n]`.
    fn range_of(rows: &[f16], shape: LinearShape, n: usize, k: usize) -> f32 {
        let start = n * shape.k + k / shape.group_size * shape.group_size;
        let group = rows[start..start + shape.group_size].iter().map(|w| w.to_f32());
        let (low, high) = group.fold((0f32, 0f32), |(low, high), w| (low.min(w), high.max(w)));
        high - low
    }

    /// Rows of a random layer, `[N, K]`.
    fn layers() -> impl Strategy<Value = (LinearShape, Vec<f16>)> {
        (1..4usize, 1..4usize, prop::sample::select(vec![1usize, 8, 32]), -12..12i32).prop_flat_map(
            |(groups, words, group_size, exponent)| {
                let shape = LinearShape::new(groups * group_size, words * PACK, group_size).unwrap();
                let values = prop::collection::vec(-1.0..1.0f32, shape.k * shape.n);
                (Just(shape), values.prop_map(move |v| halves(&v, 2f32.powi(exponent))))
            },
        )
    }

    fn halves(values: &[f32], factor: f32) -> Vec<f16> {
        values.iter().map(|v| f16::from_f32(v * factor)).collect()
    }

    proptest! {
        #[test]
        fn packing_is_invertible(word: u32) {
            prop_assert_eq!(pack(&unpack(word)), word);
        }

        #[test]
        fn rounding_errs_by_at_most_half_a_step((shape, rows) in layers()) {
            let mut layer = AwqLinear::zeros(shape);
            layer.set_rows(0, &rows);
            for n in 0..shape.n {
                for k in 0..shape.k {
                    let exact = rows[n * shape.k + k].to_f32();
                    let (restored, scale) = weight_at(&layer, k, n);
                    // A scale rounded down leaves the ends of the range short of its 15 steps.
                    let short = (range_of(&rows, shape, n, k) - 15.0 * scale).max(0.0);
                    let limit = 0.5001 * scale + short;
                    prop_assert!((exact - restored).abs() <= limit, "{exact} {restored} {scale}");
                }
            }
        }

        #[test]
        fn rows_may_come_in_any_order_of_strips((shape, rows) in layers()) {
            let mut whole = AwqLinear::zeros(shape);
            whole.set_rows(0, &rows);
            let mut strips = AwqLinear::zeros(shape);
            for (i, strip) in rows.chunks_exact(PACK * shape.k).enumerate().rev() {
                strips.set_rows(i * PACK, strip);
            }
            prop_assert_eq!(whole, strips);
        }
    }

    #[test]
    fn columns_interleave_as_autoawq_packs_them() {
        assert_eq!(pack(&[0, 1, 2, 3, 4, 5, 6, 7]), 0x7531_6420);
    }

    #[test]
    fn shapes_that_do_not_fit_are_named() {
        assert!(LinearShape::new(96, 8, 64).unwrap_err().contains("64 does not divide its 96"));
        assert!(LinearShape::new(64, 12, 64).unwrap_err().contains("12 output features"));
    }
}
