//! The arithmetic that the decoder is written against. One implementation a device: `reference`
//! (scalar, readable, the oracle of the tests), `cpu` (fast); CUDA joins them behind a feature.
//!
//! Rules for every implementation: a row's result depends on that row's inputs only, never on the
//! number of rows, their order, the number of threads or how a prompt was cut into chunks; reduction
//! order is fixed; nothing is allocated after `new_act` / `new_kv`. Activations are float32.

pub mod cpu;
pub mod reference;

use crate::batch::Batch;
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
}

/// What a device must be able to do for the decoder. Matrices are row-major `[rows, cols]`.
pub trait Ops {
    /// Bytes of one stored K or V element.
    const KV_ELEMENT_BYTES: usize = size_of::<f32>();

    /// Activations, float32, with room for a fixed number of rows; `set_rows` picks how many count.
    type Act;
    /// A packed linear layer `[K, N]` with optional bias.
    type Linear;
    /// A norm weight `[hidden]`.
    type Norm;
    /// The embedding matrix `[vocab, hidden]`.
    type Embedding;
    type Kv;

    /// Packs layers that share their input, joined along N in the order given (q, k, v; gate, up).
    fn load_linear(&mut self, parts: &[LinearSource]) -> Result<Self::Linear, LoadError>;
    fn load_norm(&mut self, weight: &Tensor) -> Result<Self::Norm, LoadError>;
    fn load_embedding(&mut self, weight: &Tensor) -> Result<Self::Embedding, LoadError>;
    fn new_act(&mut self, max_rows: usize, cols: usize) -> Result<Self::Act, LoadError>;
    fn new_kv(&mut self, shape: KvShape) -> Result<Self::Kv, LoadError>;

    /// Makes `act` a `[rows, cols]` matrix; contents are then unspecified.
    fn set_rows(&self, act: &mut Self::Act, rows: usize);
    /// Prepares what all layers of a step share: angles of the rotary embedding, block tables.
    fn begin_step(&mut self, batch: &Batch, shape: &AttentionShape) -> Result<(), StepError>;
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
    /// `residual += delta`, then `out = rms_norm(residual)`.
    fn add_rms_norm(
        &mut self,
        residual: &mut Self::Act,
        delta: &Self::Act,
        weight: &Self::Norm,
        eps: f32,
        out: &mut Self::Act,
    ) -> Result<(), StepError>;
    /// `out = x W + b`.
    fn linear(&mut self, x: &Self::Act, layer: &Self::Linear, out: &mut Self::Act) -> Result<(), StepError>;
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
    /// Causal softmax(q k^T / sqrt(head_dim)) v over each span's whole sequence, K and V from the
    /// cache; `out` is `[rows, n_heads * head_dim]`.
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
