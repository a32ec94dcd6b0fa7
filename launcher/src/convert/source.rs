//! Rows of a planned tensor as float16, in the checkpoint's row order.
//! Called by `write` from its worker threads. Must never let a value that float16 cannot hold pass in silence.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::ConvertError;
use super::dequantize::dequantize;
use super::gguf::Gguf;
use super::plan::{Planned, unpaired_row};

/// Greatest finite float16.
const F16_MAX: f32 = 65504.0;

/// Rows `rows` of `tensor`, `[rows, columns]`. Both ends are multiples of `tensor.row_unit()`.
pub(super) fn half_rows(
    gguf: &Gguf,
    tensor: &Planned<'_>,
    rows: Range<usize>,
) -> Result<Vec<f16>, ConvertError> {
    let source = tensor.source;
    let n_cols = source.n_cols();
    let bytes = gguf.read_rows(source, rows.clone())?;
    let mut halves = vec![f16::ZERO; rows.len() * n_cols];
    let mut wide = vec![0.0; n_cols];
    for (i, row_bytes) in bytes.chunks_exact(source.row_bytes()).enumerate() {
        dequantize(source.kind, row_bytes, &mut wide);
        check_range(&wide, &source.name)?;
        let to = tensor.rope_head_dim.map_or(i, |head_dim| unpaired_row(i, head_dim));
        halves[to * n_cols..][..n_cols].convert_from_f32_slice(&wide);
    }
    Ok(halves)
}

fn check_range(values: &[f32], tensor: &str) -> Result<(), ConvertError> {
    match values.iter().find(|v| v.is_nan() || v.abs() > F16_MAX) {
        None => Ok(()),
        Some(value) => Err(ConvertError::Weight {
            tensor: tensor.to_owned(),
            reason: format!("the weight {value} does not fit float16 (at most {F16_MAX})"),
        }),
    }
}
