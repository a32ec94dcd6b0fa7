//! config.json of each supported architecture as a `ModelConfig`.
//!
//! Called by `ModelConfig::from_dir`. Defaults are those of each family's own configuration class.
//! Every size leaves here checked; the limits keep products of three sizes inside 64 bits.

use super::fields::Fields;
use super::rope::{self, MAX_POSITIONS};
use super::{Family, ModelConfig, Quantization, SlidingWindow};
use crate::error::LoadError;

const MAX_LAYERS: usize = 1 << 10;
const MAX_HIDDEN: usize = 1 << 17;
const MAX_INTERMEDIATE: usize = 1 << 20;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 10;
const MAX_VOCAB: usize = 1 << 22;

/// Window of a Mistral config.json that does not mention one.
const MISTRAL_WINDOW: usize = 4096;
/// Layers in front without a window, of a Qwen2 config.json that does not say.
const QWEN2_FULL_LAYERS: f64 = 28.0;

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
    let eps_key = match family {
        Family::Qwen => "layer_norm_epsilon",
        Family::Qwen2 | Family::Llama | Family::Mistral => "rms_norm_eps",
    };
    let n_layers = fields.size("num_hidden_layers", MAX_LAYERS)?;
    let positions = max_positions(fields, family)?;
    let (rope, max_positions) = match family {
        Family::Qwen => (rope::of_qwen(fields, head_dim)?, positions),
        Family::Qwen2 | Family::Llama | Family::Mistral => rope::of_llama(fields, head_dim, positions)?,
    };
    Ok(ModelConfig {
        family,
        architecture: architecture.to_owned(),
        n_layers,
        hidden,
        intermediate: intermediate(fields, family)?,
        n_heads,
        n_kv_heads: n_kv_heads(fields, family, n_heads)?,
        head_dim,
        vocab: fields.size("vocab_size", MAX_VOCAB)?,
        max_positions,
        norm_eps: fields.number_or(eps_key, 1e-12..=1.0, 1e-6)? as f32,
        rope,
        sliding_window: sliding_window(fields, family, n_layers)?,
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

fn n_kv_heads(fields: &Fields, family: Family, n_heads: usize) -> Result<usize, LoadError> {
    const KEY: &str = "num_key_value_heads";
    let given = match family {
        Family::Qwen => None,
        Family::Qwen2 | Family::Llama | Family::Mistral => fields.optional_size(KEY, MAX_HEADS)?,
    };
    let n_kv_heads = given.unwrap_or(n_heads);
    if !n_heads.is_multiple_of(n_kv_heads) {
        let detail = format!("expected a divisor of num_attention_heads ({n_heads}), got {n_kv_heads}");
        return Err(fields.error(KEY, detail));
    }
    Ok(n_kv_heads)
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

fn max_positions(fields: &Fields, family: Family) -> Result<usize, LoadError> {
    let default = match family {
        Family::Qwen => 8192,
        Family::Qwen2 => 32_768,
        Family::Llama => 2048,
        Family::Mistral => 131_072,
    };
    Ok(fields.optional_size("max_position_embeddings", MAX_POSITIONS)?.unwrap_or(default))
}

/// Which layers attend to the last tokens only.
fn sliding_window(
    fields: &Fields,
    family: Family,
    n_layers: usize,
) -> Result<Option<SlidingWindow>, LoadError> {
    let mentioned = fields.has_key("sliding_window");
    let tokens = match family {
        Family::Mistral if !mentioned => Some(MISTRAL_WINDOW),
        Family::Mistral => fields.optional_size("sliding_window", MAX_POSITIONS)?,
        Family::Qwen2 if fields.flag_or("use_sliding_window", false)? => {
            fields.optional_size("sliding_window", MAX_POSITIONS)?
        }
        Family::Qwen2 | Family::Qwen | Family::Llama => None,
    };
    let Some(tokens) = tokens else { return Ok(None) };
    let kinds = fields.texts("layer_types")?;
    let layers = match (kinds.is_empty(), family) {
        (false, _) if kinds.len() != n_layers => {
            let detail = format!("expected one of each of {n_layers} layers, got {}", kinds.len());
            return Err(fields.error("layer_types", detail));
        }
        (false, _) => kinds.iter().map(|kind| layer_is_windowed(fields, kind)).collect::<Result<_, _>>()?,
        (true, Family::Qwen2) => {
            let first = fields.number_or("max_window_layers", 0.0..=1e6, QWEN2_FULL_LAYERS)?;
            (0..n_layers).map(|layer| layer as f64 >= first).collect()
        }
        (true, _) => vec![true; n_layers],
    };
    Ok(Some(SlidingWindow { tokens, layers }).filter(|window| window.layers.contains(&true)))
}

fn layer_is_windowed(fields: &Fields, kind: &str) -> Result<bool, LoadError> {
    match kind {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => {
            let detail = format!("{other:?} is not supported; full_attention and sliding_attention are");
            Err(fields.unsupported("layer_types", detail))
        }
    }
}
