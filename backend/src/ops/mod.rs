//! The arithmetic that the decoder is written against. One implementation a device: `reference`
//! (scalar, readable, the oracle of the tests), `cpu` (fast), and under the feature `cuda` that of
//! `crate::cuda`.
//!
//! Rules for every implementation: reduction order is fixed, and nothing is allocated after `new_act`
//! and `new_kv`. On the CPU activations are float32 and a row's result depends on that row's inputs
//! only, never on the number of rows, their order, the number of threads or how a prompt was cut into
//! chunks; `crate::cuda` says how far it keeps to that.

pub mod cpu;
pub mod reference;

use crate::batch::Batch;
use crate::config::RopeScaling;
use crate::error::{LoadError, StepError};
use crate::weights::{LinearSource, Tensor};

/// Sizes of the paged KV cache: K and V of every layer, `[n_layers, n_blocks, ...]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    pub n_layers: usize,
    pub n_blocks: usize,
    /// Tokens a block.
    pub block_size: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
}

/// Attention's fixed sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    /// Rotated dimensions of a head.
    pub rope_dim: usize,
    /// Qwen v1's log-n attention: q at 0-based position p, after the rotation, is multiplied by
    /// `max(1, ln(p + 1) / ln(seq_length))`.
    pub logn_seq_length: Option<usize>,
    /// Tokens that a query looks back on, its own included; `None`: all.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// The first key that the query at `position` sees.
    pub fn first_key(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// What an activation holds: a device may store each kind as suits it, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActKind {
    /// The residual stream.
    Residual,
    /// Input or output of a linear layer.
    Hidden,
    /// Lives between two operations that a device may join into one.
    Between,
    Logits,
}

/// How a device keeps weights. Whoever only counts their bytes implements this alone (`CpuSizes`), and sees what
/// a device would see.
pub trait Pack {
    /// A packed linear layer `[K, N]` with optional bias.
    type Linear;
    /// A norm weight `[hidden]`.
    type Norm;
    /// The embedding matrix `[vocab, hidden]`.
    type Embedding;

    /// Packs layers that share their input, joined along N in the order given (q, k, v; gate, up).
    fn load_linear(&mut self, parts: &[LinearSource]) -> Result<Self::Linear, LoadError>;
    /// The same for the gate and up projections of an MLP, whose outputs only `linear_silu_mul` asks for.
    fn load_gate_up(&mut self, parts: &[LinearSource]) -> Result<Self::Linear, LoadError> {
        self.load_linear(parts)
    }
    fn load_norm(&mut self, weight: &Tensor) -> Result<Self::Norm, LoadError>;
    fn load_embedding(&mut self, weight: &Tensor) -> Result<Self::Embedding, LoadError>;
}

/// Counts what a device's weights take in memory, from names and shapes alone.
pub trait Footprint: Pack {
    /// Of all that was loaded into it.
    fn bytes(&self) -> usize;
}

/// Where a device keeps what steps write to.
pub trait Allocate {
    /// Bytes of one stored K or V element.
    const KV_ELEMENT_BYTES: usize = size_of::<f32>();

    /// Activations with room for a fixed number of rows; `set_rows` picks how many count.
    type Act;
    type Kv;

    fn new_act(&mut self, kind: ActKind, max_rows: usize, cols: usize) -> Result<Self::Act, LoadError>;
    fn new_kv(&mut self, shape: KvShape) -> Result<Self::Kv, LoadError>;
}

/// What a device must be able to do for the decoder. Matrices are row-major `[rows, cols]`.
pub trait Ops: Pack + Allocate {
    /// Makes `act` a `[rows, cols]` matrix; contents are then unspecified.
    fn set_rows(&self, act: &mut Self::Act, rows: usize);
    /// Prepares what all layers of a step share: angles of the rotary embedding, block tables.
    fn begin_step(
        &mut self,
        batch: &Batch,
        shape: &AttentionShape,
        scaling: &RopeScaling,
    ) -> Result<(), StepError>;
    /// `residual[r] = table[batch.tokens[r]]`.
    fn embed(
        &mut self,
        table: &Self::Embedding,
        batch: &Batch,
        residual: &mut Self::Act,
    ) -> Result<(), StepError>;
    /// RMSNorm (sum in float32): `out = x / sqrt(mean(x^2) + eps) * weight`.
    fn rms_norm(
        &mut self,
        x: &Self::Act,
        weight: &Self::Norm,
        eps: f32,
        out: &mut Self::Act,
    ) -> Result<(), StepError>;
    /// `out = x W + b`.
    fn linear(&mut self, x: &Self::Act, layer: &Self::Linear, out: &mut Self::Act) -> Result<(), StepError>;
    /// `residual += x W + b`; `delta` is `[rows, hidden]` of scratch.
    fn linear_add(
        &mut self,
        x_and_layer: (&Self::Act, &Self::Linear),
        delta: &mut Self::Act,
        residual: &mut Self::Act,
    ) -> Result<(), StepError>;
    /// The same, then `out = rms_norm(residual)`, perhaps in a form that only `linear` and `linear_silu_mul` read.
    fn linear_add_rms_norm(
        &mut self,
        x_and_layer: (&Self::Act, &Self::Linear),
        delta: &mut Self::Act,
        residual: &mut Self::Act,
        (weight, eps): (&Self::Norm, f32),
        out: &mut Self::Act,
    ) -> Result<(), StepError> {
        self.linear_add(x_and_layer, delta, residual)?;
        self.rms_norm(residual, weight, eps, out)
    }
    /// `out = silu(gate) * up` of `x W + b = (gate, up)`; `gate_up` is `[rows, 2 F]` of scratch.
    fn linear_silu_mul(
        &mut self,
        x: &Self::Act,
        layer: &Self::Linear,
        gate_up: &mut Self::Act,
        out: &mut Self::Act,
    ) -> Result<(), StepError> {
        self.linear(x, layer, gate_up)?;
        self.silu_mul(gate_up, out)
    }
    /// Rotates q and k of `qkv` (`[rows, (n_heads + 2 n_kv_heads) * head_dim]`), applies log-n to q,
    /// and writes k and v of every row into the cache of `layer`.
    fn rope_and_store(
        &mut self,
        qkv: &mut Self::Act,
        kv: &mut Self::Kv,
        layer: usize,
        batch: &Batch,
        shape: &AttentionShape,
    ) -> Result<(), StepError>;
    /// Causal softmax(q k^T / sqrt(head_dim)) v over each span's whole sequence, or the shape's window of it, K and V from
    /// the cache; `out` is `[rows, n_heads * head_dim]`.
    fn attention(
        &mut self,
        qkv: &Self::Act,
        kv: &Self::Kv,
        layer: usize,
        batch: &Batch,
        shape: &AttentionShape,
        out: &mut Self::Act,
    ) -> Result<(), StepError>;
    /// `gate_up` is `[rows, 2 F]` (gate first): `out = silu(gate) * up`.
    fn silu_mul(&mut self, gate_up: &Self::Act, out: &mut Self::Act) -> Result<(), StepError>;
    /// `out[i] = x[rows[i]]`.
    fn gather_rows(&mut self, x: &Self::Act, rows: &[usize], out: &mut Self::Act) -> Result<(), StepError>;
    /// Row `row` of `logits` on the host, `[cols]`.
    fn read_row<'a>(
        &self,
        logits: &'a Self::Act,
        row: usize,
    ) -> Result<std::borrow::Cow<'a, [f32]>, StepError>;
}
