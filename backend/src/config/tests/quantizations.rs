//! Where a checkpoint says how it is quantised, and what is refused.

use super::*;

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
