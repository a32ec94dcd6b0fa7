//! Model folders good and bad, by table: what they become, or the whole of what the error must say.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

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

#[test]
fn reads_the_original_qwen() {
    let expected = ModelConfig {
        family: Family::Qwen,
        architecture: "QWenLMHeadModel".to_owned(),
        n_layers: 40,
        hidden: 5120,
        intermediate: 13_696,
        n_heads: 40,
        n_kv_heads: 40,
        head_dim: 128,
        vocab: 152_064,
        max_positions: 8192,
        norm_eps: 1e-6,
        rope: RopeConfig {
            dim: 128,
            theta: 10_000.0,
            ntk_seq_length: Some(2048),
            logn_seq_length: Some(2048),
        },
        tied: false,
        quantization: Quantization::None,
    };
    assert_eq!(expected.qkv_width(), 3 * 5120);
    assert_eq!(load(&qwen()).unwrap(), expected);
    let plain = patched(
        qwen(),
        json!({"use_dynamic_ntk": false, "use_logn_attn": false, "seq_length": "<absent>", "rotary_pct": 0.25}),
    );
    let rope = RopeConfig { dim: 32, theta: 10_000.0, ntk_seq_length: None, logn_seq_length: None };
    assert_eq!(load(&plain).unwrap(), ModelConfig { rope, ..expected });
}

#[test]
fn reads_llama_like_families() {
    let expected = ModelConfig {
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
        rope: RopeConfig { dim: 64, theta: 10_000.0, ntk_seq_length: None, logn_seq_length: None },
        tied: false,
        quantization: Quantization::None,
    };
    let theta =
        |theta| ModelConfig { rope: RopeConfig { theta, ..expected.rope.clone() }, ..expected.clone() };
    let positions = |max_positions| ModelConfig { max_positions, ..expected.clone() };
    let wide = RopeConfig { dim: 128, ..expected.rope.clone() };
    let cases = [
        (json!({}), expected.clone()),
        (json!({"architectures": "<absent>"}), expected.clone()),
        (json!({"architectures": []}), expected.clone()),
        (json!({"rope_theta": 5e5}), theta(5e5)),
        (json!({"rope_parameters": {"rope_type": "default", "rope_theta": 3e4}}), theta(3e4)),
        (json!({"rope_scaling": {"type": "default"}}), expected.clone()),
        (json!({"rope_scaling": null, "hidden_act": "swish"}), expected.clone()),
        (json!({"head_dim": 128}), ModelConfig { head_dim: 128, rope: wide, ..expected.clone() }),
        (json!({"num_key_value_heads": "<absent>"}), ModelConfig { n_kv_heads: 9, ..expected.clone() }),
        (json!({"tie_word_embeddings": true}), ModelConfig { tied: true, ..expected.clone() }),
        (json!({"rms_norm_eps": "<absent>"}), ModelConfig { norm_eps: 1e-6, ..expected.clone() }),
        (json!({"max_position_embeddings": "<absent>"}), positions(2048)),
        (json!({"sliding_window": 1024}), expected.clone()),
    ];
    for (patch, expected) in cases {
        assert_eq!(load(&patched(llama(), patch.clone())).unwrap(), expected, "{patch}");
    }
}

#[test]
fn a_sliding_window_bounds_the_positions() {
    let qwen2 = patched(llama(), json!({"architectures": ["Qwen2ForCausalLM"]}));
    let cases = [
        (mistral(), json!({"sliding_window": 4000}), 4000),
        (mistral(), json!({"sliding_window": 99_999}), 8192),
        (mistral(), json!({"sliding_window": null}), 8192),
        (mistral(), json!({}), 4096),
        (qwen2.clone(), json!({"sliding_window": 4000}), 8192),
        (qwen2.clone(), json!({"sliding_window": 4000, "use_sliding_window": true}), 4000),
        (qwen2, json!({"max_position_embeddings": "<absent>"}), 32_768),
    ];
    for (base, patch, positions) in cases {
        let config = load(&patched(base, patch.clone())).unwrap();
        assert_eq!(config.max_positions, positions, "{:?} {patch}", config.family);
    }
}

