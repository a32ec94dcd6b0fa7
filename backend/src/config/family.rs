//! config.json of each supported architecture as a `ModelConfig`.
//!
//! Called by `ModelConfig::from_dir`. Defaults are those of each family's own configuration class.
//! Every size leaves here checked; the limits keep products of three sizes inside 64 bits.

use super::fields::{Fields, shown};
use super::{Family, ModelConfig, Quantization, RopeConfig};
use crate::error::LoadError;

const MAX_LAYERS: usize = 1 << 10;
const MAX_HIDDEN: usize = 1 << 17;
const MAX_INTERMEDIATE: usize = 1 << 20;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 10;
const MAX_VOCAB: usize = 1 << 22;
const MAX_POSITIONS: usize = 1 << 24;

/// Window of a Mistral config.json that does not mention one.
const MISTRAL_WINDOW: usize = 4096;

/// Class name, `model_type`, family.
const FAMILIES: [(&str, &str, Family); 4] = [
    ("QWenLMHeadModel", "qwen", Family::Qwen),
    ("Qwen2ForCausalLM", "qwen2", Family::Qwen2),
    ("LlamaForCausalLM", "llama", Family::Llama),
    ("MistralForCausalLM", "mistral", Family::Mistral),
];

/// The architecture by `architectures[0]`, or by `model_type` where that list is missing.
pub(super) fn detect(fields: &Fields) -> Result<(&'static str, Family), LoadError> {
    let architectures = fields.texts("architectures")?;
    let (key, name) = match (architectures.first(), fields.text("model_type")?) {
        (Some(class), _) => ("architectures", class.as_str()),
        (None, Some(model_type)) => ("model_type", model_type),
        (None, None) => return Err(fields.error("architectures", "missing, and `model_type` too")),
    };
    let by_class = key == "architectures";
    let found =
        FAMILIES.iter().find(|(class, model_type, _)| name == if by_class { *class } else { *model_type });
    found.map(|(class, _, family)| (*class, *family)).ok_or_else(|| {
        let supported: Vec<_> = FAMILIES.iter().map(|(class, ..)| *class).collect();
        let detail = format!("{name:?} is not supported; supported are {}", supported.join(", "));
        fields.unsupported(key, detail)
    })
}

/// The dimensions; `architecture` and `family` come from `detect`.
pub(super) fn parse(
    fields: &Fields,
    (architecture, family): (&str, Family),
    quantization: Quantization,
) -> Result<ModelConfig, LoadError> {
    check_activation(fields)?;
    let n_heads = fields.size("num_attention_heads", MAX_HEADS)?;
    let hidden = fields.size("hidden_size", MAX_HIDDEN)?;
    let head_dim = head_dim(fields, family, hidden, n_heads)?;
    let (eps_key, kv_heads_key) = match family {
        Family::Qwen => ("layer_norm_epsilon", None),
        Family::Qwen2 | Family::Llama | Family::Mistral => ("rms_norm_eps", Some("num_key_value_heads")),
    };
    let n_kv_heads = kv_heads_key.map(|key| fields.optional_size(key, MAX_HEADS)).transpose()?.flatten();
    let n_kv_heads = n_kv_heads.unwrap_or(n_heads);
    if !n_heads.is_multiple_of(n_kv_heads) {
        let detail = format!("expected a divisor of num_attention_heads ({n_heads}), got {n_kv_heads}");
        return Err(fields.error("num_key_value_heads", detail));
    }
    Ok(ModelConfig {
        family,
        architecture: architecture.to_owned(),
        n_layers: fields.size("num_hidden_layers", MAX_LAYERS)?,
        hidden,
        intermediate: intermediate(fields, family)?,
        n_heads,
        n_kv_heads,
        head_dim,
        vocab: fields.size("vocab_size", MAX_VOCAB)?,
        max_positions: max_positions(fields, family)?,
        norm_eps: fields.number_or(eps_key, 1e-12..=1.0, 1e-6)? as f32,
        rope: match family {
            Family::Qwen => qwen_rope(fields, head_dim)?,
            Family::Qwen2 | Family::Llama | Family::Mistral => plain_rope(fields, head_dim)?,
        },
        tied: fields.flag_or("tie_word_embeddings", false)?,
        quantization,
    })
}

fn check_activation(fields: &Fields) -> Result<(), LoadError> {
    match fields.text("hidden_act")? {
        None | Some("silu" | "swish") => Ok(()),
        Some(other) => {
            Err(fields
                .unsupported("hidden_act", format_args!("{other:?} is not supported; expected \"silu\"")))
        }
    }
}

fn head_dim(fields: &Fields, family: Family, hidden: usize, n_heads: usize) -> Result<usize, LoadError> {
    let key = if family == Family::Qwen { "kv_channels" } else { "head_dim" };
    if let Some(head_dim) = fields.optional_size(key, MAX_HEAD_DIM)? {
        return Ok(head_dim);
    }
    if !hidden.is_multiple_of(n_heads) || hidden / n_heads > MAX_HEAD_DIM {
        let detail = format!(
            "missing, and hidden_size ({hidden}) / num_attention_heads ({n_heads}) is not a whole number \
             from 1 to {MAX_HEAD_DIM}"
        );
        return Err(fields.error(key, detail));
    }
    Ok(hidden / n_heads)
}

