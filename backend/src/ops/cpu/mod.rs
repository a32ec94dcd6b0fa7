//! The fast operations for processors: AVX-512 VNNI, AVX2 or plain Rust, found at run time.
//!
//! Every kernel is written once over 16 lanes (`simd`), so all three levels give the same bits, and
//! work is cut along outputs only (`grid`), so the number of threads changes nothing either. The
//! decoder calls `CpuOps` through the `Ops` trait. Nothing here knows about models or requests.

mod act;
mod attention;
mod awq;
mod elementwise;
#[allow(unsafe_code)] // threads write disjoint parts of one matrix
mod grid;
mod kv;
mod linear;
mod math;
mod memory;
mod plain;
#[allow(unsafe_code)] // threads borrow the caller's stack for one region
mod pool;
mod rope;
#[allow(unsafe_code)] // vector instructions
pub mod simd;
mod sizes;
mod step;
mod stored;
#[cfg(test)]
mod tests;

pub use act::CpuAct;
pub use kv::CpuKv;
pub use linear::CpuLinear;
pub use sizes::CpuSizes;

use super::{ActKind, Allocate, AttentionShape, KvShape, Ops, Pack};
use crate::batch::Batch;
use crate::config::RopeScaling;
use crate::error::{LoadError, StepError};
use crate::weights::{LinearSource, Tensor};
use elementwise::{Add, RmsNorm, SiluMul, Widen};
use grid::Cuts;
use memory::{product, zeroed};
use pool::Pool;
use simd::Level;
use std::borrow::Cow;
use std::sync::Mutex;

/// Elements that are worth waking another thread for.
const TASK_ELEMENTS: usize = 8192;

/// The operations on `n_threads` threads, the caller's included.
pub struct CpuOps {
    pool: Pool,
    level: Level,
    step: step::StepState,
    attention: attention::Buffers,
    /// Fixed-point activations of one linear layer: room for `fixed_rows` of `fixed_words`.
    fixed: Box<[u32]>,
    fixed_rows: usize,
    fixed_words: usize,
    /// Inputs of one linear layer in an order of its own: room for `fixed_rows` of `gathered_cols`.
    gathered: Box<[f32]>,
    gathered_cols: usize,
    /// An unpacked tile of weights a worker.
    unpacked: Vec<Mutex<Box<[awq::Line]>>>,
}

/// A norm weight in float32, `[hidden]`.
pub struct CpuNorm(Vec<f32>);

/// The mapped embedding matrix.
pub struct CpuEmbedding {
    weight: Tensor,
    vocab: usize,
    hidden: usize,
}

impl CpuOps {
    /// Uses the best instructions that the processor has. 0 threads count as 1.
    pub fn new(n_threads: usize) -> Self {
        Self::with_level(n_threads, Level::best())
    }

    /// One of `Level::available()`; the results are the same on each.
    pub fn with_level(n_threads: usize, level: Level) -> Self {
        let pool = Pool::new(n_threads);
        let attention = attention::Buffers::new(pool.n_threads());
        CpuOps {
            unpacked: (0..pool.n_threads()).map(|_| Mutex::default()).collect(),
            pool,
            level,
            step: step::StepState::default(),
            attention,
            fixed: Box::default(),
            fixed_rows: 0,
            fixed_words: 0,
            gathered: Box::default(),
            gathered_cols: 0,
        }
    }

    /// The instruction set in use, for logs.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Makes room for `rows` of `words` fixed-point words and of `gathered` inputs, beside what was asked for before.
    fn reserve_rows(&mut self, rows: usize, words: usize, gathered: usize) -> Result<(), LoadError> {
        let (rows, words) = (self.fixed_rows.max(rows), self.fixed_words.max(words));
        let len = product(&[rows, words]);
        if len > self.fixed.len() {
            self.fixed = zeroed("fixed-point activations", len)?;
        }
        (self.fixed_rows, self.fixed_words) = (rows, words);
        self.gathered_cols = self.gathered_cols.max(gathered);
        let len = product(&[rows, self.gathered_cols]);
        if len > self.gathered.len() {
            self.gathered = zeroed("reordered inputs", len)?;
        }
        Ok(())
    }
}

/// Makes room for `len` lines in each worker's buffer.
fn reserve_unpacked(buffers: &mut [Mutex<Box<[awq::Line]>>], len: usize) -> Result<(), LoadError> {
    for buffer in buffers {
        let buffer = buffer.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        if buffer.len() < len {
            *buffer = zeroed("unpacked weights", len)?;
        }
    }
    Ok(())
}

/// Calls `task(row index, row)` for every row of `act`, on several threads if there is enough to do.
fn each_row(pool: &mut Pool, act: &mut CpuAct, task: impl Fn(usize, &mut [f32]) + Sync) {
    let cols = act.cols();
    let step = (TASK_ELEMENTS / cols.max(1)).max(1);
    pool.grid(act.values_mut(), cols, (Cuts::Every(step), Cuts::Every(cols)), |_, mut rect| {
        for r in rect.rows() {
            task(r, rect.row(r));
        }
    });
}

impl Pack for CpuOps {
    type Linear = CpuLinear;
    type Norm = CpuNorm;
    type Embedding = CpuEmbedding;

    fn load_linear(&mut self, parts: &[LinearSource]) -> Result<CpuLinear, LoadError> {
        CpuLinear::load(self, parts)
    }

    fn load_norm(&mut self, weight: &Tensor) -> Result<CpuNorm, LoadError> {
        Ok(CpuNorm(weight.to_f32()))
    }