#[test]
fn refuses_bad_configurations() {
    let long = "x".repeat(5000);
    let cases = [
        (
            llama(),
            json!({"architectures": ["FalconForCausalLM"]}),
            "`architectures`: \"FalconForCausalLM\" is not supported; supported are QWenLMHeadModel, Qwen2ForCausalLM, LlamaForCausalLM, MistralForCausalLM",
        ),
        (
            llama(),
            json!({"architectures": "<absent>", "model_type": "gpt2"}),
            "`model_type`: \"gpt2\" is not supported",
        ),
        (
            llama(),
            json!({"architectures": "<absent>", "model_type": "<absent>"}),
            "`architectures`: missing, and `model_type` too",
        ),
        (
            llama(),
            json!({"architectures": "LlamaForCausalLM"}),
            "`architectures`: expected a list of strings, got \"LlamaForCausalLM\"",
        ),
        (llama(), json!({"architectures": [long]}), "xxx..."),
        (
            llama(),
            json!({"hidden_size": "<absent>"}),
            "`hidden_size`: missing; expected a whole number from 1 to 131072",
        ),
        (
            llama(),
            json!({"hidden_size": "576"}),
            "`hidden_size`: expected a whole number from 1 to 131072, got \"576\"",
        ),
        (llama(), json!({"hidden_size": 0}), "from 1 to 131072, got 0"),
        (llama(), json!({"hidden_size": -1}), "from 1 to 131072, got -1"),
        (llama(), json!({"hidden_size": 576.5}), "from 1 to 131072, got 576.5"),
        (
            llama(),
            json!({"vocab_size": 1u64 << 60}),
            "`vocab_size`: expected a whole number from 1 to 4194304, got 1152921504606846976",
        ),
        (
            llama(),
            json!({"num_hidden_layers": 100_000}),
            "`num_hidden_layers`: expected a whole number from 1 to 1024, got 100000",
        ),
        (
            llama(),
            json!({"num_key_value_heads": 2}),
            "`num_key_value_heads`: expected a divisor of num_attention_heads (9), got 2",
        ),
        (
            llama(),
            json!({"num_attention_heads": 7, "num_key_value_heads": 7}),
            "`head_dim`: missing, and hidden_size (576) / num_attention_heads (7) is not a whole number",
        ),
        (
            llama(),
            json!({"head_dim": 63}),
            "`rotary embedding`: rotates 63 dimensions of a head; expected an even number, at least 2",
        ),
        (
            llama(),
            json!({"hidden_act": "gelu"}),
            "`hidden_act`: \"gelu\" is not supported; expected \"silu\"",
        ),
        (llama(), json!({"rms_norm_eps": 0}), "`rms_norm_eps`: expected a number from 1e-12 to 1e0, got 0"),
        (llama(), json!({"rope_theta": -3}), "`rope_theta`: expected a number from 1e0 to 1e12, got -3"),
        (
            llama(),
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8}}),
            "`rope_scaling`: \"llama3\" is not supported; only null or \"default\" is",
        ),
        (
            llama(),
            json!({"rope_scaling": {"factor": 2}}),
            "`rope_scaling`: a scaling without a type is not supported",
        ),
        (
            llama(),
            json!({"rope_scaling": {"type": "default", "rope_type": "yarn"}}),
            "`rope_scaling.rope_type`: \"yarn\" contradicts `type`: \"default\"",
        ),
        (
            llama(),
            json!({"rope_parameters": {"rope_type": "yarn"}}),
            "`rope_parameters`: \"yarn\" is not supported",
        ),
        (llama(), json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor`: 0.5 is not supported"),
        (
            llama(),
            json!({"tie_word_embeddings": "yes"}),
            "`tie_word_embeddings`: expected true or false, got \"yes\"",
        ),
        (mistral(), json!({"sliding_window": 0}), "`sliding_window`: expected a whole number"),
        (
            qwen(),
            json!({"intermediate_size": 27391}),
            "`intermediate_size`: expected an even number, got 27391",
        ),
        (qwen(), json!({"rotary_pct": 0.26}), "`rotary embedding`: rotates 33 dimensions"),
        (qwen(), json!({"rotary_pct": 1.5}), "`rotary_pct`: expected a number from 0e0 to 1e0, got 1.5"),
        (
            qwen(),
            json!({"kv_channels": 2}),
            "rotates 2 dimensions of a head; expected an even number, at least 4",
        ),
        (qwen(), json!({"seq_length": "<absent>"}), "`seq_length`: missing"),
        (qwen(), json!({"seq_length": 1}), "`seq_length`: expected at least 2 with use_logn_attn, got 1"),
        (qwen(), json!({"scale_attn_weights": false}), "`scale_attn_weights`: false is not supported"),
    ];
    for (base, patch, expected) in cases {
        let error = error_of(&[("config.json", &patched(base, patch.clone()))], None);
        assert!(error.starts_with("DIR/config.json: `"), "{patch}: {error}");
        assert!(error.contains(expected), "{patch}: {error}");
        assert!(error.len() < 700, "{} bytes of error", error.len());
    }
}

