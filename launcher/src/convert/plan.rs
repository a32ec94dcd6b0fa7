//! Which tensor of the GGUF becomes which tensor of the checkpoint, with shapes checked.
//! Called by `run`. Must never drop a weight: a tensor that no rule names is an error.

use super::ConvertError;
use super::config::{Arch, Dims};
use super::gguf::{Header, TensorInfo};

/// One tensor to convert.
#[derive(Clone, Debug)]
pub(super) struct Planned<'a> {
    /// Hugging Face name.
    pub name: String,
    pub source: &'a TensorInfo,
    /// Rows of the stored matrix that are reordered together: see [`unpaired_row`]. None keeps the order.
    pub rope_head_dim: Option<usize>,
    /// Whether it is a weight that AWQ quantises.
    pub is_linear: bool,
}

impl Planned<'_> {
    /// Rows that must be read together.
    pub(super) fn row_unit(&self) -> usize {
        self.rope_head_dim.unwrap_or(1)
    }
}

/// Where row `row` of a GGUF's llama q/k projection goes. The GGUF keeps rotary pairs adjacent (2i, 2i+1), Hugging
/// Face keeps the two halves of a head apart (i, i + head_dim/2).
pub(super) fn unpaired_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    head * head_dim + (within % 2) * (head_dim / 2) + within / 2
}

/// A weight of every layer: GGUF name, Hugging Face name, shape.
type LayerWeight = (&'static str, &'static str, Vec<usize>);

/// Plans every tensor.
pub(super) fn plan<'a>(dims: &Dims, header: &'a Header) -> Result<Vec<Planned<'a>>, ConvertError> {
    let mut planner = Planner { dims, header, tensors: Vec::new() };
    let vocab_by_hidden = [dims.vocab, dims.hidden];
    planner.add("token_embd.weight", "model.embed_tokens.weight", &vocab_by_hidden)?;
    for layer in 0..dims.n_layers {
        for (from, to, shape) in layer_weights(dims) {
            planner.add(&format!("blk.{layer}.{from}"), &format!("model.layers.{layer}.{to}"), &shape)?;
        }
    }
    planner.add("output_norm.weight", "model.norm.weight", &[dims.hidden])?;
    if !dims.tied {
        planner.add("output.weight", "lm_head.weight", &vocab_by_hidden)?;
    }
    planner.check_complete()?;
    Ok(planner.tensors)
}

fn layer_weights(dims: &Dims) -> Vec<LayerWeight> {
    let (hidden, q, kv, ff) = (dims.hidden, dims.q_features(), dims.kv_features(), dims.intermediate);
    let mut weights = vec![
        ("attn_q.weight", "self_attn.q_proj.weight", vec![q, hidden]),
        ("attn_k.weight", "self_attn.k_proj.weight", vec![kv, hidden]),
        ("attn_v.weight", "self_attn.v_proj.weight", vec![kv, hidden]),
        ("attn_output.weight", "self_attn.o_proj.weight", vec![hidden, q]),
        ("ffn_gate.weight", "mlp.gate_proj.weight", vec![ff, hidden]),
        ("ffn_up.weight", "mlp.up_proj.weight", vec![ff, hidden]),
        ("ffn_down.weight", "mlp.down_proj.weight", vec![hidden, ff]),
        ("attn_norm.weight", "input_layernorm.weight", vec![hidden]),
        ("ffn_norm.weight", "post_attention_layernorm.weight", vec![hidden]),
    ];
    if dims.arch == Arch::Qwen2 {
        weights.extend([
            ("attn_q.bias", "self_attn.q_proj.bias", vec![q]),
            ("attn_k.bias", "self_attn.k_proj.bias", vec![kv]),
            ("attn_v.bias", "self_attn.v_proj.bias", vec![kv]),
        ]);
    }
    weights
}

struct Planner<'a, 'd> {
    dims: &'d Dims,
    header: &'a Header,
    tensors: Vec<Planned<'a>>,
}

impl Planner<'_, '_> {
    fn add(&mut self, from: &str, to: &str, shape: &[usize]) -> Result<(), ConvertError> {
        let source = self.header.tensors.get(from).ok_or_else(|| {
            ConvertError::Damaged(format!("the tensor {from:?} is missing; is the file complete?"))
        })?;
        if source.shape != shape {
            let got = &source.shape;
            return Err(ConvertError::Damaged(format!(
                "tensor {from:?}: expected shape {shape:?}, got {got:?}"
            )));
        }
        let paired = self.dims.arch == Arch::Llama && (to.contains("q_proj") || to.contains("k_proj"));
        self.tensors.push(Planned {
            name: to.to_owned(),
            source,
            rope_head_dim: paired.then_some(self.dims.head_dim),
            is_linear: to.ends_with("_proj.weight"),
        });
        Ok(())
    }

    fn check_complete(&self) -> Result<(), ConvertError> {
        if self.tensors.len() == self.header.tensors.len() {
            return Ok(());
        }
        let planned: std::collections::HashSet<_> = self.tensors.iter().map(|t| &t.source.name).collect();
        let mut extra: Vec<_> = self.header.tensors.keys().filter(|name| !planned.contains(name)).collect();
        extra.sort();
        Err(ConvertError::Unsupported(format!(
            "{} tensors that no known {:?} model has, the first {:?}; leaving them out would change the model",
            extra.len(),
            self.dims.arch,
            extra.first()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotary_pairs_become_halves() {
        let rows: Vec<_> = (0..16).map(|row| unpaired_row(row, 8)).collect();
        assert_eq!(rows, [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
    }
}
