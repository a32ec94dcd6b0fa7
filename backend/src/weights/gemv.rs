//! AutoAWQ's other layouts, "gemv" and "gemv_fast": the same levels, scales and zero points as "gemm", elsewhere.
//!
//! Opened by `Checkpoint::linear`, turned into "gemm" when an operation takes the layer. With K input and N output features in groups of g, and W
//! words of eight groups' zero points (`zero_words`):
//! * "gemv": `qweight` int32 `[N, K/8]` and `qzeros` int32 `[N, W]`, lowest nibble first; `scales` float16 `[N, 8W]`.
//! * "gemv_fast": `qweight` int16 `[N/4, K]`, four output features interleaved every 64 input features, and of each
//!   32 input features those eight apart in one word; `scales` float16 `[8W, N]`; `-zero * scale` as float16 alike.
//!
//! Groups past K/g are padding.

use std::sync::Arc;

use half::f16;

use super::awq::{self, COLUMNS};
use super::checkpoint::Checkpoint;
use super::linear::{Int4Shape, LinearWeight, OtherLayout};
use super::nibbles::{self, NIBBLES};
use super::tensor::{DType, Tensor};
use crate::error::LoadError;

/// Input features that "gemv_fast" interleaves together.
const FAST_STRIDE: usize = 64;
/// Output features that it interleaves.
const FAST_ROWS: usize = 4;
/// Its two names for the scaled zero points.
const SCALED_ZEROS: [&str; 2] = ["qzeros", "scaled_zeros"];
/// How far a scaled zero point divided by its scale may be from a whole number: both are rounded to float16.
const ROUNDED: f32 = 0.02;

/// Sizes of one layer, checked: whole groups, whole words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub k: usize,
    pub n: usize,
    pub group_size: usize,
}

impl Shape {
    fn groups(self) -> usize {
        self.k / self.group_size
    }

    /// Words of eight groups that AutoAWQ makes room for; more for smaller groups, as its kernel reads them.
    fn zero_words(self) -> usize {
        let multiple = match self.group_size {
            64 => 2,
            32 => 4,
            _ => 1,
        };
        self.groups().div_ceil(NIBBLES).next_multiple_of(multiple)
    }
}

/// A layer in one of the two layouts.
#[derive(Debug)]
struct Stored {
    prefix: String,
    shape: Shape,
    is_fast: bool,
    qweight: Tensor,
    qzeros: Tensor,
    scales: Tensor,
}

/// The layer `prefix`, stored as "gemv".
pub(super) fn gemv(
    checkpoint: &Checkpoint,
    prefix: &str,
    shape: Shape,
) -> Result<Arc<dyn OtherLayout>, LoadError> {
    let Shape { k, n, group_size } = shape;
    let width = shape.zero_words();
    let hint = hint("gemv", group_size);
    let stored = |part: &str, shape: [usize; 2], dtype| {
        checkpoint.typed_tensor(&format!("{prefix}.{part}"), &shape, &[dtype], &hint)
    };
    Ok(Arc::new(Stored {
        prefix: prefix.to_owned(),
        shape,
        is_fast: false,
        qweight: stored("qweight", [n, k / NIBBLES], DType::I32)?,
        qzeros: stored("qzeros", [n, width], DType::I32)?,
        scales: stored("scales", [n, NIBBLES * width], DType::F16)?,
    }))
}

/// The layer `prefix`, stored as "gemv_fast".
pub(super) fn gemv_fast(
    checkpoint: &Checkpoint,
    prefix: &str,
    shape: Shape,
) -> Result<Arc<dyn OtherLayout>, LoadError> {
    let Shape { k, n, group_size } = shape;
    let name = format!("{prefix}.qweight");
    if !k.is_multiple_of(FAST_STRIDE) {
        let detail =
            format!("expected input features in multiples of {FAST_STRIDE} for \"gemv_fast\", got {k}");
        return Err(LoadError::Tensor { name, detail });
    }
    let hint = hint("gemv_fast", group_size);
    let stored =
        |name: &str, shape: [usize; 2], dtype| checkpoint.typed_tensor(name, &shape, &[dtype], &hint);
    let width = NIBBLES * shape.zero_words();
    let [zeros, scaled_zeros] = SCALED_ZEROS.map(|part| format!("{prefix}.{part}"));
    let zeros = if checkpoint.has(&scaled_zeros) { scaled_zeros } else { zeros };
    Ok(Arc::new(Stored {
        prefix: prefix.to_owned(),
        shape,
        is_fast: true,
        qweight: stored(&name, [n / FAST_ROWS, k], DType::I16)?,
        qzeros: stored(&zeros, [width, n], DType::F16)?,
        scales: stored(&format!("{prefix}.scales"), [width, n], DType::F16)?,
    }))
}

