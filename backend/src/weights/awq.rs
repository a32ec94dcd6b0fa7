//! AutoAWQ's "gemm" layout: eight 4-bit columns in a 32-bit word, asymmetric, `w = (q - z) * s`.
//!
//! Called by the packers of `ops` and by tests. Word `[k, c]` holds columns `8c..8c+8` of row `k`, in
//! an interleaved order that the format inherits from its first kernel. Pure.

use half::f16;

use super::tensor::Tensor;
use crate::error::LoadError;

/// Columns a word.
pub const COLUMNS: usize = 8;

/// Column, within its word, of nibble i (bits 4i..4i+3).
pub const COLUMN_OF_NIBBLE: [usize; COLUMNS] = [0, 2, 4, 6, 1, 3, 5, 7];

/// The eight columns of a word, in column order, each 0..=15.
#[inline]
pub fn unpack(word: u32) -> [u8; COLUMNS] {
    let mut columns = [0; COLUMNS];
    for (nibble, column) in COLUMN_OF_NIBBLE.into_iter().enumerate() {
        columns[column] = (word >> (4 * nibble) & 0xf) as u8;
    }
    columns
}

/// The inverse of `unpack`; of each column the low four bits count.
pub fn pack(columns: [u8; COLUMNS]) -> u32 {
    let nibbles = COLUMN_OF_NIBBLE.into_iter().enumerate();
    nibbles.fold(0, |word, (nibble, column)| word | u32::from(columns[column] & 0xf) << (4 * nibble))
}

/// Refuses scales with infinities or NaNs, which would spread to every token.
pub fn check_scales(scales: &Tensor) -> Result<(), LoadError> {
    let elements = scales.elements::<f16>();
    match elements.iter().position(|scale| !scale.is_finite()) {
        None => Ok(()),
        Some(i) => {
            let detail = format!(
                "expected finite scales, got {} at element {i}; the checkpoint is damaged",
                elements[i]
            );
            Err(LoadError::Tensor { name: scales.name.clone(), detail })
        }
    }
}

/// The weight as float32 `[N, K]`, the orientation of a plain one. Slow and clear: the fast packers
/// are tested against it.
///
/// `qweight` int32 `[K, N/8]`, `qzeros` int32 `[K/g, N/8]`, `scales` float16 `[K/g, N]`, as
/// `Checkpoint::linear` checks them.
///
/// # Errors
/// A scale that is not finite.
pub fn dequantize(
    qweight: &Tensor,
    qzeros: &Tensor,
    scales: &Tensor,
    group_size: usize,
) -> Result<Vec<f32>, LoadError> {
    check_scales(scales)?;
    let (q, z, s) = (qweight.elements::<u32>(), qzeros.elements::<u32>(), scales.to_f32());
    let (in_features, words) = (qweight.shape[0], qweight.shape[1]);
    let mut weight = vec![0.0; in_features * words * COLUMNS];
    for k in 0..in_features {
        let group = k / group_size;
        for c in 0..words {
            let values = unpack(q[k * words + c]);
            let zeros = unpack(z[group * words + c]);
            for i in 0..COLUMNS {
                let n = c * COLUMNS + i;
                let scale = s[group * words * COLUMNS + n];
                weight[n * in_features + k] = (f32::from(values[i]) - f32::from(zeros[i])) * scale;
            }
        }
    }
    Ok(weight)
}
