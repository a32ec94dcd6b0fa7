//! Where a checkpoint says how it is quantised, and what is refused.

use super::*;

#[test]
fn finds_awq_in_either_file() {
    let awq = |not_converted: &[&str]| Quantization::Awq {
        layout: AwqLayout::Gemm,
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
            "DIR: --quantize awq was asked for, but the checkpoint is not quantized (neither `quantization_config` in config.json nor quant_config.json nor quantize_config.json); leave --quantize out",
        ),
        (
            None,
            None,
            Some("eetq"),
            "--quantize eetq was asked for, but the checkpoint is not quantized, and only awq and gptq checkpoints are served",
        ),
        (
            section(json!({"quant_method": "hqq"})),
            None,
            Some("hqq"),
            "config.json: `quantization_config.quant_method`: \"hqq\" is not supported; give an AWQ (\"awq\"), a GPTQ",
        ),
        (
            section(json!({"quant_method": "gptq"})),
            None,
            Some("awq"),
            "but the checkpoint is gptq (config.json)",
        ),
        (
            section(json!({"quant_method": "<absent>"})),
            None,
            None,
            "`quantization_config.quant_method`: missing; expected \"awq\" or \"gptq\"",
        ),
        (
            section(json!({"version": "MARLIN"})),
            None,
            None,
            "`quantization_config.version`: expected one of [\"gemm\", \"gemv\", \"gemv_fast\"], got \"marlin\"",
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

fn gptq_section() -> Value {
    json!({"quant_method": "gptq", "bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": false,
           "static_groups": false, "sym": true, "true_sequential": true, "model_file_base_name": "model"})
}

#[test]
fn finds_awqs_layouts_and_gptq() {
    let gptq = |bits, group_size, desc_act, zeros_minus_one| {
        let not_converted = Vec::new();
        Quantization::Gptq(GptqFormat { bits, group_size, desc_act, zeros_minus_one, not_converted })
    };
    let awq = |layout| Quantization::Awq { layout, group_size: 64, not_converted: Vec::new() };
    let file = |patch| {
        let mut file = patched(gptq_section(), patch);
        file.as_object_mut().unwrap().shift_remove("quant_method");
        file
    };
    let section = |patch| patched(gptq_section(), patch);
    let cases = [
        (Some(patched(awq_section(), json!({"version": "GEMV"}))), None, awq(AwqLayout::Gemv)),
        (Some(patched(awq_section(), json!({"version": "gemv_fast"}))), None, awq(AwqLayout::GemvFast)),
        (Some(gptq_section()), None, gptq(4, Some(128), false, true)),
        (None, Some(file(json!({}))), gptq(4, Some(128), false, true)),
        (Some(gptq_section()), Some(file(json!({}))), gptq(4, Some(128), false, true)),
        (
            None,
            Some(file(json!({"bits": 8, "desc_act": true, "sym": false}))),
            gptq(8, Some(128), true, true),
        ),
        (Some(section(json!({"checkpoint_format": "gptq_v2"}))), None, gptq(4, Some(128), false, false)),
        (Some(section(json!({"group_size": -1}))), None, gptq(4, None, false, true)),
        (Some(section(json!({"quant_method": "<absent>"}))), None, gptq(4, Some(128), false, true)),
    ];
    for (section, file, expected) in cases {
        let config = patched(llama(), json!({"quantization_config": section}));
        let mut files = vec![("config.json", &config)];
        files.extend(file.as_ref().map(|file| ("quantize_config.json", file)));
        let dir = folder(&files);
        for asked in [None, expected.method()] {
            let config = ModelConfig::from_dir(dir.path(), asked).unwrap();
            assert_eq!(config.quantization, expected, "{section:?} {file:?} {asked:?}");
        }
    }
    for (patch, expected) in [
        (json!({"bits": 3}), "`quantization_config.bits`: expected one of [4, 8], got 3"),
        (
            json!({"group_size": 100}),
            "`quantization_config.group_size`: expected -1 or a multiple of 32, got 100",
        ),
        (json!({"group_size": "<absent>"}), "`quantization_config.group_size`: missing; expected -1"),
        (json!({"checkpoint_format": "marlin"}), "expected \"gptq\" or \"gptq_v2\", got \"marlin\""),
        (json!({"is_marlin_format": true}), "`quantization_config.is_marlin_format`: true is not supported"),
    ] {
        let config = patched(llama(), json!({"quantization_config": section(patch)}));
        let error = error_of(&[("config.json", &config)], None);
        assert!(error.contains(expected), "expected {expected}\ngot {error}");
    }
    let config = patched(llama(), json!({"quantization_config": gptq_section()}));
    let file = file(json!({"desc_act": true}));
    let error = error_of(&[("config.json", &config), ("quantize_config.json", &file)], None);
    assert!(error.contains("quantize_config.json: `desc_act`: true contradicts"), "{error}");
}
