//! The one decoder-only forward pass: embed, layers, norm, head. Every family and every device runs
//! this code; what differs is data (`names`, `ModelConfig`) and the `Ops` below. Called by the
//! executor with micro-batches that fit the memory it allocated. Knows nothing of sampling.

use std::borrow::Cow;

use super::load::{Layer, Weights};
use crate::batch::Batch;
use crate::config::ModelConfig;
use crate::error::{LoadError, StepError};
use crate::ops::{ActKind, Allocate, AttentionShape, KvShape, Ops};

/// A loaded model on its device.
pub struct Decoder<O: Ops> {
    ops: O,
    config: ModelConfig,
    weights: Weights<O>,
    shape: AttentionShape,
}

/// What `Decoder::allocate` makes room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub n_blocks: usize,
    /// Tokens a KV block.
    pub block_size: usize,
    /// Rows of one forward pass.
    pub max_rows: usize,
    /// Rows whose logits are computed at once.
    pub max_logits_rows: usize,
}

/// The KV cache and the activations: everything that steps write to.
pub struct Memory<O: Allocate> {
    kv: O::Kv,
    /// `[rows, hidden]`: the residual stream.
    residual: O::Act,
    /// `[rows, hidden]`: its norm, the input of the next linear layer; at the end, of the head.
    normed: O::Act,
    /// `[rows, (n_heads + 2 n_kv_heads) * head_dim]`
    qkv: O::Act,
    /// `[rows, n_heads * head_dim]`
    attention: O::Act,
    /// `[rows, hidden]`: what attention or the MLP adds to the residual.
    delta: O::Act,
    /// `[rows, 2 intermediate]`
    gate_up: O::Act,
    /// `[rows, intermediate]`
    activated: O::Act,
    /// `[logits rows, hidden]`
    last: O::Act,
    /// `[logits rows, vocab]`
    logits: O::Act,
}

impl<O: Ops> Decoder<O> {
    pub fn new(ops: O, config: ModelConfig, weights: Weights<O>) -> Decoder<O> {
        let shape = AttentionShape {
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            rope_dim: config.rope.dim,
            logn_seq_length: config.rope.logn_seq_length,
            window: None,
        };
        Decoder { ops, config, weights, shape }
    }

    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    pub fn ops(&self) -> &O {
        &self.ops
    }

    /// The device, for what only its own executor knows of it.
    pub fn ops_mut(&mut self) -> &mut O {
        &mut self.ops
    }

    /// Allocates all that steps will use.
    pub fn allocate(&mut self, room: &Room) -> Result<Memory<O>, LoadError> {
        Memory::allocate(&mut self.ops, &self.config, room)
    }

    /// Runs all layers over `batch` (at most `max_rows` rows): K and V of its rows are then in the
    /// cache and their final hidden states ready for `logits`.
    pub fn forward(&mut self, memory: &mut Memory<O>, batch: &Batch) -> Result<(), StepError> {
        let (ops, eps) = (&mut self.ops, self.config.norm_eps);
        memory.set_rows(ops, batch.n_rows());
        ops.begin_step(batch, &self.shape, &self.config.rope.scaling)?;
        ops.embed(&self.weights.embedding, batch, &mut memory.residual)?;
        let layers = &self.weights.layers;
        if let Some(first) = layers.first() {
            ops.rms_norm(&memory.residual, &first.input_norm, eps, &mut memory.normed)?;
        }
        for (index, layer) in layers.iter().enumerate() {
            let next_norm = layers.get(index + 1).map(|next| &next.input_norm);
            let shape = AttentionShape { window: self.config.window(index), ..self.shape };
            memory.attention(ops, layer, index, (batch, &shape))?;
            memory.add(ops, &layer.attention_out, (&layer.mlp_norm, eps))?;
            memory.mlp(ops, layer, (next_norm, eps))?;
        }
        ops.rms_norm(&memory.residual, &self.weights.final_norm, eps, &mut memory.normed)
    }

