//! Model folders good and bad, by table: what they become, or the whole of what the error must say.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::testing::smollm2;
use super::*;

mod families;
mod quantizations;

fn folder(files: &[(&str, &Value)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in files {
        std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    }
    dir
}

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    })
}

fn mistral() -> Value {
    patched(llama(), json!({"architectures": ["MistralForCausalLM"], "num_key_value_heads": null}))
}

fn qwen() -> Value {
    json!({
        "architectures": ["QWenLMHeadModel"], "model_type": "qwen", "hidden_size": 5120,
        "intermediate_size": 27392, "kv_channels": 128, "layer_norm_epsilon": 1e-6,
        "max_position_embeddings": 8192, "no_bias": true, "num_attention_heads": 40, "num_hidden_layers": 40,
        "rotary_emb_base": 10000, "rotary_pct": 1.0, "seq_length": 2048, "use_dynamic_ntk": true,
        "use_flash_attn": "auto", "use_logn_attn": true, "vocab_size": 152064, "tie_word_embeddings": false,
    })
}

fn awq_section() -> Value {
    json!({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": true, "version": "gemm"})
}

fn awq_file() -> Value {
    json!({"zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMM"})
}

/// `base` with the keys of `patch`; a value of `"<absent>"` removes the key.
fn patched(mut base: Value, patch: Value) -> Value {
    for (key, value) in patch.as_object().unwrap() {
        if value == "<absent>" {
            base.as_object_mut().unwrap().shift_remove(key);
        } else {
            base[key] = value.clone();
        }
    }
    base
}

fn load(config: &Value) -> Result<ModelConfig, LoadError> {
    ModelConfig::from_dir(folder(&[("config.json", config)]).path(), None)
}

/// Loads `files` with `--quantize asked` and returns the error without the folder's name.
fn error_of(files: &[(&str, &Value)], asked: Option<&str>) -> String {
    let dir = folder(files);
    let error = ModelConfig::from_dir(dir.path(), asked).unwrap_err();
    error.to_string().replace(&dir.path().display().to_string(), "DIR")
}

/// Values of the wrong kind or size for almost any key.
fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u64..70).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,9}".prop_map(Value::from),
        Just(json!([])),
        Just(json!(["LlamaForCausalLM", 1])),
        Just(json!({"type": "default", "quant_method": "awq"})),
    ]
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Fields::parse(Path::new("config.json"), &bytes);
    }

    /// Whatever three keys hold, the result is an error or a sound configuration.
    #[test]
    fn odd_values_never_pass(
        base in prop_oneof![Just(qwen()), Just(llama()), Just(mistral())],
        odd in proptest::collection::vec((any::<prop::sample::Index>(), odd_value()), 1..4),
    ) {
        let mut config = patched(base, json!({"quantization_config": awq_section(), "head_dim": null, "rope_theta": null, "rope_scaling": null}));
        let keys: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
        for (key, value) in odd {
            config[key.get(&keys)] = value;
        }
        let fields = Fields::parse(Path::new("config.json"), config.to_string().as_bytes()).unwrap();
        let _ = quantization::read(Path::new("/nonexistent"), &fields, Some("awq"));
        let parsed = family::detect(&fields).and_then(|detected| family::parse(&fields, detected, Quantization::None));
        if let Ok(config) = parsed {
            prop_assert_eq!(config.n_heads % config.n_kv_heads, 0);
            prop_assert!(config.rope.dim.is_multiple_of(2) && (2..=config.head_dim).contains(&config.rope.dim));
            prop_assert!(config.norm_eps > 0.0 && config.rope.theta.is_finite());
            prop_assert!(config.vocab.checked_mul(config.hidden).is_some() && config.max_positions > 0);
        }
    }
}
