//! What each model family calls its tensors: a table, read by `load` and by
//! the quantizer. A new family starts here.

use crate::config::Family;

/// Tensor names of one family. Norms are full names, linear layers prefixes (of `.weight`,
/// `.qweight`, `.bias`, ...); those of a layer follow `layers` and its number.
#[derive(Debug)]
pub struct Names {
    pub embedding: &'static str,
    pub final_norm: &'static str,
    pub lm_head: &'static str,
    pub layers: &'static str,
    pub input_norm: &'static str,
    pub qkv: Qkv,
    pub attention_out: &'static str,
    /// The norm between attention and MLP.
    pub mlp_norm: &'static str,
    /// The branch that goes through SiLU.
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
}

/// How the projections of attention's input are stored.
#[derive(Debug)]
pub enum Qkv {
    /// One layer, q then k then v.
    Fused(&'static str),
    Split([&'static str; 3]),
}

const QWEN: Names = Names {
    embedding: "transformer.wte.weight",
    final_norm: "transformer.ln_f.weight",
    lm_head: "lm_head",
    layers: "transformer.h",
    input_norm: "ln_1.weight",
    qkv: Qkv::Fused("attn.c_attn"),
    attention_out: "attn.c_proj",
    mlp_norm: "ln_2.weight",
    gate: "mlp.w2",
    up: "mlp.w1",
    down: "mlp.c_proj",
};

const LLAMA: Names = Names {
    embedding: "model.embed_tokens.weight",
    final_norm: "model.norm.weight",
    lm_head: "lm_head",
    layers: "model.layers",
    input_norm: "input_layernorm.weight",
    qkv: Qkv::Split(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    attention_out: "self_attn.o_proj",
    mlp_norm: "post_attention_layernorm.weight",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
};

/// The table of `family`.
pub fn names(family: Family) -> &'static Names {
    match family {
        Family::Qwen => &QWEN,
        Family::Qwen2 | Family::Llama | Family::Mistral => &LLAMA,
    }
}
