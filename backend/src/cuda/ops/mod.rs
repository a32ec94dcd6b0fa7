//! The operations on a GPU: each method of `Ops` is a kernel launch or two, on the one stream, without
//! waiting. What a step computes on is in device memory (`StepInputs`); of a `Batch` only the number of rows
//! is read, so the same calls serve a step and the capture of a graph.
//!
//! Activations are float16, sums and the residual float32. Equal steps give equal bits. A row's result does
//! not depend on its company while its kernels are the same; in the last bits it may differ where they change:
//! decode attention cuts few sequences finer than many (1-2, 3-8, 9-16), and from 17 rows on the int4 product cuts its
//! sums by their number.

mod attention;
mod carry;
mod linear;
mod load;
mod memory;
mod places;
mod sampling;
mod transfer;

use std::borrow::Cow;
use std::time::Duration;

use super::driver::{DeviceMemory, Gpu, check};
use super::step_inputs::Layout;
use super::sys;
use crate::batch::Batch;
use crate::config::{ModelConfig, RopeScaling};
use crate::error::{LoadError, StepError};
use crate::ops::{ActKind, Allocate, AttentionShape, KvShape, Ops, Pack};
use crate::weights::{LinearSource, Tensor};
use carry::{CARRY_ROWS, LastNorm};
pub use linear::CudaLinear;
use linear::Order;
use load::Loader;
pub use memory::{StepMemory, StepRoom};
pub use places::Places;

/// Bytes of a float16.
pub const F16: usize = 2;

/// What is in an activation's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    F16,
    F32,
    /// There is none: the operations around it are joined.
    Nothing,
}

/// A matrix `[rows, cols]` with room for more rows.
pub struct CudaAct {
    pub address: u64,
    pub element: Element,
    pub rows: usize,
    pub cols: usize,
    max_rows: usize,
}

/// float16 `[n]`.
pub struct CudaNorm(u64);

/// float16 `[vocab, hidden]`.
pub struct CudaEmbedding {
    address: u64,
    vocab: usize,
    hidden: usize,
}

/// The paged cache; its layout is the kernels' own.
pub struct CudaKv(sys::QuernKvCache);

/// The operations; see the module.
pub struct CudaOps {
    pub gpu: Gpu,
    pub places: Places,
    loader: Option<Loader>,
    order: Order,
    norm: LastNorm,
    memory: Option<StepMemory>,
    /// Of the step that is being launched.
    layout: Option<Layout>,
    /// Where the step's inputs say which rows' logits are wanted.
    logits_index: usize,
    max_prefill_rows: usize,
    pub vocab: usize,
}

impl CudaOps {
    /// Takes `weight_bytes` of the GPU's memory, as measured for the weights of a model of `config`.
    pub fn new(gpu: Gpu, config: &ModelConfig, weight_bytes: usize) -> Result<CudaOps, LoadError> {
        let places = Places::new(gpu.device, config, weight_bytes)?;
        let factors = bytemuck::cast_slice(&config.rope.scaling.factors);
        if !factors.is_empty() {
            // SAFETY: the place was taken for these numbers, and the copy is waited for.
            unsafe { gpu.upload(factors, places.rope_factors) }?;
            gpu.synchronize()?;
        }
        Ok(CudaOps {
            loader: Some(Loader::new()?),
            places,
            gpu,
            order: Order::default(),
            norm: LastNorm::default(),
            memory: None,
            layout: None,
            logits_index: 0,
            max_prefill_rows: 0,
            vocab: config.vocab,
        })
    }

    /// Waits until all weights are packed and gives the loader's memory back. Bytes of the weights, and the time that
    /// reading them took.
    pub fn finish_loading(&mut self) -> Result<(usize, Duration), LoadError> {
        self.gpu.synchronize()?;
        let reading = self.loader.take().map_or(Duration::ZERO, |loader| loader.transfer.reading);
        Ok((self.places.weight_bytes(), reading))
    }
}

/// A device address as the kernels' functions take it.
fn pointer(address: u64) -> *mut std::ffi::c_void {
    address as *mut std::ffi::c_void
}

impl Pack for CudaOps {
    type Linear = CudaLinear;
    type Norm = CudaNorm;
    type Embedding = CudaEmbedding;

    fn load_linear(&mut self, parts: &[LinearSource]) -> Result<CudaLinear, LoadError> {
        self.load_parts(parts, false)
    }

    fn load_gate_up(&mut self, parts: &[LinearSource]) -> Result<CudaLinear, LoadError> {
        self.load_parts(parts, true)
    }

