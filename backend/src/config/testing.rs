//! A real model's configuration, for the tests of every module that needs one.

use super::{Family, ModelConfig, Quantization, RopeConfig};

/// SmolLM2-135M.
pub fn smollm2() -> ModelConfig {
    ModelConfig {
        family: Family::Llama,
        architecture: "LlamaForCausalLM".to_owned(),
        n_layers: 30,
        hidden: 576,
        intermediate: 1536,
        n_heads: 9,
        n_kv_heads: 3,
        head_dim: 64,
        vocab: 49_152,
        max_positions: 8192,
        norm_eps: 1e-5,
        rope: RopeConfig::plain(64, 1e5),
        sliding_window: None,
        tied: true,
        quantization: Quantization::None,
    }
}