fn intermediate(fields: &Fields, family: Family) -> Result<usize, LoadError> {
    let size = fields.size("intermediate_size", MAX_INTERMEDIATE)?;
    match family {
        // Qwen v1 counts both branches of the MLP.
        Family::Qwen if size.is_multiple_of(2) => Ok(size / 2),
        Family::Qwen => {
            Err(fields.error("intermediate_size", format_args!("expected an even number, got {size}")))
        }
        Family::Qwen2 | Family::Llama | Family::Mistral => Ok(size),
    }
}

/// Attention here is never windowed, so a model with a window is served up to the window, where both agree.
fn max_positions(fields: &Fields, family: Family) -> Result<usize, LoadError> {
    let default = match family {
        Family::Qwen => 8192,
        Family::Qwen2 => 32_768,
        Family::Llama => 2048,
        Family::Mistral => 131_072,
    };
    let positions = fields.optional_size("max_position_embeddings", MAX_POSITIONS)?.unwrap_or(default);
    let mentioned = fields.has_key("sliding_window");
    let windowed = match family {
        Family::Mistral => true,
        Family::Qwen2 => fields.flag_or("use_sliding_window", false)?,
        Family::Qwen | Family::Llama => false,
    };
    let window = match windowed {
        true if family == Family::Mistral && !mentioned => Some(MISTRAL_WINDOW),
        true => fields.optional_size("sliding_window", MAX_POSITIONS)?,
        false => None,
    };
    Ok(window.map_or(positions, |window| positions.min(window)))
}

fn plain_rope(fields: &Fields, head_dim: usize) -> Result<RopeConfig, LoadError> {
    // Newer files keep base and scaling together under `rope_parameters`.
    let parameters = fields.section("rope_parameters")?;
    for (section, name) in
        [(fields.section("rope_scaling")?, "rope_scaling"), (parameters.clone(), "rope_parameters")]
    {
        let kind =
            section.as_ref().map(|section| section.either(["rope_type", "type"])).transpose()?.flatten();
        let known = section.is_none() || kind.is_some_and(|(_, value)| value == "default");
        if !known {
            let got = kind.map_or_else(|| "a scaling without a type".to_owned(), |(_, value)| shown(value));
            return Err(
                fields.unsupported(name, format_args!("{got} is not supported; only null or \"default\" is"))
            );
        }
    }
    let partial = fields.number_or("partial_rotary_factor", 0.0..=1.0, 1.0)?;
    if partial != 1.0 {
        return Err(fields
            .unsupported("partial_rotary_factor", format_args!("{partial} is not supported; expected 1")));
    }
    let base = parameters.filter(|section| section.get("rope_theta").is_some());
    let theta = rope_base(base.as_ref().unwrap_or(fields), "rope_theta")?;
    check_rope_dim(fields, head_dim, 2)?;
    Ok(RopeConfig { dim: head_dim, theta, ntk_seq_length: None, logn_seq_length: None })
}

fn qwen_rope(fields: &Fields, head_dim: usize) -> Result<RopeConfig, LoadError> {
    if !fields.flag_or("scale_attn_weights", true)? {
        return Err(fields.unsupported("scale_attn_weights", "false is not supported; expected true"));
    }
    let dynamic_ntk = fields.flag_or("use_dynamic_ntk", true)?;
    let logn = fields.flag_or("use_logn_attn", true)?;
    let share = fields.number_or("rotary_pct", 0.0..=1.0, 1.0)?;
    let dim = (head_dim as f64 * share) as usize;
    // The NTK exponent is dim / (dim - 2).
    check_rope_dim(fields, dim, if dynamic_ntk { 4 } else { 2 })?;
    let seq_length = match dynamic_ntk || logn {
        true => fields.size("seq_length", MAX_POSITIONS)?,
        false => 0,
    };
    if logn && seq_length == 1 {
        return Err(fields.error("seq_length", "expected at least 2 with use_logn_attn, got 1"));
    }
    Ok(RopeConfig {
        dim,
        theta: rope_base(fields, "rotary_emb_base")?,
        ntk_seq_length: dynamic_ntk.then_some(seq_length),
        logn_seq_length: logn.then_some(seq_length),
    })
}

fn rope_base(fields: &Fields, key: &str) -> Result<f64, LoadError> {
    fields.number_or(key, 1.0..=1e12, 10_000.0)
}

fn check_rope_dim(fields: &Fields, dim: usize, least: usize) -> Result<(), LoadError> {
    match dim.is_multiple_of(2) && dim >= least {
        true => Ok(()),
        false => {
            let detail =
                format!("rotates {dim} dimensions of a head; expected an even number, at least {least}");
            Err(fields.error("rotary embedding", detail))
        }
    }
}
