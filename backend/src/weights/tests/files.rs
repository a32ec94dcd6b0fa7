//! Files and folders of weights: every layout that is read, every lie that is refused.

use super::*;

#[test]
fn headers_that_lie_are_refused() {
    let tensor = |dtype: &str, shape: Value, offsets: Value| json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
    let one = |shape: Value, offsets: Value| raw(&json!({"a": tensor("F32", shape, offsets)}), 16);
    let two = |second: Value| {
        raw(
            &json!({"a": tensor("F32", json!([2]), json!([0, 8])), "b": tensor("F32", json!([2]), second)}),
            16,
        )
    };
    let eighth = (1u64 << 61) - 1;
    let wrapping: serde_json::Map<String, Value> = (0..8)
        .map(|i| (i.to_string(), tensor("U8", json!([eighth]), json!([i * eighth, (i + 1) * eighth]))))
        .collect();
    let good = safetensors(&[("a", Dtype::F32, &[4])]);
    let mut long_header = u64::MAX.to_le_bytes().to_vec();
    long_header.extend(b"{}");
    let mut not_utf8 = good.clone();
    not_utf8[9] = 0xff;
    let cases = [
        (vec![], "it has 0 bytes in all; truncated or damaged: fetch it again"),
        (vec![1; 7], "it has 7 bytes in all"),
        (
            long_header,
            "the header claims 18446744073709551615 bytes, but 2 follow it and 33554432 are allowed",
        ),
        (good[..20].to_vec(), "bytes, but 12 follow it"),
        (
            good[..good.len() - 1].to_vec(),
            "the header describes 16 bytes of tensors, but the file has 15; truncated",
        ),
        (
            [good.clone(), vec![0; 5]].concat(),
            "the header describes 16 bytes of tensors, but the file has 21",
        ),
        (not_utf8, "bad header: "),
        (raw(&json!([]), 0), "bad header: "),
        (raw(&json!({"a": 1}), 0), "bad header: "),
        (
            raw(&json!({"a": tensor("Q4", json!([4]), json!([0, 16]))}), 16),
            "bad header: unknown variant `Q4`",
        ),
        (
            one(json!([5]), json!([0, 16])),
            "bad header: tensor `a` (F32 [5]) needs 20 bytes, but its offsets are 0..16",
        ),
        (one(json!([4]), json!([16, 0])), "offsets are 16..0"),
        (
            one(json!([1u64 << 63, 4]), json!([0, 16])),
            "bad header: tensor `a` has an impossible shape [9223372036854775808, 4]",
        ),
        (one(json!([-4]), json!([0, 16])), "bad header: invalid value: integer `-4`"),
        (
            one(json!([100]), json!([0, 400])),
            "the header describes 400 bytes of tensors, but the file has 16",
        ),
        (one(json!([3]), json!([4, 16])), "bad header: invalid offset for tensor `a`"),
        (two(json!([4, 12])), "bad header: invalid offset for tensor `b`"),
        (two(json!([12, 20])), "bad header: invalid offset for tensor `b`"),
        (raw(&Value::Object(wrapping), 16), "the header describes 18446744073709551608 bytes of tensors"),
        (raw(&json!({"x".repeat(3000): tensor("F32", json!([5]), json!([0, 16]))}), 16), "xxx..."),
    ];
    for (bytes, expected) in cases {
        let error = open_error(&[("model.safetensors", &bytes)]);
        assert!(error.starts_with("DIR/model.safetensors: "), "{error}");
        assert!(error.contains(expected), "expected {expected}\ngot {error}");
        assert!(error.len() < 700, "{} bytes of error", error.len());
    }
}

