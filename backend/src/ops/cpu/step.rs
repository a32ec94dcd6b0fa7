//! What all layers of a step share: rotary angles, log-n factors, and how rows are cut into tasks.
//!
//! Filled by `CpuOps::begin_step`. Its vectors grow to the largest step seen and are then reused.

use crate::batch::{Batch, Span};
use crate::config::RopeScaling;
use crate::ops::AttentionShape;

/// Rows of one span that attention treats together.
const TILE_ROWS: usize = 16;

/// Neighbouring rows of one span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Index of the span in the batch.
    pub span: usize,
    /// First row in the batch.
    pub row: usize,
    pub n_rows: usize,
    /// Keys that the first row sees, itself included.
    pub n_keys: usize,
}

#[derive(Default)]
pub struct StepState {
    /// Pairs of dimensions that a head rotates.
    pub half: usize,
    /// `[rows, half]`
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// log-n factor of q, `[rows]`.
    logn: Vec<f32>,
    pub tiles: Vec<Tile>,
    /// First row of each tile, and the end.
    pub row_cuts: Vec<usize>,
    /// Keys of the longest sequence.
    pub max_keys: usize,
    inverse_frequencies: Vec<f64>,
}

impl StepState {
    pub fn begin(&mut self, batch: &Batch, shape: &AttentionShape, scaling: &RopeScaling) {
        self.half = shape.rope_dim / 2;
        self.cos.clear();
        self.sin.clear();
        self.logn.clear();
        self.tiles.clear();
        self.row_cuts.clear();
        self.max_keys = 0;
        for (index, span) in batch.spans.iter().enumerate() {
            self.angles(span, scaling);
            let factors = (0..span.n_rows).map(|i| logn(shape, span.position + i));
            self.logn.extend(factors);
            self.cut(index, span);
            self.max_keys = self.max_keys.max(span.position + span.n_rows);
        }
        self.row_cuts.push(batch.n_rows());
    }

    /// Angles in float64, as in `reference`: rounding them early would cost digits at far positions.
    fn angles(&mut self, span: &Span, scaling: &RopeScaling) {
        let dim = (2 * self.half) as f64;
        self.inverse_frequencies.clear();
        let frequency = |i: usize| span.rope_theta.powf(-(2.0 * i as f64) / dim) * scaling.factor(i);
        let frequencies = (0..self.half).map(frequency);
        self.inverse_frequencies.extend(frequencies);
        for position in span.position..span.position + span.n_rows {
            for frequency in &self.inverse_frequencies {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                self.cos.push((cos * scaling.attention) as f32);
                self.sin.push((sin * scaling.attention) as f32);
            }
        }
    }

    fn cut(&mut self, index: usize, span: &Span) {
        for first in (0..span.n_rows).step_by(TILE_ROWS) {
            let row = span.first_row + first;
            let n_rows = TILE_ROWS.min(span.n_rows - first);
            self.tiles.push(Tile { span: index, row, n_rows, n_keys: span.position + first + 1 });
            self.row_cuts.push(row);
        }
    }

    /// Cosines and sines of row `r`, `[half]` each, and its log-n factor.
    pub fn rotation(&self, r: usize) -> (&[f32], &[f32], f32) {
        let range = r * self.half..(r + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range], self.logn[r])
    }

    /// Rows that `begin` prepared.
    pub fn n_rows(&self) -> usize {
        self.logn.len()
    }
}

/// `max(1, ln(position + 1) / ln(seq_length))` where the model asks for it.
fn logn(shape: &AttentionShape, position: usize) -> f32 {
    match shape.logn_seq_length {
        Some(length) if length > 1 => (((position + 1) as f64).ln() / (length as f64).ln()).max(1.0) as f32,
        _ => 1.0,
    }
}
