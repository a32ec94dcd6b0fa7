//! A row-major float32 matrix with room for a fixed number of rows, and the only allocation of the
//! reference device. Memory is asked for zeroed and may be refused: never an abort.

use crate::error::LoadError;

/// Activations, or a table of rows.
#[derive(Debug, Clone, Default)]
pub struct Matrix {
    values: Vec<f32>,
    rows: usize,
    cols: usize,
}

impl Matrix {
    pub fn zeros(rows: usize, cols: usize) -> Result<Matrix, LoadError> {
        let values = zeroed("activations", rows.saturating_mul(cols))?;
        Ok(Matrix { values, rows, cols })
    }

    /// `values` has `rows * cols` elements.
    pub fn from_values(values: Vec<f32>, rows: usize, cols: usize) -> Matrix {
        assert_eq!(values.len(), rows * cols, "invariant: a matrix is full");
        Matrix { values, rows, cols }
    }

    /// Picks how many rows count; contents are kept.
    pub fn set_rows(&mut self, rows: usize) {
        assert!(rows * self.cols <= self.values.len(), "invariant: rows were allocated");
        self.rows = rows;
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.cols..][..self.cols]
    }
}

/// `n` zeros, or an error that says what they were for.
pub fn zeroed(what: &'static str, n: usize) -> Result<Vec<f32>, LoadError> {
    let refused = |()| LoadError::Memory { what, bytes: n.saturating_mul(size_of::<f32>()) };
    bytemuck::allocation::try_zeroed_vec(n).map_err(refused)
}
