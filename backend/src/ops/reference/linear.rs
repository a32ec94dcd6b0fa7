//! Linear layers, dequantised to float32 once, when they are loaded. Called by `ReferenceOps` only.
//! Products are summed in the order of the input features, the bias last.

use super::matrix::{Matrix, zeroed};
use crate::error::LoadError;
use crate::weights::LinearSource;

/// `y = x W + b` with layers that share their input side by side.
#[derive(Debug)]
pub struct Linear {
    /// `[K, N]`
    weight: Matrix,
    /// `[N]`, zeros for a layer without.
    bias: Vec<f32>,
}

impl Linear {
    /// Joins `parts` along N, in order.
    pub fn join(parts: &[LinearSource]) -> Result<Linear, LoadError> {
        let k = parts.first().map_or(0, |part| part.in_features);
        let n = parts.iter().map(|part| part.out_features).sum();
        let mut weight = Matrix::zeros(k, n)?;
        let mut bias = zeroed("a bias", n)?;
        let mut first = 0;
        for part in parts {
            if part.in_features != k {
                return Err(LoadError::Tensor {
                    name: part.name.clone(),
                    detail: format!("expected {k} input features as its neighbour, got {}", part.in_features),
                });
            }
            fill(&mut weight, first, part)?;
            if let Some(values) = &part.bias {
                bias[first..][..part.out_features].copy_from_slice(&values.to_f32());
            }
            first += part.out_features;
        }
        Ok(Linear { weight, bias })
    }

    pub fn apply(&self, x: &Matrix, out: &mut Matrix) {
        for row in 0..x.rows() {
            let out = out.row_mut(row);
            out.fill(0.0);
            for (k, &x) in x.row(row).iter().enumerate() {
                out.iter_mut().zip(self.weight.row(k)).for_each(|(out, weight)| *out += x * weight);
            }
            out.iter_mut().zip(&self.bias).for_each(|(out, bias)| *out += bias);
        }
    }
}

/// Writes one layer's weight into the columns from `first` on.
fn fill(weight: &mut Matrix, first: usize, part: &LinearSource) -> Result<(), LoadError> {
    let values = part.weight_to_f32()?;
    for (column, values) in values.chunks_exact(part.in_features).enumerate() {
        for (k, &value) in values.iter().enumerate() {
            weight.row_mut(k)[first + column] = value;
        }
    }
    Ok(())
}
