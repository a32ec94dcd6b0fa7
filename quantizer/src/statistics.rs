//! What a search must know of the activations that flow into a linear layer.
//!
//! Made by `run` from a block's inputs. The error of a rounded weight is that of its outputs on these activations,
//! `|x D|²` summed over all of them: `D` dotted with `D H`, where `H` is the activations' Gram matrix.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

/// Columns of a Gram matrix that are computed together.
const BLOCK: usize = 256;

/// Activations into a layer of `K` input features, condensed.
#[derive(Debug)]
pub(crate) struct Statistics {
    /// Mean magnitude of each input feature, `[K]`.
    pub mean_abs: Array1<f32>,
    /// The Gram matrix `[K, K]`.
    gram: Array2<f32>,
}

impl Statistics {
    /// Of activations `[tokens, K]`.
    pub(crate) fn of(x: &Array2<f32>) -> Self {
        let n_tokens = x.nrows().max(1) as f32;
        let mean_abs = x.fold_axis(Axis(0), 0.0f32, |sum, value| sum + value.abs()) / n_tokens;
        let k = x.ncols();
        let mut gram = Array2::zeros((k, k));
        gram.axis_chunks_iter_mut(Axis(0), BLOCK).into_par_iter().enumerate().for_each(|(i, mut rows)| {
            let (first, end) = (i * BLOCK, i * BLOCK + rows.nrows());
            let product = x.slice(s![.., first..end]).t().dot(&x.slice(s![.., ..end]));
            rows.slice_mut(s![.., ..end]).assign(&product);
        });
        mirror(&mut gram);
        Self { mean_abs, gram: gram / n_tokens }
    }

    /// Number of input features.
    pub(crate) fn k(&self) -> usize {
        self.mean_abs.len()
    }

    /// The Gram matrix of features that were each divided by `scale`.
    pub(crate) fn divided_by(&self, scale: &Array1<f32>) -> Array2<f32> {
        let inverse = scale.mapv(|s| 1.0 / s);
        &self.gram * &inverse * inverse.view().insert_axis(Axis(1))
    }

    /// Mean squared error of outputs, summed over the rows of `difference` `[N, K]`.
    pub(crate) fn error(&self, difference: &ArrayView2<'_, f32>) -> f64 {
        let product = difference.dot(&self.gram);
        product.iter().zip(difference.iter()).map(|(a, b)| f64::from(a * b)).sum()
    }
}

/// Copies what is below the diagonal to above it.
fn mirror(gram: &mut Array2<f32>) {
    for i in 0..gram.nrows() {
        let (mut left, right) = gram.view_mut().split_at(Axis(0), i + 1);
        let below = right.slice(s![.., i]);
        left.slice_mut(s![i, i + 1..]).assign(&below);
    }
}
