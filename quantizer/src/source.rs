//! The float model, read block by block as float32. Called by `run` and `assemble`.
//!
//! Refuses what is quantised already. Only one block's weights are in memory at a time.

use std::path::Path;

use ndarray::{Array1, Array2};
use text_generation_backend::config::{ModelConfig, Quantization};
use text_generation_backend::model::names::{Names, Qkv, names};
use text_generation_backend::weights::{Checkpoint, LinearWeight, Tensor};

use crate::block::{Block, Linear, Norm};
use crate::error::QuantizeError;

/// An unquantised checkpoint folder.
pub(crate) struct Source {
    pub config: ModelConfig,
    checkpoint: Checkpoint,
    names: &'static Names,
}

impl Source {
    /// Opens the folder and checks that its layers can be quantised in groups of `group_size`.
    pub(crate) fn open(dir: &Path, group_size: usize) -> Result<Self, QuantizeError> {
        let config = ModelConfig::from_dir(dir, None)?;
        if config.quantization != Quantization::None {
            return Err(QuantizeError::Argument(format!(
                "{} is quantised already; give the float16, bfloat16 or float32 model that it was made from",
                dir.display()
            )));
        }
        check_sizes(&config, group_size)?;
        Ok(Self { names: names(config.family), checkpoint: Checkpoint::open(dir)?, config })
    }

    /// The weights of block `index`.
    pub(crate) fn block(&self, index: usize) -> Result<Block, QuantizeError> {
        let names = self.names;
        let ModelConfig { hidden, intermediate, n_heads, n_kv_heads, head_dim, .. } = self.config;
        let full = |name: &str| format!("{}.{index}.{name}", names.layers);
        let linear = |name: &str, k, n| self.linear(full(name), k, n);
        let (q, kv) = (n_heads * head_dim, n_kv_heads * head_dim);
        let qkv = match names.qkv {
            Qkv::Fused(name) => vec![linear(name, hidden, q + 2 * kv)?],
            Qkv::Split([a, b, c]) => {
                vec![linear(a, hidden, q)?, linear(b, hidden, kv)?, linear(c, hidden, kv)?]
            }
        };
        Ok(Block {
            input_norm: self.norm(full(names.input_norm))?,
            mlp_norm: self.norm(full(names.mlp_norm))?,
            qkv,
            out: linear(names.attention_out, q, hidden)?,
            gate: linear(names.gate, hidden, intermediate)?,
            up: linear(names.up, hidden, intermediate)?,
            down: linear(names.down, intermediate, hidden)?,
        })
    }

    /// The embeddings of `ids`, `[ids, hidden]`.
    pub(crate) fn embed(&self, ids: &[u32]) -> Result<Array2<f32>, QuantizeError> {
        let ModelConfig { vocab, hidden, .. } = self.config;
        let table = self.checkpoint.tensor(self.names.embedding, &[vocab, hidden])?;
        let mut rows = Array2::zeros((ids.len(), hidden));
        for (mut row, &id) in rows.outer_iter_mut().zip(ids) {
            let at = id as usize;
            if at >= vocab {
                return Err(QuantizeError::Numbers(format!(
                    "the tokenizer gives token {id}, but the model has {vocab} embeddings"
                )));
            }
            let of_row = row_of(&table, at, hidden);
            row.assign(&Array1::from_vec(of_row.to_f32()));
        }
        Ok(rows)
    }

    /// The tensors outside of the blocks, which stay float: embedding, final norm, head.
    pub(crate) fn outside(&self) -> Result<Vec<Tensor>, QuantizeError> {
        let ModelConfig { vocab, hidden, tied, .. } = self.config;
        let mut tensors = vec![
            self.checkpoint.tensor(self.names.embedding, &[vocab, hidden])?,
            self.checkpoint.tensor(self.names.final_norm, &[hidden])?,
        ];
        if !tied {
            tensors
                .push(self.checkpoint.tensor(&format!("{}.weight", self.names.lm_head), &[vocab, hidden])?);
        }
        Ok(tensors)
    }

    fn linear(&self, prefix: String, k: usize, n: usize) -> Result<Linear, QuantizeError> {
        let source = self.checkpoint.linear(&prefix, k, n, &Quantization::None)?;
        let values = match &source.weight {
            LinearWeight::Plain(tensor) => finite(tensor)?,
            _ => source.weight_to_f32()?,
        };
        let bias = source.bias.as_ref().map(finite).transpose()?.map(Array1::from_vec);
        source.release();
        Ok(Linear { prefix, weight: matrix(n, k, values)?, bias })
    }

    fn norm(&self, name: String) -> Result<Norm, QuantizeError> {
        let weight = Array1::from_vec(finite(&self.checkpoint.tensor(&name, &[self.config.hidden])?)?);
        Ok(Norm { name, weight })
    }
}

fn row_of(table: &Tensor, row: usize, cols: usize) -> Tensor {
    let bytes = cols * table.dtype.size();
    let start = table.range.start + row * bytes;
    Tensor { shape: vec![cols], range: start..start + bytes, ..table.clone() }
}

fn matrix(rows: usize, cols: usize, values: Vec<f32>) -> Result<Array2<f32>, QuantizeError> {
    Array2::from_shape_vec((rows, cols), values).map_err(|error| QuantizeError::Numbers(error.to_string()))
}

fn finite(tensor: &Tensor) -> Result<Vec<f32>, QuantizeError> {
    let values = tensor.to_f32();
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(i) => Err(QuantizeError::Numbers(format!(
            "{}: expected finite weights, got {} at element {i}; the checkpoint is damaged",
            tensor.name, values[i]
        ))),
    }
}

fn check_sizes(config: &ModelConfig, group_size: usize) -> Result<(), QuantizeError> {
    let ModelConfig { hidden, intermediate, n_heads, n_kv_heads, head_dim, .. } = *config;
    let attention = n_heads * head_dim;
    for (name, k) in
        [("hidden_size", hidden), ("attention width", attention), ("intermediate_size", intermediate)]
    {
        if !k.is_multiple_of(group_size) {
            return Err(QuantizeError::Argument(format!(
                "--group-size {group_size} does not divide the model's {name} of {k}"
            )));
        }
    }
    for (name, n) in [
        ("key and value width", n_kv_heads * head_dim),
        ("hidden_size", hidden),
        ("intermediate_size", intermediate),
    ] {
        if !n.is_multiple_of(8) {
            return Err(QuantizeError::Argument(format!(
                "the model's {name} of {n} is no multiple of 8, which AWQ's packing needs"
            )));
        }
    }
    Ok(())
}
