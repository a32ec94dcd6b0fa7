//! Hyperparameters of a GGUF as config.json and generation_config.json.
//! Called by `run`. Must never write a config that says less than the GGUF: what the target cannot express is an
//! error.

use serde_json::{Value, json};

use super::gguf::{Header, required};
use super::{ConvertError, Format};

/// Model families that can be converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arch {
    Llama,
    Qwen2,
}

/// The sizes of a decoder.
#[derive(Clone, Debug)]
pub(super) struct Dims {
    pub arch: Arch,
    pub n_layers: u64,
    pub hidden: usize,
    pub intermediate: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub context: u64,
    pub vocab: usize,
    /// Whether `lm_head` is the embedding.
    pub tied: bool,
}

impl Arch {
    fn read(header: &Header) -> Result<Self, ConvertError> {
        let key = "general.architecture";
        match required(header.metadata.str(key)?, key)? {
            "llama" => Ok(Self::Llama),
            "qwen2" => Ok(Self::Qwen2),
            other => {
                Err(ConvertError::Unsupported(format!("architecture {other:?}; supported are llama, qwen2")))
            }
        }
    }

    /// Its name in keys of the GGUF and as config.json's `model_type`.
    fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
        }
    }
}

impl Dims {
    /// Reads and checks the sizes.
    pub(super) fn read(header: &Header) -> Result<Self, ConvertError> {
        let arch = Arch::read(header)?;
        let (keys, meta) = (|key: &str| format!("{}.{key}", arch.name()), &header.metadata);
        let size = |key: &str| required(positive(header, &keys(key))?, &keys(key));
        let (hidden, n_heads) = (size("embedding_length")?, size("attention.head_count")?);
        let context = keys("context_length");
        let eps = keys("attention.layer_norm_rms_epsilon");
        let dims = Self {
            arch,
            n_layers: size("block_count")? as u64,
            hidden,
            intermediate: size("feed_forward_length")?,
            n_heads,
            n_kv_heads: positive(header, &keys("attention.head_count_kv"))?.unwrap_or(n_heads),
            head_dim: positive(header, &keys("attention.key_length"))?.unwrap_or(hidden / n_heads),
            rms_norm_eps: shortest(required(meta.float(&eps)?, &eps)?),
            rope_theta: shortest(meta.float(&keys("rope.freq_base"))?.unwrap_or(10000.0)),
            context: required(meta.uint(&context)?, &context)?,
            vocab: vocab_size(header)?,
            tied: !header.tensors.contains_key("output.weight"),
        };
        dims.check(header)?;
        Ok(dims)
    }

    /// Output features of the query projection.
    pub(super) fn q_features(&self) -> usize {
        self.n_heads.saturating_mul(self.head_dim)
    }

    /// Output features of the key and value projections.
    pub(super) fn kv_features(&self) -> usize {
        self.n_kv_heads.saturating_mul(self.head_dim)
    }

    fn check(&self, header: &Header) -> Result<(), ConvertError> {
        if !self.n_heads.is_multiple_of(self.n_kv_heads)
            || !self.head_dim.is_multiple_of(2)
            || self.head_dim == 0
        {
            return Err(ConvertError::Damaged(format!(
                "{} heads, {} key/value heads, head dimension {}: expected whole groups of heads and an even dimension",
                self.n_heads, self.n_kv_heads, self.head_dim
            )));
        }
        if self.arch == Arch::Qwen2 && self.q_features() != self.hidden {
            return Err(ConvertError::Unsupported(format!(
                "a qwen2 config.json cannot say that {} heads have dimension {} at hidden size {}",
                self.n_heads, self.head_dim, self.hidden
            )));
        }
        let key = format!("{}.rope.scaling.type", self.arch.name());
        match header.metadata.str(&key)? {
            None | Some("none") => Ok(()),
            Some(kind) => {
                Err(ConvertError::Unsupported(format!("{key} is {kind:?}; only \"none\" is converted")))
            }
        }
    }
}

