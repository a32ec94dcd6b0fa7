//! The sixteen levels of a group: its range, clipped as far as that lowers the error of the layer's outputs.
//!
//! Clipping gives up the group's largest weights for finer steps between all others. The error counts how activations
//! go together within the group, so a clipped weight that little flows through costs little.

use ndarray::{Array2, ArrayView2};
use text_generation_checkpoint::awq::{Grid, MAX_QUANT};

/// How much of a group's range is kept, tried for its lower and its upper end each.
const KEPT: [f32; 8] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6];
/// Adding and taking away this rounds a float32 of magnitude below 2^22 to a whole number, ties to even; unlike
/// `round_ties_even` it is one instruction wide on every processor.
const ROUNDER: f32 = 12_582_912.0;

/// Rounds `row` to the levels that span each group, and back.
pub(super) fn round_trip(row: &mut [f32], group_size: usize) {
    for group in row.chunks_exact_mut(group_size) {
        let (low, high) = range(group);
        snap(Grid::spanning(low, high), group);
    }
}

/// Lowest and highest value, zero included.
fn range(values: &[f32]) -> (f32, f32) {
    values.iter().fold((0.0f32, 0.0f32), |(low, high), &w| (low.min(w), high.max(w)))
}

/// Replaces each weight by its nearest level.
fn snap(grid: Grid, group: &mut [f32]) {
    let (scale, zero) = (grid.scale.to_f32(), grid.zero);
    let inverse = 1.0 / scale;
    for w in group {
        *w = (level(*w * inverse, zero) - zero) * scale;
    }
}

/// The level, 0 to 15, of a weight that is `steps` steps from zero.
pub(super) fn level(steps: f32, zero: f32) -> f32 {
    // The bounds keep the sum inside the range in which it rounds.
    ((steps.clamp(-64.0, 64.0) + ROUNDER) - ROUNDER + zero).clamp(0.0, MAX_QUANT)
}

/// The levels of one group of some rows, `weights` `[N, G]`; an error `e` of a row costs `|e factor|²`.
pub(super) fn choose(weights: &ArrayView2<'_, f32>, factor: &ArrayView2<'_, f32>) -> Vec<Grid> {
    let ranges: Vec<(f32, f32)> = weights.outer_iter().map(|row| range(&row.to_vec())).collect();
    let mut best = vec![(f32::INFINITY, Grid::spanning(0.0, 0.0)); ranges.len()];
    for low_kept in KEPT {
        for high_kept in KEPT {
            let of = |&(low, high): &(f32, f32)| Grid::spanning(low * low_kept, high * high_kept);
            let grids: Vec<Grid> = ranges.iter().map(of).collect();
            keep_better(weights, factor, &grids, &mut best);
        }
    }
    best.into_iter().map(|(_, grid)| grid).collect()
}

/// Takes those of `grids` (one a row) that err less than the best so far.
fn keep_better(
    weights: &ArrayView2<'_, f32>,
    factor: &ArrayView2<'_, f32>,
    grids: &[Grid],
    best: &mut [(f32, Grid)],
) {
    let mut difference: Array2<f32> = weights.to_owned();
    for (mut row, &grid) in difference.outer_iter_mut().zip(grids) {
        if let Some(row) = row.as_slice_mut() {
            snap(grid, row);
        }
    }
    difference -= weights;
    let product = difference.dot(factor);
    for ((row, &grid), best) in product.outer_iter().zip(grids).zip(best) {
        let error = row.dot(&row);
        if error < best.0 {
            *best = (error, grid);
        }
    }
}