    /// Computes the logits of some `rows` (at most `max_logits_rows`) of the batch that went
    /// through `forward` last; `read_logits` then gives them.
    pub fn logits(&mut self, memory: &mut Memory<O>, rows: &[usize]) -> Result<(), StepError> {
        self.ops.set_rows(&mut memory.last, rows.len());
        self.ops.set_rows(&mut memory.logits, rows.len());
        self.ops.gather_rows(&memory.normed, rows, &mut memory.last)?;
        self.ops.linear(&memory.last, &self.weights.lm_head, &mut memory.logits)
    }

    /// The device and the logits of the last `logits` call, for sampling where they are.
    pub fn ops_and_logits<'a>(&'a mut self, memory: &'a Memory<O>) -> (&'a mut O, &'a O::Act) {
        (&mut self.ops, &memory.logits)
    }

    /// Logits `[vocab]` of the `index`-th row of the last `logits` call.
    pub fn read_logits<'a>(&self, memory: &'a Memory<O>, index: usize) -> Result<Cow<'a, [f32]>, StepError> {
        self.ops.read_row(&memory.logits, index)
    }
}

impl<A: Allocate> Memory<A> {
    /// Takes all that steps of a model of `config` will use from `device`.
    pub fn allocate(device: &mut A, config: &ModelConfig, room: &Room) -> Result<Memory<A>, LoadError> {
        let ModelConfig { hidden, intermediate, vocab, n_layers, n_kv_heads, head_dim, .. } = *config;
        let (n_blocks, block_size) = (room.n_blocks, room.block_size);
        let kv = device.new_kv(KvShape { n_layers, n_blocks, block_size, n_kv_heads, head_dim })?;
        let (rows, wanted) = (room.max_rows, room.max_logits_rows);
        let mut act = |kind, rows, cols| device.new_act(kind, rows, cols);
        Ok(Memory {
            kv,
            residual: act(ActKind::Residual, rows, hidden)?,
            normed: act(ActKind::Hidden, rows, hidden)?,
            qkv: act(ActKind::Hidden, rows, config.qkv_width())?,
            attention: act(ActKind::Hidden, rows, config.n_heads * head_dim)?,
            delta: act(ActKind::Between, rows, hidden)?,
            gate_up: act(ActKind::Between, rows, 2 * intermediate)?,
            activated: act(ActKind::Hidden, rows, intermediate)?,
            last: act(ActKind::Hidden, wanted, hidden)?,
            logits: act(ActKind::Logits, wanted, vocab)?,
        })
    }
}

impl<O: Ops> Memory<O> {
    fn set_rows(&mut self, ops: &O, rows: usize) {
        let all = [
            &mut self.residual,
            &mut self.normed,
            &mut self.qkv,
            &mut self.attention,
            &mut self.delta,
            &mut self.gate_up,
            &mut self.activated,
        ];
        for act in all {
            ops.set_rows(act, rows);
        }
    }

    /// normed -> attention
    fn attention(
        &mut self,
        ops: &mut O,
        layer: &Layer<O>,
        index: usize,
        (batch, shape): (&Batch, &AttentionShape),
    ) -> Result<(), StepError> {
        ops.linear(&self.normed, &layer.qkv, &mut self.qkv)?;
        ops.rope_and_store(&mut self.qkv, &mut self.kv, index, batch, shape)?;
        ops.attention(&self.qkv, &self.kv, index, batch, shape, &mut self.attention)
    }

    /// attention -> residual, and its norm for what comes next.
    fn add(&mut self, ops: &mut O, layer: &O::Linear, norm: (&O::Norm, f32)) -> Result<(), StepError> {
        let Memory { attention, delta, residual, normed, .. } = self;
        ops.linear_add_rms_norm((attention, layer), delta, residual, norm, normed)
    }

    /// normed -> residual, and its norm for the next layer, if there is one.
    fn mlp(
        &mut self,
        ops: &mut O,
        layer: &Layer<O>,
        (next, eps): (Option<&O::Norm>, f32),
    ) -> Result<(), StepError> {
        let Memory { gate_up, activated, delta, residual, normed, .. } = self;
        ops.linear_silu_mul(normed, &layer.gate_up, gate_up, activated)?;
        match next {
            Some(norm) => {
                ops.linear_add_rms_norm((activated, &layer.down), delta, residual, (norm, eps), normed)
            }
            None => ops.linear_add((activated, &layer.down), delta, residual),
        }
    }
}
