//! From scaled weights to 4-bit ones: group after group, each rounded so as to make up for the errors of those before.
//!
//! Rounding one weight shifts the layer's output; where activations go together, weights that are not rounded yet can
//! take most of that shift back ("GPTQ", Frantar et al., 2022; in the form of "QuIP", Chee et al., 2023). With
//! `H = R Rᵀ` and `R` upper triangular, weight `k` is rounded from `w[k] + Σ e[j] R[j,k] / R[k,k]` over the errors
//! `e[j] = w[j] - q[j]` of the weights before it.

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis, s};
use rayon::prelude::*;
use text_generation_checkpoint::awq::{AwqLinear, Grid, LinearShape, PACK, Strip};

use super::factor::upper_factor;
use super::levels::{choose, level};
use crate::statistics::Statistics;

/// Rows (output features) of a piece of work.
const CHUNK: usize = 64;

/// Weights in 4 bits: levels `[N, K]` and the grid of each group, `[N, K/G]`.
#[derive(Debug)]
pub(crate) struct Rounded {
    pub(super) quants: Array2<u8>,
    pub(super) grids: Array2<Grid>,
}

/// How to round layers of one input.
pub(crate) struct Rounding<'a> {
    scale: &'a Array1<f32>,
    /// `[K, K]`
    factor: Array2<f32>,
    group_size: usize,
}

impl<'a> Rounding<'a> {
    /// For an input of `statistics` that is divided by `scale` `[K]`.
    pub(crate) fn new(statistics: &Statistics, scale: &'a Array1<f32>, group_size: usize) -> Self {
        Self { scale, factor: upper_factor(statistics.divided_by(scale)), group_size }
    }

    /// Rounds `weight * scale`, `weight` `[N, K]`.
    pub(crate) fn round(&self, weight: &ArrayView2<'_, f32>) -> Rounded {
        let (n, k) = weight.dim();
        let mut quants = Array2::zeros((n, k));
        let mut grids = Array2::from_elem((n, k / self.group_size), Grid::spanning(0.0, 0.0));
        let chunks = quants.axis_chunks_iter_mut(Axis(0), CHUNK).into_par_iter();
        let chunks = chunks.zip(grids.axis_chunks_iter_mut(Axis(0), CHUNK)).enumerate();
        chunks.for_each(|(i, (mut quants, mut grids))| {
            let rows = weight.slice(s![i * CHUNK..i * CHUNK + quants.nrows(), ..]);
            let mut rows =
                Rows { wanted: &rows * self.scale, factor: self.factor.view(), group_size: self.group_size };
            for (g, mut of_group) in grids.axis_iter_mut(Axis(1)).enumerate() {
                let chosen = rows.round_group(g * self.group_size, &mut quants);
                of_group.assign(&Array1::from_vec(chosen));
            }
        });
        Rounded { quants, grids }
    }
}

/// Some rows being rounded.
struct Rows<'a> {
    /// `[rows, K]`: weights, or of groups that are rounded already, their errors.
    wanted: Array2<f32>,
    /// `[K, K]`
    factor: ArrayView2<'a, f32>,
    group_size: usize,
}

impl Rows<'_> {
    /// Rounds the group that begins at feature `first`; its levels.
    fn round_group(&mut self, first: usize, quants: &mut ArrayViewMut2<'_, u8>) -> Vec<Grid> {
        let end = first + self.group_size;
        let diagonal = self.factor.slice(s![first..end, first..end]);
        // What the errors of the groups before it add up to.
        let left = self.wanted.slice(s![.., ..first]).dot(&self.factor.slice(s![..first, first..end]));
        let mut group = self.wanted.slice_mut(s![.., first..end]);
        let aimed = &group + &made_up(&left, &diagonal);
        let grids = choose(&aimed.view(), &diagonal);
        let mut quants = quants.slice_mut(s![.., first..end]);
        let rows = group.outer_iter_mut().zip(left.outer_iter()).zip(quants.outer_iter_mut()).zip(&grids);
        for (((mut weights, left), mut quants), &grid) in rows {
            let (scale, zero) = (grid.scale.to_f32(), grid.zero);
            let inverse = 1.0 / scale;
            let mut left = left.to_owned();
            for k in 0..weights.len() {
                let aim = weights[k] + left[k] / diagonal[[k, k]];
                let q = level(aim * inverse, zero);
                quants[k] = q as u8;
                let error = weights[k] - (q - zero) * scale;
                weights[k] = error;
                left.zip_mut_with(&diagonal.row(k), |left, r| *left += error * r);
            }
        }
        grids
    }
}

/// What unrounded weights would have to add to make up for `left` wholly: `left * diagonal⁻¹`.
fn made_up(left: &Array2<f32>, diagonal: &ArrayView2<'_, f32>) -> Array2<f32> {
    let mut solved = left.clone();
    for mut row in solved.outer_iter_mut() {
        for k in 0..row.len() {
            let value = row[k] / diagonal[[k, k]];
            row.slice_mut(s![k + 1..])
                .zip_mut_with(&diagonal.slice(s![k, k + 1..]), |later, r| *later -= value * r);
            row[k] = value;
        }
    }
    solved
}

impl Rounded {
    /// The packed layer.
    pub(crate) fn pack(&self, shape: LinearShape) -> AwqLinear {
        let mut layer = AwqLinear::zeros(shape);
        for word in 0..shape.n_words() {
            let mut strip = Strip::new(shape);
            for lane in 0..PACK {
                let n = word * PACK + lane;
                for (to, &quant) in strip.quants.iter_mut().zip(self.quants.row(n)) {
                    to[lane] = quant;
                }
                for (g, grid) in self.grids.row(n).iter().enumerate() {
                    strip.zeros[g][lane] = grid.zero as u8;
                    strip.scales[g][lane] = grid.scale;
                }
            }
            layer.set_strip(word, &strip);
        }
        layer
    }
}
