//! The upper triangular factor `R` of a Gram matrix, `H = R Rᵀ`: how errors of one input feature can be made up for
//! by those after it.
//!
//! Called by `rounding` once a layer. Blocked, so that nearly all of the work is matrix products.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;

const BLOCK: usize = 128;
/// Rows of a piece of work.
const CHUNK: usize = 256;
/// Share of the mean diagonal that is added to it, so that features which never vary alone stay harmless.
const DAMPING: f32 = 0.01;

/// The factor of `gram` `[K, K]`, damped. Below the diagonal it is zero.
pub(super) fn upper_factor(mut gram: Array2<f32>) -> Array2<f32> {
    let k = gram.nrows();
    let mean = gram.diag().sum() / k.max(1) as f32;
    // A layer that nothing flows through has no preferences.
    let damping = if mean > 0.0 && mean.is_finite() { mean * DAMPING } else { 1.0 };
    gram.diag_mut().mapv_inplace(|value| value + damping);
    let mut end = k;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let (above, mut corner) = columns(&mut gram, start, end);
        factor_corner(&mut corner, damping);
        if start == 0 {
            break;
        }
        let panel = solved(above, &corner.view());
        let mut left = gram.slice_mut(s![..start, ..start]);
        left.axis_chunks_iter_mut(Axis(0), CHUNK).into_par_iter().enumerate().for_each(|(i, mut rows)| {
            let of_rows = panel.slice(s![i * CHUNK..i * CHUNK + rows.nrows(), ..]);
            rows -= &of_rows.dot(&panel.t());
        });
        gram.slice_mut(s![start..end, ..start]).fill(0.0);
        end = start;
    }
    gram
}

/// Of the columns `start..end`: the rows above the diagonal block, and the block.
fn columns(
    gram: &mut Array2<f32>,
    start: usize,
    end: usize,
) -> (ArrayViewMut2<'_, f32>, ArrayViewMut2<'_, f32>) {
    let (above, rest) = gram.slice_mut(s![..end, start..end]).split_at(Axis(0), start);
    (above, rest)
}

/// Factors a diagonal block in place, from its last column to its first.
fn factor_corner(corner: &mut ArrayViewMut2<'_, f32>, least: f32) {
    let n = corner.nrows();
    for j in (0..n).rev() {
        // Rounding may take a pivot below what the damping guarantees.
        let pivot = corner[[j, j]].max(least * 1e-3).sqrt();
        corner[[j, j]] = pivot;
        for i in 0..j {
            corner[[i, j]] /= pivot;
            corner[[j, i]] = 0.0;
        }
        for i in 0..j {
            let of_row = corner[[i, j]];
            for l in 0..j {
                corner[[i, l]] -= of_row * corner[[l, j]];
            }
        }
    }
}

/// Replaces `above` by `above * corner⁻ᵀ`; a copy of the result.
fn solved(mut above: ArrayViewMut2<'_, f32>, corner: &ArrayView2<'_, f32>) -> Array2<f32> {
    let n = corner.nrows();
    above.axis_chunks_iter_mut(Axis(0), CHUNK).into_par_iter().for_each(|mut rows| {
        for mut row in rows.outer_iter_mut() {
            for j in (0..n).rev() {
                let known: f32 = (j + 1..n).map(|l| row[l] * corner[[j, l]]).sum();
                row[j] = (row[j] - known) / corner[[j, j]];
            }
        }
    });
    above.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Gram matrix of `k` features, well away from singular, without a random generator.
    fn gram(k: usize) -> Array2<f32> {
        let x = Array2::from_shape_fn((2 * k, k), |(i, j)| ((i * 31 + j * 17) % 101) as f32 / 50.0 - 1.0);
        x.t().dot(&x) / k as f32
    }

    #[test]
    fn the_factors_product_is_the_matrix() {
        for k in [1, 5, BLOCK, BLOCK + 1, 3 * BLOCK + 7] {
            let gram = gram(k);
            let damping = gram.diag().mean().unwrap_or_default() * DAMPING;
            let factor = upper_factor(gram.clone());
            let product = factor.dot(&factor.t());
            let largest = gram.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            for ((i, j), value) in product.indexed_iter() {
                let expected = gram[[i, j]] + if i == j { damping } else { 0.0 };
                assert!((value - expected).abs() <= 1e-4 * largest, "{k}: [{i}, {j}] {value} {expected}");
                assert!(i <= j || factor[[i, j]] == 0.0, "[{i}, {j}] is below the diagonal");
            }
        }
    }

    #[test]
    fn nothing_flows_through_a_dead_layer() {
        let factor = upper_factor(Array2::zeros((130, 130)));
        assert_eq!(factor, Array2::<f32>::eye(130));
    }
}
