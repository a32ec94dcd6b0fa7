//! The arithmetic written out plainly, in float32 and on one thread: what every other device is
//! tested against. Slow on purpose where a faster way would be harder to read. It is also a whole
//! device (`--ops reference`), so it keeps the rules of `Ops`: bounded memory, fixed order of sums.

mod attention;
mod linear;
mod matrix;
mod sizes;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use attention::PagedKv;
use attention::Rotations;
pub use linear::Linear;
pub use matrix::Matrix;
pub use sizes::ReferenceSizes;

use super::{ActKind, Allocate, AttentionShape, KvShape, Ops, Pack};
use crate::batch::Batch;
use crate::config::RopeScaling;
use crate::error::{LoadError, StepError};
use crate::weights::{LinearSource, Tensor};

/// The reference device.
#[derive(Debug, Default)]
pub struct ReferenceOps {
    /// Angles of the step's rows, from `begin_step`.
    rotations: Rotations,
    /// Attention scores of one query, kept between calls.
    scores: Vec<f32>,
}

impl Pack for ReferenceOps {
    type Linear = Linear;
    type Norm = Vec<f32>;
    type Embedding = Matrix;

    fn load_linear(&mut self, parts: &[LinearSource]) -> Result<Linear, LoadError> {
        Linear::join(parts)
    }

    fn load_norm(&mut self, weight: &Tensor) -> Result<Vec<f32>, LoadError> {
        Ok(weight.to_f32())
    }

    fn load_embedding(&mut self, weight: &Tensor) -> Result<Matrix, LoadError> {
        match weight.shape[..] {
            [vocab, hidden] => Ok(Matrix::from_values(weight.to_f32(), vocab, hidden)),
            _ => Err(LoadError::Tensor {
                name: weight.name.clone(),
                detail: format!("expected shape [vocab, hidden], got {:?}", weight.shape),
            }),
        }
    }
}

impl Allocate for ReferenceOps {
    type Act = Matrix;
    type Kv = PagedKv;

    fn new_act(&mut self, _: ActKind, max_rows: usize, cols: usize) -> Result<Matrix, LoadError> {
        Matrix::zeros(max_rows, cols)
    }

    fn new_kv(&mut self, shape: KvShape) -> Result<PagedKv, LoadError> {
        self.scores = matrix::zeroed("attention scores", shape.n_blocks.saturating_mul(shape.block_size))?;
        PagedKv::new(shape)
    }
}

impl Ops for ReferenceOps {
    fn set_rows(&self, act: &mut Matrix, rows: usize) {
        act.set_rows(rows);
    }

    fn begin_step(
        &mut self,
        batch: &Batch,
        shape: &AttentionShape,
        scaling: &RopeScaling,
    ) -> Result<(), StepError> {
        self.rotations.compute(batch, shape, scaling);
        Ok(())
    }

    fn embed(&mut self, table: &Matrix, batch: &Batch, residual: &mut Matrix) -> Result<(), StepError> {
        for (row, &token) in batch.tokens.iter().enumerate() {
            residual.row_mut(row).copy_from_slice(table.row(token as usize));
        }
        Ok(())
    }

    fn rms_norm(
        &mut self,
        x: &Matrix,
        weight: &Vec<f32>,
        eps: f32,
        out: &mut Matrix,
    ) -> Result<(), StepError> {
        for row in 0..x.rows() {
            let x = x.row(row);
            let mean = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
            let scale = 1.0 / (mean + eps).sqrt();
            for ((out, x), weight) in out.row_mut(row).iter_mut().zip(x).zip(weight) {
                *out = x * scale * weight;
            }
        }
        Ok(())
    }

    fn linear_add(
        &mut self,
        (x, layer): (&Matrix, &Linear),
        delta: &mut Matrix,
        residual: &mut Matrix,
    ) -> Result<(), StepError> {
        self.linear(x, layer, delta)?;
        for row in 0..residual.rows() {
            for (residual, delta) in residual.row_mut(row).iter_mut().zip(delta.row(row)) {
                *residual += delta;
            }
        }
        Ok(())
    }

    fn linear(&mut self, x: &Matrix, layer: &Linear, out: &mut Matrix) -> Result<(), StepError> {
        layer.apply(x, out);
        Ok(())
    }

    fn rope_and_store(
        &mut self,
        qkv: &mut Matrix,
        kv: &mut PagedKv,
        layer: usize,
        batch: &Batch,
        shape: &AttentionShape,
    ) -> Result<(), StepError> {
        for span in &batch.spans {
            for i in 0..span.n_rows {
                let row = qkv.row_mut(span.first_row + i);
                self.rotations.apply(span.first_row + i, row, shape);
                let (_, keys_values) = row.split_at(shape.n_heads * shape.head_dim);
                let (k, v) = keys_values.split_at(shape.n_kv_heads * shape.head_dim);
                kv.store(layer, &span.blocks, span.position + i, k, v);
            }
        }
        Ok(())
    }

    fn attention(
        &mut self,
        qkv: &Matrix,
        kv: &PagedKv,
        layer: usize,
        batch: &Batch,
        shape: &AttentionShape,
        out: &mut Matrix,
    ) -> Result<(), StepError> {
        for span in &batch.spans {
            for i in 0..span.n_rows {
                let (q, out) = (qkv.row(span.first_row + i), out.row_mut(span.first_row + i));
                let past = kv.sequence(layer, &span.blocks, span.position + i + 1);
                attention::attend(q, &past, shape, &mut self.scores, out);
            }
        }
        Ok(())
    }

    fn silu_mul(&mut self, gate_up: &Matrix, out: &mut Matrix) -> Result<(), StepError> {
        for row in 0..gate_up.rows() {
            let (gate, up) = gate_up.row(row).split_at(out.cols());
            for ((out, gate), up) in out.row_mut(row).iter_mut().zip(gate).zip(up) {
                *out = gate / (1.0 + (-gate).exp()) * up;
            }
        }
        Ok(())
    }

    fn gather_rows(&mut self, x: &Matrix, rows: &[usize], out: &mut Matrix) -> Result<(), StepError> {
        for (i, &row) in rows.iter().enumerate() {
            out.row_mut(i).copy_from_slice(x.row(row));
        }
        Ok(())
    }

    fn read_row<'a>(&self, logits: &'a Matrix, row: usize) -> Result<Cow<'a, [f32]>, StepError> {
        Ok(Cow::Borrowed(logits.row(row)))
    }
}