/// A layer's words and scales in "gemm".
struct Gemm {
    rows: Vec<u32>,
    zeros: Vec<u32>,
    scales: Vec<f16>,
}

impl OtherLayout for Stored {
    fn shape(&self) -> Int4Shape {
        Int4Shape { rows: self.shape.k, group_size: self.shape.group_size, gathers: false, own_order: false }
    }

    fn convert(&self) -> Result<LinearWeight, LoadError> {
        awq::check_scales(&self.scales)?;
        let gemm = if self.is_fast { self.read_gemv_fast()? } else { self.read_gemv() };
        Ok(layer(&self.prefix, self.shape, gemm))
    }

    fn release(&self) {
        [&self.qweight, &self.qzeros, &self.scales].into_iter().for_each(Tensor::release);
    }
}

impl Stored {
    fn read_gemv(&self) -> Gemm {
        let Shape { k, n, .. } = self.shape;
        let (width, groups) = (self.shape.zero_words(), self.shape.groups());
        let (words, zeros, scales) =
            (self.qweight.elements::<u32>(), self.qzeros.elements::<u32>(), self.scales.elements::<f16>());
        let rows = nibbles::rows(k / NIBBLES, n, |block, column| words[column * (k / NIBBLES) + block]);
        let zero =
            |g: usize, column: usize| (zeros[column * width + g / NIBBLES] >> (4 * (g % NIBBLES)) & 15) as u8;
        let places = (0..groups).flat_map(|g| (0..n).map(move |column| column * NIBBLES * width + g));
        Gemm { rows, zeros: packed(self.shape, zero), scales: places.map(|place| scales[place]).collect() }
    }

    fn read_gemv_fast(&self) -> Result<Gemm, LoadError> {
        let Shape { k, n, .. } = self.shape;
        let words = self.qweight.elements::<u16>();
        let rows = nibbles::rows(k / NIBBLES, n, |block, column| fast_word(&words, (block, column), k));
        let scales = self.scales.elements::<f16>()[..self.shape.groups() * n].to_vec();
        let zeros = unscaled(&self.qzeros, &scales)?;
        Ok(Gemm { rows, zeros: packed(self.shape, |g, column| zeros[g * n + column]), scales })
    }
}

/// Eight neighbouring input features, `8 block..`, of output feature `column`.
fn fast_word(words: &[u16], (block, column): (usize, usize), k: usize) -> u32 {
    let (stride, half, nibble) = (block / NIBBLES, block / 4 % 2, block % 4);
    let first = column / FAST_ROWS * k + stride * FAST_STRIDE + column % FAST_ROWS * 16 + half * NIBBLES;
    let of_column = words[first..first + NIBBLES].iter().enumerate();
    of_column.fold(0, |word, (i, four)| word | (u32::from(four >> (4 * nibble)) & 15) << (4 * i))
}

/// Zero points of float16 `-zero * scale`.
fn unscaled(scaled: &Tensor, scales: &[f16]) -> Result<Vec<u8>, LoadError> {
    let elements = scaled.elements::<f16>();
    let zero = |(i, scale): (usize, &f16)| {
        let zero = match scale.to_f32() {
            0.0 => 0.0, // every level is zero
            scale => -elements[i].to_f32() / scale,
        };
        let whole = zero.round();
        if (zero - whole).abs() <= ROUNDED && (0.0..=15.0).contains(&whole) {
            return Ok(whole as u8);
        }
        let detail = format!(
            "expected minus a scale times a whole number from 0 to 15, got {zero} times it at element {i}"
        );
        Err(LoadError::Tensor { name: scaled.name.clone(), detail })
    };
    scales.iter().enumerate().map(zero).collect()
}

/// Zero points `[K/g, N]` as words.
fn packed(shape: Shape, zero: impl Fn(usize, usize) -> u8) -> Vec<u32> {
    let words = (0..shape.groups()).flat_map(|g| (0..shape.n / COLUMNS).map(move |c| (g, c * COLUMNS)));
    words.map(|(g, first)| awq::pack(std::array::from_fn(|i| zero(g, first + i)))).collect()
}

fn hint(version: &str, group_size: usize) -> String {
    format!("the model's configuration says AWQ \"{version}\" in groups of {group_size}; correct it")
}

fn layer(prefix: &str, shape: Shape, gemm: Gemm) -> LinearWeight {
    let (Shape { k, n, group_size }, Gemm { rows, zeros, scales }) = (shape, gemm);
    let (words, groups) = (n / COLUMNS, shape.groups());
    LinearWeight::Awq {
        qweight: nibbles::tensor(format!("{prefix}.qweight"), DType::I32, [k, words], rows),
        qzeros: nibbles::tensor(format!("{prefix}.qzeros"), DType::I32, [groups, words], zeros),
        scales: nibbles::tensor(format!("{prefix}.scales"), DType::F16, [groups, n], scales),
        group_size,
        inputs: None,
    }
}