    fn load_norm(&mut self, weight: &Tensor) -> Result<CudaNorm, LoadError> {
        self.load_half(weight).map(CudaNorm)
    }

    fn load_embedding(&mut self, weight: &Tensor) -> Result<CudaEmbedding, LoadError> {
        self.load_half(weight)?;
        self.places.load_embedding(weight)
    }
}

impl Allocate for CudaOps {
    const KV_ELEMENT_BYTES: usize = Places::KV_ELEMENT_BYTES;

    type Act = CudaAct;
    type Kv = CudaKv;

    fn new_act(&mut self, kind: ActKind, max_rows: usize, cols: usize) -> Result<CudaAct, LoadError> {
        self.places.new_act(kind, max_rows, cols)
    }

    fn new_kv(&mut self, shape: KvShape) -> Result<CudaKv, LoadError> {
        self.places.new_kv(shape)
    }
}

impl Ops for CudaOps {
    fn set_rows(&self, act: &mut CudaAct, rows: usize) {
        act.rows = rows.min(act.max_rows);
    }

    fn begin_step(
        &mut self,
        batch: &Batch,
        shape: &AttentionShape,
        scaling: &RopeScaling,
    ) -> Result<(), StepError> {
        let (memory, layout) = (self.memory()?, self.layout()?);
        let args = sys::QuernRopeAngles {
            spans: self.spans(0, layout.shape.spans)?,
            row_span: pointer(memory.inputs + layout.row_span as u64).cast(),
            theta: pointer(memory.inputs + layout.theta as u64).cast(),
            factors: pointer(self.places.rope_factors).cast(),
            scale: scaling.attention,
            angles: pointer(memory.angles).cast(),
            query_factors: pointer(memory.query_factors).cast(),
            rows: batch.n_rows() as i32,
            rope_dim: shape.rope_dim as i32,
            logn_seq_length: shape.logn_seq_length.unwrap_or(0) as i32,
        };
        // SAFETY: the arrays hold this step's rows and spans.
        let status = unsafe { sys::quern_rope_angles(&self.gpu.device, &args, self.gpu.stream_pointer()) };
        Ok(check("rope_angles", status)?)
    }

    fn embed(
        &mut self,
        table: &CudaEmbedding,
        batch: &Batch,
        residual: &mut CudaAct,
    ) -> Result<(), StepError> {
        let (memory, layout) = (self.memory()?, self.layout()?);
        let args = sys::QuernEmbed {
            table: pointer(table.address),
            tokens: pointer(memory.inputs + layout.tokens as u64).cast(),
            last_sampled: pointer(memory.last_sampled).cast(),
            residual: pointer(residual.address).cast(),
            counts: pointer(memory.counts).cast(),
            count_rows: pointer(memory.inputs + layout.count_rows as u64).cast(),
            rows: batch.n_rows() as i32,
            hidden: table.hidden as i32,
            vocab: table.vocab as i32,
        };
        // SAFETY: tokens were checked against the vocabulary, slots and count rows were given out by the executor.
        Ok(check("embed", unsafe { sys::quern_embed(&self.gpu.device, &args, self.gpu.stream_pointer()) })?)
    }

    fn rms_norm(
        &mut self,
        x: &CudaAct,
        weight: &CudaNorm,
        eps: f32,
        out: &mut CudaAct,
    ) -> Result<(), StepError> {
        let args = sys::QuernRmsNorm {
            residual: pointer(x.address).cast(),
            weight: pointer(weight.0),
            out: pointer(out.address),
            rows: x.rows as i32,
            hidden: x.cols as i32,
            eps,
            squares: self.norm.begin(&self.places.carry, out, eps),
        };
        // SAFETY: both matrices have these rows.
        let status = unsafe { sys::quern_rms_norm(&self.gpu.device, &args, self.gpu.stream_pointer()) };
        Ok(check("rms_norm", status)?)
    }

    fn linear(&mut self, x: &CudaAct, layer: &CudaLinear, out: &mut CudaAct) -> Result<(), StepError> {
        let epilogue = match out.element {
            Element::F32 => sys::QUERN_STORE_F32,
            _ => sys::QUERN_STORE_F16,
        };
        Ok(self.multiply(x, layer, out, epilogue)?)
    }

    fn linear_add(
        &mut self,
        (x, layer): (&CudaAct, &CudaLinear),
        _delta: &mut CudaAct,
        residual: &mut CudaAct,
    ) -> Result<(), StepError> {
        Ok(self.multiply(x, layer, residual, sys::QUERN_ADD_F32)?)
    }