#[test]
fn refuses_folders_that_are_none() {
    let dir = folder(&[("model.safetensors", &json!(0))]);
    let at = |path: &Path| ModelConfig::from_dir(path, None).unwrap_err().to_string();
    let missing = at(&dir.path().join("nowhere"));
    assert!(
        missing.ends_with("no model folder here (No such file or directory (os error 2)); check --model-id"),
        "{missing}"
    );
    let file = at(&dir.path().join("model.safetensors"));
    assert!(file.contains("is a file; expected a model folder"), "{file}");
    let empty = at(dir.path());
    assert!(empty.contains("config.json: not found; expected a Hugging Face model folder"), "{empty}");
    let texts = [
        ("", "invalid JSON: EOF"),
        ("{\"a\": ", "invalid JSON: EOF"),
        ("[1]", "got [1]"),
        ("\u{0}", "invalid JSON"),
    ];
    for (text, expected) in texts {
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        let error = at(dir.path());
        assert!(
            error.contains("config.json: expected a JSON object, got") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn finds_awq_in_either_file() {
    let awq = |not_converted: &[&str]| Quantization::Awq {
        group_size: 64,
        not_converted: not_converted.iter().map(|&name| name.to_owned()).collect(),
    };
    let listed = json!({"modules_to_not_convert": ["gate"]});
    let cases = [
        (Some(awq_section()), None, awq(&[])),
        (None, Some(awq_file()), awq(&[])),
        (Some(awq_section()), Some(awq_file()), awq(&[])),
        (Some(awq_file()), None, awq(&[])),
        (Some(patched(awq_section(), listed.clone())), Some(awq_file()), awq(&["gate"])),
        (Some(awq_section()), Some(patched(awq_file(), listed)), awq(&["gate"])),
        (Some(patched(awq_section(), json!({"group_size": "<absent>"}))), Some(awq_file()), awq(&[])),
        (None, None, Quantization::None),
    ];
    for (section, file, expected) in cases {
        let config = patched(llama(), json!({"quantization_config": section}));
        let mut files = vec![("config.json", &config)];
        files.extend(file.as_ref().map(|file| ("quant_config.json", file)));
        let dir = folder(&files);
        for asked in
            [None, Some("awq")].into_iter().filter(|asked| asked.is_none() || expected != Quantization::None)
        {
            let config = ModelConfig::from_dir(dir.path(), asked).unwrap();
            assert_eq!(config.quantization, expected, "{section:?} {file:?} {asked:?}");
        }
    }
}

#[test]
fn refuses_other_quantizations() {
    let section = |patch| Some(patched(awq_section(), patch));
    let file = |patch| Some(patched(awq_file(), patch));
    let cases = [
        (
            section(json!({})),
            None,
            Some("gptq"),
            "DIR: --quantize gptq was asked for, but the checkpoint is awq (config.json); leave --quantize out or pass --quantize awq",
        ),
        (None, file(json!({})), Some("gptq"), "but the checkpoint is awq (quant_config.json)"),
        (
            None,
            None,
            Some("awq"),
            "DIR: --quantize awq was asked for, but the checkpoint is not quantized (neither `quantization_config` in config.json nor quant_config.json); leave --quantize out",
        ),
        (
            None,
            None,
            Some("eetq"),
            "--quantize eetq was asked for, but the checkpoint is not quantized, and only awq checkpoints are served",
        ),
        (
            section(json!({"quant_method": "gptq"})),
            None,
            Some("gptq"),
            "config.json: `quantization_config.quant_method`: \"gptq\" is not supported; give an AWQ",
        ),
        (section(json!({"quant_method": "gptq"})), None, Some("awq"), "\"gptq\" is not supported"),
        (
            section(json!({"quant_method": "<absent>"})),
            None,
            None,
            "`quantization_config.quant_method`: missing; expected \"awq\"",
        ),
        (
            section(json!({"version": "GEMV"})),
            None,
            None,
            "`quantization_config.version`: \"gemv\" is not supported; only the layout \"gemm\" is",
        ),
        (section(json!({"bits": 8})), None, None, "`quantization_config.bits`: expected one of [4], got 8"),
        (
            section(json!({"bits": "<absent>"})),
            None,
            None,
            "`quantization_config.bits`: missing; expected one of [4]",
        ),
        (
            section(json!({"bits": 4, "w_bit": 3})),
            None,
            None,
            "`quantization_config.bits`: 4 contradicts `w_bit`: 3",
        ),
        (
            section(json!({"group_size": -1})),
            None,
            None,
            "`quantization_config.group_size`: expected one of [32, 64, 128], got -1",
        ),
        (
            section(json!({"zero_point": false})),
            None,
            None,
            "`quantization_config.zero_point`: false is not supported",
        ),
        (section(json!({"modules_to_not_convert": [1]})), None, None, "expected a list of strings, got [1]"),
        (Some(json!("awq")), None, None, "`quantization_config`: expected an object, got \"awq\""),
        (
            section(json!({})),
            file(json!({"q_group_size": 128})),
            None,
            "quant_config.json: `group_size`: 128 contradicts `quantization_config` of config.json, which says 64; correct one",
        ),
        (
            section(json!({})),
            file(json!({"version": "GEMV"})),
            None,
            "quant_config.json: `version`: \"gemv\" contradicts",
        ),
        (
            section(json!({"quant_method": "gptq"})),
            file(json!({})),
            None,
            "quant_config.json: `quant_method`: \"awq\" contradicts",
        ),
    ];
    for (section, file, asked, expected) in cases {
        let config = patched(llama(), json!({"quantization_config": section}));
        let mut files = vec![("config.json", &config)];
        files.extend(file.as_ref().map(|file| ("quant_config.json", file)));
        let error = error_of(&files, asked);
        assert!(error.contains(expected), "expected {expected}\ngot {error}");
    }
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
