//! `ModelConfig`: everything the forward pass needs to know about a checkpoint, whatever its family.
//!
//! Read once by `main` through `ModelConfig::from_dir`; every size in it has been checked against
//! sane limits, so later code may multiply them without overflow. Never touches weights.

mod family;
pub(crate) mod fields;
mod quantization;
mod rope;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::path::Path;

use crate::error::LoadError;
use fields::Fields;
pub use rope::{DynamicNtk, RopeConfig, RopeScaling};

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
    /// AutoAWQ, 4 bits, asymmetric; `group_size` is 32, 64 or 128 input features.
    /// Layers whose name contains one of `not_converted` are plain.
    Awq { layout: AwqLayout, group_size: usize, not_converted: Vec<String> },
    /// AutoGPTQ.
    Gptq(GptqFormat),
}

/// Where AutoAWQ's versions put the same levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwqLayout {
    Gemm,
    Gemv,
    GemvFast,
}

/// How AutoGPTQ stored the layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GptqFormat {
    /// 4 or 8.
    pub bits: u8,
    /// Input features of a group, a multiple of 32; `None`: all of them.
    pub group_size: Option<usize>,
    /// Input features belong to groups by `g_idx`, not by their order.
    pub desc_act: bool,
    /// Zero points are stored as one less (all but format "gptq_v2").
    pub zeros_minus_one: bool,
    /// Layers whose name contains one of these are plain.
    pub not_converted: Vec<String>,
}

impl Quantization {
    /// As TGI's `--quantize` and `/info` have it, if it is one.
    pub fn method(&self) -> Option<&'static str> {
        match self {
            Quantization::None => None,
            Quantization::Awq { .. } => Some("awq"),
            Quantization::Gptq(_) => Some("gptq"),
        }
    }

    /// For people.
    pub fn name(&self) -> String {
        match self {
            Quantization::None => "plain weights".to_owned(),
            Quantization::Awq { group_size, .. } => format!("AWQ, groups of {group_size}"),
            Quantization::Gptq(GptqFormat { bits, group_size, .. }) => match group_size {
                Some(size) => format!("GPTQ, {bits} bits, groups of {size}"),
                None => format!("GPTQ, {bits} bits"),
            },
        }
    }
}

/// Layers that attend to the last tokens only, the query's own included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlidingWindow {
    pub tokens: usize,
    /// Of each layer: whether it has the window.
    pub layers: Vec<bool>,
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
    /// Longest sequence that the model, with its rotary embedding's scaling, was made for.
    pub max_positions: usize,
    pub norm_eps: f32,
    pub rope: RopeConfig,
    pub sliding_window: Option<SlidingWindow>,
    /// lm_head is the embedding matrix.
    pub tied: bool,
    pub quantization: Quantization,
}

impl ModelConfig {
    /// Reads config.json, and quant_config.json where there is one, of the model folder `dir`.
    /// `quantize` is the `--quantize` flag; it can only confirm what the files say.
    ///
    /// # Errors
    /// A missing folder or file, JSON that is not an object, a size outside its limits, an
    /// architecture, activation, rope scaling or quantization that is not supported, files that
    /// contradict each other or `quantize`.
    pub fn from_dir(dir: &Path, quantize: Option<&str>) -> Result<ModelConfig, LoadError> {
        check_folder(dir)?;
        let path = dir.join("config.json");
        if !path.exists() {
            let detail = "not found; expected a Hugging Face model folder with config.json".to_owned();
            return Err(LoadError::Config { path, detail });
        }
        let fields = Fields::read(&path)?;
        let detected = family::detect(&fields)?;
        let quantization = quantization::read(dir, &fields, quantize)?;
        family::parse(&fields, detected, quantization)
    }

    /// Tokens that a layer's attention looks back on, the query's own included; `None`: all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let window = self.sliding_window.as_ref()?;
        window.layers.get(layer).is_some_and(|windowed| *windowed).then_some(window.tokens)
    }

    /// What `window` says of the layers, each answer once.
    pub fn windows(&self) -> Vec<Option<usize>> {
        let mut windows: Vec<_> = (0..self.n_layers).map(|layer| self.window(layer)).collect();
        windows.sort_unstable();
        windows.dedup();
        windows
    }

    /// Columns of q, k and v of one row together.
    pub fn qkv_width(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
    }
}

/// Fails clearly where `dir` is not a folder.
pub(crate) fn check_folder(dir: &Path) -> Result<(), LoadError> {
    let detail = match std::fs::metadata(dir) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => "is a file; expected a model folder (config.json, *.safetensors, tokenizer)".to_owned(),
        Err(error) => format!("no model folder here ({error}); check --model-id"),
    };
    Err(LoadError::Config { path: dir.to_path_buf(), detail })
}