#[test]
fn folders_without_usable_weights_are_refused() {
    let (a, b) = (safetensors(&[("a", Dtype::F32, &[4])]), safetensors(&[("b", Dtype::F32, &[4])]));
    let index = |map: Value| json!({"metadata": {}, "weight_map": map}).to_string().into_bytes();
    let name = "model.safetensors.index.json";
    let missing = index(json!({"a": "1.safetensors", "b": "2.safetensors"}));
    let outside = [
        "../a.safetensors",
        "/etc/a.safetensors",
        "x/a.safetensors",
        "a.bin",
        "..",
        "./a.safetensors",
        "a.safetensors/",
    ];
    let cases: Vec<(Files, &str)> = vec![
        (
            vec![],
            "DIR: no weights here; expected model.safetensors, model.safetensors.index.json with its shards",
        ),
        (
            vec![("config.json", b"{}"), ("pytorch_model.bin", b"x")],
            "DIR: no *.safetensors here, only pytorch_model.bin: pickle files can run code and are never opened; use a safetensors version",
        ),
        (vec![("model.pt", b"x")], "only model.pt: pickle"),
        (
            vec![("model.gguf", b"x")],
            "only model.gguf; convert it with `text-generation-launcher convert model.gguf OUT`",
        ),
        (
            vec![("1.safetensors", &a), (name, &missing)],
            "index.json: shard 2.safetensors is missing (the index names 2 shards)",
        ),
        (
            vec![("1.safetensors", &a), ("2.safetensors", &a), (name, &missing)],
            "DIR/2.safetensors: tensor `a` is also in DIR/1.safetensors; expected it once",
        ),
        (
            vec![("1.safetensors", &b), ("2.safetensors", &a), (name, &missing)],
            "DIR/1.safetensors: the index says that tensor `a` is here, but it is not",
        ),
        (
            vec![("x.safetensors", &a), ("y.safetensors", &a)],
            "DIR/y.safetensors: tensor `a` is also in DIR/x.safetensors",
        ),
        (vec![(name, b"{}")], "index.json: `weight_map`: missing"),
        (
            vec![(name, b"{\"weight_map\": {}}")],
            "`weight_map`: expected at least one tensor, got an empty object",
        ),
        (vec![(name, b"not json")], "expected a JSON object, got invalid JSON"),
    ];
    for (files, expected) in cases {
        let error = open_error(&files);
        assert!(error.contains(expected), "expected {expected}\ngot {error}");
    }
    for path in outside {
        let error = open_error(&[(name, &index(json!({"a": path})))]);
        let expected =
            format!("`weight_map.a`: expected a *.safetensors file name in this folder, got \"{path}\"");
        assert!(error.contains(&expected), "{error}");
    }
    let dir = folder(&[]);
    std::fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    let error = Checkpoint::open(dir.path()).err().expect("an error").to_string();
    assert!(error.ends_with("model.safetensors: expected a regular file"), "{error}");
    let error = Checkpoint::open(&dir.path().join("nowhere")).err().expect("an error").to_string();
    assert!(error.contains("no model folder here"), "{error}");
}

#[test]
fn every_layout_of_files_is_read() {
    let (a, b) = (safetensors(&[("a", Dtype::F32, &[4])]), safetensors(&[("b", Dtype::F32, &[2, 1])]));
    let both = safetensors(&[("a", Dtype::F32, &[4]), ("b", Dtype::F32, &[2, 1])]);
    let index = json!({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).to_string();
    let layouts: [&[(&str, &[u8])]; 3] = [
        &[("model.safetensors", &both), ("other.safetensors", b"not opened")],
        &[
            ("1.safetensors", &a),
            ("2.safetensors", &b),
            ("3.safetensors", b"no"),
            ("model.safetensors.index.json", index.as_bytes()),
        ],
        &[("any.safetensors", &a), ("name.safetensors", &b), ("readme.md", b"")],
    ];
    for files in layouts {
        let checkpoint = Checkpoint::open(folder(files).path()).unwrap();
        assert_eq!(checkpoint.total_bytes(), 24);
        assert!(checkpoint.has("a") && checkpoint.has("b") && !checkpoint.has("c"));
        let bytes: Vec<u8> = (0..16).collect();
        assert_eq!(checkpoint.tensor("a", &[4]).unwrap().bytes(), bytes);
        assert_eq!(checkpoint.tensor("b", &[2, 1]).unwrap().bytes(), &bytes[..8]);
    }
}

#[test]
fn tensors_are_checked_when_asked_for() {
    let dir = folder(&[("model.safetensors", &safetensors(&awq_tensors()))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let cases: [(&str, &[usize], &str); 5] = [
        ("norm.weight", &[65], "tensor `norm.weight`: expected F16 or BF16 or F32 [65], got F32 [64] in "),
        ("norm.weight", &[64, 1], "[64, 1], got F32 [64]"),
        ("ids", &[2], "expected F16 or BF16 or F32 [2], got I64 [2]"),
        ("lost.weight", &[2], "tensor `lost.weight`: not among the 8 tensors of "),
        (
            "up.weight",
            &[24, 64],
            "; `up.qweight` is there: the layer is quantized, but the model's configuration says it is not",
        ),
    ];
    for (name, shape, expected) in cases {
        let error = checkpoint.tensor(name, shape).unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected}\ngot {error}");
    }
}
