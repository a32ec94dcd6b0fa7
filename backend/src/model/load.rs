//! From named tensors (a checkpoint's, or made up) to the decoder's packed layers. Called once, by
//! the device thread. After each layer is packed, its pages of the mapped file are let go, so that
//! the peak memory is one copy of the weights and one layer.

use super::names::{Names, Qkv, names};
use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::ops::{Footprint, Pack};
use crate::weights::{LinearSource, LinearWeight, WeightSource};

/// Everything the forward pass multiplies with.
pub struct Weights<O: Pack> {
    pub embedding: O::Embedding,
    pub layers: Vec<Layer<O>>,
    pub final_norm: O::Norm,
    pub lm_head: O::Linear,
}

/// One block of the decoder.
pub struct Layer<O: Pack> {
    pub input_norm: O::Norm,
    /// `[hidden, (n_heads + 2 n_kv_heads) * head_dim]`
    pub qkv: O::Linear,
    pub attention_out: O::Linear,
    pub mlp_norm: O::Norm,
    /// `[hidden, 2 intermediate]`, gate first.
    pub gate_up: O::Linear,
    pub down: O::Linear,
}

/// Packs all layers of `source`. `progress` hears (layers done, layers in all).
pub fn load<O: Pack>(
    ops: &mut O,
    config: &ModelConfig,
    source: &dyn WeightSource,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Weights<O>, LoadError> {
    let mut loader = Loader { ops, config, source, names: names(config.family) };
    let mut layers = Vec::with_capacity(config.n_layers);
    for index in 0..config.n_layers {
        progress(index, config.n_layers);
        layers.push(loader.layer(index)?);
    }
    let final_norm = loader.norm(loader.names.final_norm)?;
    let (embedding, lm_head) = loader.embedding_and_head()?;
    progress(config.n_layers, config.n_layers);
    Ok(Weights { embedding, layers, final_norm, lm_head })
}

/// Bytes that the weights of `source` will take where `sizes` counts for; reads no weight. Fails as loading would for
/// tensors that are missing or of another shape or type.
pub fn weight_bytes<S: Footprint>(
    sizes: &mut S,
    config: &ModelConfig,
    source: &dyn WeightSource,
) -> Result<usize, LoadError> {
    load(sizes, config, source, &mut |_, _| ())?;
    Ok(sizes.bytes())
}

struct Loader<'a, O: Pack> {
    ops: &'a mut O,
    config: &'a ModelConfig,
    source: &'a dyn WeightSource,
    names: &'static Names,
}

impl<O: Pack> Loader<'_, O> {
    fn layer(&mut self, index: usize) -> Result<Layer<O>, LoadError> {
        let names = self.names;
        let ModelConfig { hidden, intermediate, n_heads, n_kv_heads, head_dim, .. } = *self.config;
        let full = |name: &str| format!("{}.{index}.{name}", names.layers);
        let (q, kv) = (n_heads * head_dim, n_kv_heads * head_dim);
        let qkv = match names.qkv {
            Qkv::Fused(name) => vec![(full(name), q + 2 * kv)],
            Qkv::Split(parts) => parts.map(full).into_iter().zip([q, kv, kv]).collect(),
        };
        let gate_up = [(full(names.gate), intermediate), (full(names.up), intermediate)];
        Ok(Layer {
            input_norm: self.norm(&full(names.input_norm))?,
            qkv: self.linear(&qkv, hidden)?,
            attention_out: self.linear(&[(full(names.attention_out), hidden)], q)?,
            mlp_norm: self.norm(&full(names.mlp_norm))?,
            gate_up: self.gate_up(&gate_up, hidden)?,
            down: self.linear(&[(full(names.down), hidden)], intermediate)?,
        })
    }

    fn norm(&mut self, name: &str) -> Result<O::Norm, LoadError> {
        let weight = self.source.tensor(name, &[self.config.hidden])?;
        self.ops.load_norm(&weight)
    }

    /// Packs layers that share their input side by side; `parts` are (prefix, output features).
    fn linear(&mut self, parts: &[(String, usize)], in_features: usize) -> Result<O::Linear, LoadError> {
        let sources = self.sources(parts, in_features)?;
        let packed = self.ops.load_linear(&sources)?;
        sources.iter().for_each(LinearSource::release);
        Ok(packed)
    }

    fn gate_up(&mut self, parts: &[(String, usize)], in_features: usize) -> Result<O::Linear, LoadError> {
        let sources = self.sources(parts, in_features)?;
        let packed = self.ops.load_gate_up(&sources)?;
        sources.iter().for_each(LinearSource::release);
        Ok(packed)
    }

    fn sources(&self, parts: &[(String, usize)], in_features: usize) -> Result<Vec<LinearSource>, LoadError> {
        let quantization = &self.config.quantization;
        let source = |(prefix, out_features): &(String, usize)| {
            self.source.linear(prefix, in_features, *out_features, quantization)
        };
        parts.iter().map(source).collect()
    }

    /// The embedding, and the head, which a tied model shares with it.
    fn embedding_and_head(&mut self) -> Result<(O::Embedding, O::Linear), LoadError> {
        let ModelConfig { vocab, hidden, tied, .. } = *self.config;
        let table = self.source.tensor(self.names.embedding, &[vocab, hidden])?;
        let lm_head = match tied {
            false => self.linear(&[(self.names.lm_head.to_owned(), vocab)], hidden)?,
            true => self.ops.load_linear(&[LinearSource {
                name: self.names.embedding.to_owned(),
                in_features: hidden,
                out_features: vocab,
                weight: LinearWeight::Plain(table.clone()),
                bias: None,
            }])?,
        };
        let embedding = self.ops.load_embedding(&table)?;
        table.release();
        Ok((embedding, lm_head))
    }
}