    fn load_embedding(&mut self, weight: &Tensor) -> Result<CpuEmbedding, LoadError> {
        match weight.shape[..] {
            [vocab, hidden] if weight.dtype.is_float() => {
                Ok(CpuEmbedding { weight: weight.clone(), vocab, hidden })
            }
            _ => {
                let detail =
                    format!("is {:?} {:?}; expected float [vocab, hidden]", weight.dtype, weight.shape);
                Err(LoadError::Tensor { name: weight.name.clone(), detail })
            }
        }
    }
}

impl Allocate for CpuOps {
    type Act = CpuAct;
    type Kv = CpuKv;

    fn new_act(&mut self, _: ActKind, max_rows: usize, cols: usize) -> Result<CpuAct, LoadError> {
        self.reserve_rows(max_rows, 0, 0)?;
        CpuAct::new(max_rows, cols)
    }

    fn new_kv(&mut self, shape: KvShape) -> Result<CpuKv, LoadError> {
        CpuKv::new(shape)
    }
}

impl Ops for CpuOps {
    fn set_rows(&self, act: &mut CpuAct, rows: usize) {
        act.set_rows(rows);
    }

    fn begin_step(
        &mut self,
        batch: &Batch,
        shape: &AttentionShape,
        scaling: &RopeScaling,
    ) -> Result<(), StepError> {
        self.step.begin(batch, shape, scaling);
        Ok(())
    }

    fn embed(&mut self, table: &CpuEmbedding, batch: &Batch, residual: &mut CpuAct) -> Result<(), StepError> {
        residual.expect("embed", batch.n_rows(), table.hidden)?;
        if let Some(token) = batch.tokens.iter().find(|&&t| t as usize >= table.vocab) {
            let detail = format!("token {token} of a vocabulary of {}", table.vocab);
            return Err(StepError::Device { op: "embed", detail });
        }
        let (level, dtype, bytes) = (self.level, table.weight.dtype, table.weight.bytes());
        let len = table.hidden * dtype.size();
        each_row(&mut self.pool, residual, |r, out| {
            let token = batch.tokens[r] as usize;
            level.run(Widen { row: &bytes[token * len..(token + 1) * len], dtype, out });
        });
        Ok(())
    }

    fn rms_norm(
        &mut self,
        x: &CpuAct,
        weight: &CpuNorm,
        eps: f32,
        out: &mut CpuAct,
    ) -> Result<(), StepError> {
        x.expect("rms_norm", x.rows(), weight.0.len())?;
        out.expect("rms_norm", x.rows(), x.cols())?;
        let level = self.level;
        each_row(&mut self.pool, out, |r, out| {
            level.run(RmsNorm { x: x.row(r), weight: &weight.0, eps, out });
        });
        Ok(())
    }

    fn linear_add(
        &mut self,
        (x, layer): (&CpuAct, &CpuLinear),
        delta: &mut CpuAct,
        residual: &mut CpuAct,
    ) -> Result<(), StepError> {
        self.linear(x, layer, delta)?;
        delta.expect("linear_add", residual.rows(), residual.cols())?;
        let level = self.level;
        each_row(&mut self.pool, residual, |r, residual| {
            level.run(Add { residual, delta: delta.row(r) });
        });
        Ok(())
    }

    fn linear(&mut self, x: &CpuAct, layer: &CpuLinear, out: &mut CpuAct) -> Result<(), StepError> {
        layer.forward(self, x, out)
    }

    fn rope_and_store(
        &mut self,
        qkv: &mut CpuAct,
        kv: &mut CpuKv,
        layer: usize,
        batch: &Batch,
        shape: &AttentionShape,
    ) -> Result<(), StepError> {
        rope::rope_and_store(self, qkv, (kv, layer), batch, shape)
    }

    fn attention(
        &mut self,
        qkv: &CpuAct,
        kv: &CpuKv,
        layer: usize,
        batch: &Batch,
        shape: &AttentionShape,
        out: &mut CpuAct,
    ) -> Result<(), StepError> {
        attention::attention(self, qkv, (kv, layer), batch, shape, out)
    }

    fn silu_mul(&mut self, gate_up: &CpuAct, out: &mut CpuAct) -> Result<(), StepError> {
        gate_up.expect("silu_mul", out.rows(), 2 * out.cols())?;
        let level = self.level;
        each_row(&mut self.pool, out, |r, out| {
            let (gate, up) = gate_up.row(r).split_at(out.len());
            level.run(SiluMul { gate, up, out });
        });
        Ok(())
    }

    fn gather_rows(&mut self, x: &CpuAct, rows: &[usize], out: &mut CpuAct) -> Result<(), StepError> {
        out.expect("gather_rows", rows.len(), x.cols())?;
        if let Some(row) = rows.iter().find(|&&r| r >= x.rows()) {
            let detail = format!("row {row} of {}", x.rows());
            return Err(StepError::Device { op: "gather_rows", detail });
        }
        each_row(&mut self.pool, out, |r, out| out.copy_from_slice(x.row(rows[r])));
        Ok(())
    }

    fn read_row<'a>(&self, logits: &'a CpuAct, row: usize) -> Result<Cow<'a, [f32]>, StepError> {
        if row >= logits.rows() {
            let detail = format!("row {row} of {}", logits.rows());
            return Err(StepError::Device { op: "read_row", detail });
        }
        Ok(Cow::Borrowed(logits.row(row)))
    }
}
