//! `ModelConfig`: everything the forward pass needs to know about a checkpoint, whatever its family.
//!
//! Read once by `main` through `ModelConfig::from_dir`; every size in it has been checked against
//! sane limits, so later code may multiply them without overflow. Never touches weights.

/// The tensor naming and small differences of a model family; data for the one decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `QWenLMHeadModel`: the original Qwen.
    Qwen,
    /// `Qwen2ForCausalLM`.
    Qwen2,
    /// `LlamaForCausalLM`.
    Llama,
    /// `MistralForCausalLM`.
    Mistral,
}

/// How linear layers are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quantization {
    /// Plain float16, bfloat16 or float32 tensors.
    None,
    /// AutoAWQ "gemm", 4 bits, asymmetric; `group_size` is 32, 64 or 128 input features.
    /// Layers whose name contains one of `not_converted` are plain.
    Awq { group_size: usize, not_converted: Vec<String> },
}

/// Rotary position embedding. Dimension `i` pairs with `i + dim / 2`.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Rotated dimensions of a head, even, <= head_dim.
    pub dim: usize,
    pub theta: f64,
    /// Qwen v1 `use_dynamic_ntk`: `Some(seq_length)`.
    pub ntk_seq_length: Option<usize>,
    /// Qwen v1 `use_logn_attn`: `Some(seq_length)`.
    pub logn_seq_length: Option<usize>,
}

/// A decoder-only model's dimensions and rules.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub family: Family,
    /// `architectures[0]`.
    pub architecture: String,
    pub n_layers: usize,
    pub hidden: usize,
    /// Width of one branch of the MLP (Qwen v1: half of its `intermediate_size`).
    pub intermediate: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    /// Rows of the embedding and of the logits, padding included.
    pub vocab: usize,
    pub max_positions: usize,
    pub norm_eps: f32,
    pub rope: RopeConfig,
    /// lm_head is the embedding matrix.
    pub tied: bool,
    pub quantization: Quantization,
}