/// A size: positive if there.
fn positive(header: &Header, key: &str) -> Result<Option<usize>, ConvertError> {
    match header.metadata.uint(key)? {
        None => Ok(None),
        Some(n) => match u32::try_from(n) {
            Ok(n) if n > 0 => Ok(Some(n as usize)),
            _ => Err(ConvertError::Damaged(format!("{key}: expected 1 to {}, got {n}", u32::MAX))),
        },
    }
}

fn vocab_size(header: &Header) -> Result<usize, ConvertError> {
    match header.tensors.get("token_embd.weight").map(|t| &t.shape[..]) {
        Some([vocab, _]) => Ok(*vocab),
        Some(shape) => Err(ConvertError::Damaged(format!(
            "tensor \"token_embd.weight\": expected [vocabulary, hidden], got {shape:?}"
        ))),
        None => Err(ConvertError::Damaged("the tensor \"token_embd.weight\" is missing".into())),
    }
}

/// A float32 as the decimal it was written from (1e-06, not 9.999999974752427e-07).
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// config.json.
pub(super) fn config(dims: &Dims, header: &Header, format: Format) -> Result<Value, ConvertError> {
    let token = |name: &str| token_id(header, name);
    let class = match dims.arch {
        Arch::Llama => "LlamaForCausalLM",
        Arch::Qwen2 => "Qwen2ForCausalLM",
    };
    let mut config = json!({
        "architectures": [class],
        "model_type": dims.arch.name(),
        "hidden_act": "silu",
        "hidden_size": dims.hidden,
        "intermediate_size": dims.intermediate,
        "num_hidden_layers": dims.n_layers,
        "num_attention_heads": dims.n_heads,
        "num_key_value_heads": dims.n_kv_heads,
        "max_position_embeddings": dims.context,
        "rms_norm_eps": dims.rms_norm_eps,
        "rope_theta": dims.rope_theta,
        "vocab_size": dims.vocab,
        "tie_word_embeddings": dims.tied,
        "bos_token_id": token("bos")?,
        "eos_token_id": token("eos")?,
        "torch_dtype": "float16",
        "use_cache": true,
    });
    match dims.arch {
        Arch::Llama => {
            config["head_dim"] = dims.head_dim.into();
            config["attention_bias"] = false.into();
            config["mlp_bias"] = false.into();
            config["rope_scaling"] = Value::Null;
            config["pad_token_id"] = token("padding")?.into();
        }
        Arch::Qwen2 => config["use_sliding_window"] = false.into(),
    }
    if let Format::Awq { group_size } = format {
        config["quantization_config"] = quantization(group_size);
    }
    Ok(config)
}

/// config.json's `quantization_config`.
fn quantization(group_size: usize) -> Value {
    json!({
        "quant_method": "awq",
        "bits": 4,
        "group_size": group_size,
        "zero_point": true,
        "version": "gemm",
        "modules_to_not_convert": null,
    })
}

/// quant_config.json, AutoAWQ's own file.
pub(super) fn quant_config(group_size: usize) -> Value {
    json!({"zero_point": true, "q_group_size": group_size, "w_bit": 4, "version": "GEMM"})
}

/// generation_config.json: greedy, with every id that ends an answer.
pub(super) fn generation_config(dims: &Dims, header: &Header) -> Result<Value, ConvertError> {
    let eos = required(token_id(header, "eos")?, "tokenizer.ggml.eos_token_id")?;
    let tokens = header.metadata.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
    // A qwen2 chat model ends its turns with <|im_end|>, its documents with <|endoftext|>.
    let end = tokens.iter().position(|t| t == "<|endoftext|>").map(|i| i as u64);
    let eos = match end {
        Some(end) if dims.arch == Arch::Qwen2 && end != eos => json!([eos, end]),
        _ => json!(eos),
    };
    Ok(json!({
        "bos_token_id": token_id(header, "bos")?,
        "eos_token_id": eos,
        "pad_token_id": token_id(header, "padding")?,
        "do_sample": false,
    }))
}

/// The id of the special token `name` (bos, eos, padding, unknown).
pub(super) fn token_id(header: &Header, name: &str) -> Result<Option<u64>, ConvertError> {
    header.metadata.uint(&format!("tokenizer.ggml.{name}_token_id"))
}