    fn linear_add_rms_norm(
        &mut self,
        (x, layer): (&CudaAct, &CudaLinear),
        delta: &mut CudaAct,
        residual: &mut CudaAct,
        (weight, eps): (&CudaNorm, f32),
        out: &mut CudaAct,
    ) -> Result<(), StepError> {
        if out.rows > CARRY_ROWS || self.places.workspaces.has_dense() {
            self.linear_add((x, layer), delta, residual)?;
            return self.rms_norm(residual, weight, eps, out);
        }
        let carry = self.norm.write(&self.places.carry, (weight, eps), out);
        Ok(self.multiply_carrying(x, layer, residual, (sys::QUERN_ADD_F32, carry))?)
    }

    fn linear_silu_mul(
        &mut self,
        x: &CudaAct,
        layer: &CudaLinear,
        _gate_up: &mut CudaAct,
        out: &mut CudaAct,
    ) -> Result<(), StepError> {
        Ok(self.multiply(x, layer, out, sys::QUERN_SILU_MUL_F16)?)
    }

    fn rope_and_store(
        &mut self,
        qkv: &mut CudaAct,
        kv: &mut CudaKv,
        layer: usize,
        batch: &Batch,
        shape: &AttentionShape,
    ) -> Result<(), StepError> {
        let step = self.shape()?;
        let rows = batch.n_rows() - step.decode_spans;
        if rows == 0 {
            return Ok(()); // decode attention does it
        }
        let args = self.attention_args((qkv, qkv.address), (kv, layer), self.spans(0, step.spans)?, shape)?;
        let row_span = self.memory()?.inputs + self.layout()?.row_span as u64;
        // SAFETY: the arrays hold this step's rows and spans; every block id was checked against the cache.
        Ok(check("rope_store", unsafe {
            sys::quern_rope_store(
                &self.gpu.device,
                &args,
                pointer(row_span).cast(),
                step.decode_spans as i32,
                rows as i32,
                self.gpu.stream_pointer(),
            )
        })?)
    }

    fn attention(
        &mut self,
        qkv: &CudaAct,
        kv: &CudaKv,
        layer: usize,
        _batch: &Batch,
        shape: &AttentionShape,
        out: &mut CudaAct,
    ) -> Result<(), StepError> {
        let step = self.shape()?;
        let (n_decode, n_prefill) = (step.decode_spans, step.spans - step.decode_spans);
        let args = |spans| self.attention_args((qkv, out.address), (kv, layer), spans, shape);
        if n_decode > 0 {
            self.decode_attention(&args(self.spans(0, n_decode)?)?)?;
        }
        if n_prefill > 0 {
            self.prefill_attention(&args(self.spans(n_decode, n_prefill)?)?)?;
        }
        Ok(())
    }

    fn silu_mul(&mut self, gate_up: &CudaAct, out: &mut CudaAct) -> Result<(), StepError> {
        let args = sys::QuernSiluMul {
            gate_up: pointer(gate_up.address),
            out: pointer(out.address),
            rows: out.rows as i32,
            width: out.cols as i32,
        };
        // SAFETY: both matrices have their rows.
        Ok(check("silu_mul", unsafe {
            sys::quern_silu_mul(&self.gpu.device, &args, self.gpu.stream_pointer())
        })?)
    }

    fn gather_rows(&mut self, x: &CudaAct, rows: &[usize], out: &mut CudaAct) -> Result<(), StepError> {
        let index = self.memory()?.inputs + self.logits_index as u64;
        let args = sys::QuernGather {
            x: pointer(x.address),
            index: pointer(index).cast(),
            out: pointer(out.address),
            rows: rows.len() as i32,
            cols: x.cols as i32,
        };
        // SAFETY: the executor wrote as many indices of the step's rows.
        Ok(check("gather_rows", unsafe {
            sys::quern_gather_rows(&self.gpu.device, &args, self.gpu.stream_pointer())
        })?)
    }

    fn read_row<'a>(&self, logits: &'a CudaAct, row: usize) -> Result<Cow<'a, [f32]>, StepError> {
        if row >= logits.rows || logits.element != Element::F32 {
            let detail = format!("row {row} of {}", logits.rows);
            return Err(StepError::Device { op: "read_row", detail });
        }
        let mut values = vec![0f32; logits.cols];
        let from = logits.address + (row * logits.cols * 4) as u64;
        // SAFETY: the row lies in the matrix, and the copy is waited for.
        unsafe { self.gpu.download(from, bytemuck::cast_slice_mut(&mut values)) }?;
        self.gpu.synchronize()?;
        Ok(Cow::Owned(values))
    }
}

/// Raw tensors on their way into the packed layout.
pub(super) type Raw = DeviceMemory;
