//! Activations on the host: a row-major float32 matrix with room for a fixed number of rows.

use super::memory::{product, zeroed};
use crate::error::{LoadError, StepError};

/// `[rows, cols]`; made by `Ops::new_act`, resized by `Ops::set_rows`.
pub struct CpuAct {
    values: Box<[f32]>,
    rows: usize,
    cols: usize,
}

impl CpuAct {
    pub fn new(max_rows: usize, cols: usize) -> Result<Self, LoadError> {
        let values = zeroed("activations", product(&[max_rows, cols]))?;
        Ok(CpuAct { values, rows: 0, cols })
    }

    /// At most the `max_rows` it was made for.
    pub fn set_rows(&mut self, rows: usize) {
        assert!(rows * self.cols <= self.values.len(), "invariant: rows fit the buffer");
        self.rows = rows;
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn values(&self) -> &[f32] {
        &self.values[..self.rows * self.cols]
    }

    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.rows * self.cols]
    }

    pub fn row(&self, r: usize) -> &[f32] {
        &self.values()[r * self.cols..(r + 1) * self.cols]
    }

    /// Fails unless the matrix is `[rows, cols]`.
    pub fn expect(&self, op: &'static str, rows: usize, cols: usize) -> Result<(), StepError> {
        if (self.rows, self.cols) == (rows, cols) {
            return Ok(());
        }
        let detail = format!("expected a [{rows}, {cols}] matrix, got [{}, {}]", self.rows, self.cols);
        Err(StepError::Device { op, detail })
    }
}
