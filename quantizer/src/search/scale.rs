//! The scale of each input feature: `W diag(s)` is rounded in place of `W`, and whatever feeds the layer is divided by `s`.
//!
//! A feature with large activations gets a larger scale, so that its weights are rounded more finely. As AWQ does, the
//! scales are powers of the features' mean magnitude, alone or over that of the weights, and the power is searched for;
//! what is minimised is the error of the layers' outputs.

use ndarray::{Array1, Array2, ArrayView2, Axis};
use rayon::prelude::*;
use text_generation_backend::config::ModelConfig;

use super::levels::round_trip;
use crate::statistics::Statistics;

/// Powers tried between 0 and 1.
const STEPS: usize = 20;
/// Rows (output features) that judge a candidate, at most; more of them change nothing.
const MAX_ROWS: usize = 256;
/// Rows of a piece of work.
const CHUNK: usize = 64;
const LEAST_SCALE: f32 = 1e-4;

/// Input features that must share their scale: those of the query heads that read one key/value head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tied {
    /// Key/value heads.
    pub n_groups: usize,
    /// Query heads a key/value head.
    pub n_sharing: usize,
    /// Features a head.
    pub head_dim: usize,
}

impl Tied {
    /// What flows into attention's output projection.
    pub(crate) fn by_values(config: &ModelConfig) -> Self {
        let ModelConfig { n_heads, n_kv_heads, head_dim, .. } = *config;
        Self { n_groups: n_kv_heads, n_sharing: n_heads / n_kv_heads, head_dim }
    }
}

/// The scale `[K]` that hurts the outputs of `weights` (each `[N, K]`) least.
pub(crate) fn choose(
    weights: &[ArrayView2<'_, f32>],
    statistics: &Statistics,
    group_size: usize,
    tied: Option<Tied>,
) -> Array1<f32> {
    let sample = sample(weights);
    let activation = shared(&statistics.mean_abs, tied);
    let weight = shared(&relative_magnitude(weights, group_size), tied);
    let powers = (0..STEPS).map(|step| step as f32 / STEPS as f32);
    let candidates = powers.flat_map(|power| {
        let alone = activation.mapv(|a| a.powf(power));
        let mut both = alone.clone();
        both.zip_mut_with(&weight, |s, w| *s /= w.powf(1.0 - power) + LEAST_SCALE);
        [alone, both]
    });
    let mut best = (f64::INFINITY, Array1::ones(statistics.k()));
    for scale in candidates.map(normalized) {
        let error = error(&sample, statistics, group_size, &scale);
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}

/// Evenly chosen rows of all weights together.
fn sample(weights: &[ArrayView2<'_, f32>]) -> Array2<f32> {
    let all = ndarray::concatenate(Axis(0), weights).unwrap_or_default();
    let n_rows = all.nrows();
    if n_rows <= MAX_ROWS {
        return all;
    }
    let rows: Vec<usize> = (0..MAX_ROWS).map(|i| i * n_rows / MAX_ROWS).collect();
    all.select(Axis(0), &rows)
}

/// Mean over the rows of each weight's magnitude relative to the largest of its group, `[K]`.
fn relative_magnitude(weights: &[ArrayView2<'_, f32>], group_size: usize) -> Array1<f32> {
    let k = weights.first().map_or(0, |weight| weight.ncols());
    let (mut sum, mut n_rows) = (Array1::zeros(k), 0usize);
    for weight in weights {
        n_rows += weight.nrows();
        for row in weight.outer_iter() {
            for (group, mut sums) in
                row.exact_chunks(group_size).into_iter().zip(sum.exact_chunks_mut(group_size))
            {
                let largest = group.iter().fold(0.0f32, |largest, w| largest.max(w.abs())) + 1e-6;
                sums.zip_mut_with(&group, |sum: &mut f32, w| *sum += w.abs() / largest);
            }
        }
    }
    sum / n_rows.max(1) as f32
}

/// The mean over features that share their scale.
fn shared(values: &Array1<f32>, tied: Option<Tied>) -> Array1<f32> {
    let Some(Tied { n_groups, n_sharing, head_dim }) = tied.filter(|tied| tied.n_sharing > 1) else {
        return values.clone();
    };
    let at = |group: usize, sharing: usize, i: usize| (group * n_sharing + sharing) * head_dim + i;
    let mut means = values.clone();
    for group in 0..n_groups {
        for i in 0..head_dim {
            let sum: f32 = (0..n_sharing).map(|sharing| values[at(group, sharing, i)]).sum();
            (0..n_sharing).for_each(|sharing| means[at(group, sharing, i)] = sum / n_sharing as f32);
        }
    }
    means
}

/// Scales around 1, positive and finite.
fn normalized(mut scale: Array1<f32>) -> Array1<f32> {
    scale.mapv_inplace(|s| if s.is_finite() { s.max(LEAST_SCALE) } else { 1.0 });
    let (low, high) = scale.iter().fold((f32::INFINITY, 0.0f32), |(low, high), &s| (low.min(s), high.max(s)));
    scale / (low * high).sqrt()
}

/// Error of the outputs when `weights * scale` is rounded.
fn error(weights: &Array2<f32>, statistics: &Statistics, group_size: usize, scale: &Array1<f32>) -> f64 {
    let chunks = weights.axis_chunks_iter(Axis(0), CHUNK).into_par_iter();
    let errors: Vec<f64> = chunks
        .map(|rows| {
            let mut rounded = &rows * scale;
            rounded.outer_iter_mut().for_each(|mut row| {
                if let Some(row) = row.as_slice_mut() {
                    round_trip(row, group_size);
                }
            });
            rounded /= scale;
            rounded -= &rows;
            statistics.error(&rounded.view())
        })
        .collect();
    errors.into_iter().sum()
}
