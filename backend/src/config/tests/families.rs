//! Each family's config.json: what is read, what is refused, folders that are none.

use super::*;

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
            ntk_seq_length: Some(2048),
            logn_seq_length: Some(2048),
            ..RopeConfig::plain(128, 10_000.0)
        },
        sliding_window: None,
        tied: false,
        quantization: Quantization::None,
    };
    assert_eq!(expected.qkv_width(), 3 * 5120);
    assert_eq!(load(&qwen()).unwrap(), expected);
    let plain = patched(
        qwen(),
        json!({"use_dynamic_ntk": false, "use_logn_attn": false, "seq_length": "<absent>", "rotary_pct": 0.25}),
    );
    let rope = RopeConfig::plain(32, 10_000.0);
    assert_eq!(load(&plain).unwrap(), ModelConfig { rope, ..expected });
}

#[test]
fn reads_llama_like_families() {
    let smollm2 = smollm2();
    let rope = RopeConfig { theta: 10_000.0, ..smollm2.rope };
    let expected = ModelConfig { rope, tied: false, ..smollm2 };
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
fn reads_sliding_windows() {
    let qwen2 = patched(llama(), json!({"architectures": ["Qwen2ForCausalLM"], "num_hidden_layers": 4}));
    let mistral = patched(mistral(), json!({"num_hidden_layers": 4}));
    let used = |more: Value| patched(json!({"sliding_window": 4000, "use_sliding_window": true}), more);
    let types = json!(["full_attention", "sliding_attention", "full_attention", "sliding_attention"]);
    let cases = [
        (&mistral, json!({"sliding_window": 4000}), [Some(4000); 4]),
        (&mistral, json!({"sliding_window": null}), [None; 4]),
        (&mistral, json!({}), [Some(4096); 4]),
        (&mistral, json!({"layer_types": types}), [None, Some(4096), None, Some(4096)]),
        (&qwen2, json!({"sliding_window": 4000}), [None; 4]),
        (&qwen2, used(json!({})), [None; 4]),
        (&qwen2, used(json!({"max_window_layers": 3})), [None, None, None, Some(4000)]),
        (&qwen2, used(json!({"max_window_layers": 0})), [Some(4000); 4]),
        (&qwen2, used(json!({"layer_types": types})), [None, Some(4000), None, Some(4000)]),
    ];
    for (base, patch, expected) in cases {
        let config = load(&patched(base.clone(), patch.clone())).unwrap();
        assert_eq!([0, 1, 2, 3].map(|layer| config.window(layer)), expected, "{:?} {patch}", config.family);
        let mut kinds = expected.to_vec();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!((config.max_positions, config.windows()), (8192, kinds), "{patch}");
    }
    let config = load(&patched(qwen2, json!({"max_position_embeddings": "<absent>"}))).unwrap();
    assert_eq!(config.max_positions, 32_768);
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
            "`rope_scaling.original_max_position_embeddings`: missing",
        ),
        (
            llama(),
            json!({"rope_scaling": {"rope_type": "longrope", "factor": 8}}),
            "`rope_scaling`: \"longrope\" is not supported; \"default\", \"linear\", \"dynamic\", \"llama3\" and \"yarn\" are",
        ),
        (llama(), json!({"rope_scaling": {"type": "linear"}}), "`rope_scaling.factor`: missing"),
        (
            llama(),
            json!({"rope_scaling": {"type": "linear", "factor": 0.5}}),
            "`rope_scaling.factor`: expected a number from 1e0 to 1e4, got 0.5",
        ),
        (
            llama(),
            json!({"rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": 1, "beta_slow": 2}}),
            "`rope_scaling.beta_fast`: expected at least beta_slow (2), got 1",
        ),
        (
            llama(),
            json!({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}}),
            "`rope_scaling.high_freq_factor`: expected more than low_freq_factor (4), got 4",
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
            json!({"rope_parameters": {"rope_type": "su"}}),
            "`rope_parameters`: \"su\" is not supported",
        ),
        (llama(), json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor`: 0.5 is not supported"),
        (
            llama(),
            json!({"tie_word_embeddings": "yes"}),
            "`tie_word_embeddings`: expected true or false, got \"yes\"",
        ),
        (
            mistral(),
            json!({"num_hidden_layers": 2, "layer_types": ["full_attention"]}),
            "`layer_types`: expected one of each of 2 layers, got 1",
        ),
        (
            mistral(),
            json!({"num_hidden_layers": 1, "layer_types": ["linear_attention"]}),
            "`layer_types`: \"linear_attention\" is not supported",
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
