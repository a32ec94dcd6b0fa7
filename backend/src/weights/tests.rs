//! Checkpoints good and bad, made on the spot: what is read from them, or what the error must say.

use std::sync::Arc;

use half::f16;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::config::Quantization;
use crate::error::LoadError;

/// Names and contents of a folder's files.
type Files<'a> = Vec<(&'a str, &'a [u8])>;
/// Name, type and shape.
type Spec<'a> = (&'a str, Dtype, &'a [usize]);

const AWQ: Quantization = Quantization::Awq { group_size: 32, not_converted: Vec::new() };

/// A safetensors file with these tensors; byte i of a tensor is `i % 48`, so that every f16 is finite.
fn safetensors(tensors: &[Spec]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, dtype, shape)| {
            let n_bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (0..n_bytes).map(|i| (i % 48) as u8).collect()
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, dtype, shape), bytes)| {
        (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap())
    });
    serialize(views, None).unwrap()
}

/// A file whose header is `header`, true or not, before `n_data` bytes.
fn raw(header: &Value, n_data: usize) -> Vec<u8> {
    let header = header.to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + n_data, 0);
    file
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn open_error(files: &[(&str, &[u8])]) -> String {
    let dir = folder(files);
    let error = Checkpoint::open(dir.path()).err().expect("an error");
    error.to_string().replace(&dir.path().display().to_string(), "DIR")
}

fn awq_tensors() -> Vec<Spec<'static>> {
    vec![
        ("up.qweight", Dtype::I32, &[64, 3]),
        ("up.qzeros", Dtype::I32, &[2, 3]),
        ("up.scales", Dtype::F16, &[2, 24]),
        ("up.bias", Dtype::F16, &[24]),
        ("down.weight", Dtype::F16, &[24, 64]),
        ("lm_head.weight", Dtype::BF16, &[16, 64]),
        ("norm.weight", Dtype::F32, &[64]),
        ("ids", Dtype::I64, &[2]),
    ]
}

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
            "the header claims 18446744073709551615 bytes, but 2 follow it and 100000000 are allowed",
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

#[test]
fn linear_layers_are_plain_or_awq() {
    let dir = folder(&[("model.safetensors", &safetensors(&awq_tensors()))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let not_down = Quantization::Awq { group_size: 32, not_converted: vec!["down".to_owned()] };
    let cases = [
        ("up", 64, 24, &AWQ, true, true),
        ("up", 64, 24, &not_down, true, true),
        ("down", 64, 24, &not_down, false, false),
        ("down", 64, 24, &Quantization::None, false, false),
        ("lm_head", 64, 16, &AWQ, false, false),
    ];
    for (prefix, k, n, quantization, is_awq, has_bias) in cases {
        let layer = checkpoint.linear(prefix, k, n, quantization).unwrap();
        assert_eq!(matches!(layer.weight, LinearWeight::Awq { group_size: 32, .. }), is_awq, "{layer:?}");
        assert_eq!(layer.bias.is_some(), has_bias, "{layer:?}");
        assert_eq!(layer.weight_to_f32().unwrap().len(), k * n);
        assert_eq!((layer.name.as_str(), layer.in_features, layer.out_features), (prefix, k, n));
    }
}

#[test]
fn wrong_linear_layers_are_refused() {
    let groups_of = |group_size| Quantization::Awq { group_size, not_converted: Vec::new() };
    let not_up = Quantization::Awq { group_size: 32, not_converted: vec!["up".to_owned()] };
    let f32_scales: Spec = ("up.scales", Dtype::F32, &[2, 24]);
    let float_weight: Spec = ("up.qweight", Dtype::F16, &[64, 3]);
    let gemv: Spec = ("up.qweight", Dtype::I32, &[24, 8]);
    let long_bias: Spec = ("up.bias", Dtype::F16, &[25]);
    let cases = [
        (
            None,
            "up",
            (64, 24),
            groups_of(64),
            "tensor `up.qzeros`: expected I32 [1, 3], got I32 [2, 3] in DIR/model.safetensors; the model's configuration says AWQ \"gemm\" in groups of 64",
        ),
        (
            None,
            "up",
            (64, 24),
            groups_of(128),
            "tensor `up.qweight`: expected input features in whole groups of 128 and output features in multiples of 8, got 64 and 24",
        ),
        (None, "up", (64, 20), AWQ, "multiples of 8, got 64 and 20"),
        (None, "up", (32, 24), AWQ, "tensor `up.qweight`: expected I32 [32, 3], got I32 [64, 3]"),
        (
            None,
            "down",
            (64, 24),
            AWQ,
            "tensor `down.weight`: the layer is stored plain in an AWQ checkpoint; expected `down.qweight`, or the layer named in `modules_to_not_convert`",
        ),
        (None, "gate", (64, 24), AWQ, "tensor `gate.qweight`: not among the 8 tensors"),
        (None, "up", (64, 24), not_up, "tensor `up.weight`: not among the 8 tensors"),
        (
            None,
            "down",
            (64, 16),
            Quantization::None,
            "tensor `down.weight`: expected F16 or BF16 or F32 [16, 64], got F16 [24, 64]",
        ),
        (Some(f32_scales), "up", (64, 24), AWQ, "tensor `up.scales`: expected F16 [2, 24], got F32 [2, 24]"),
        (
            Some(float_weight),
            "up",
            (64, 24),
            AWQ,
            "tensor `up.qweight`: expected I32 [64, 3], got F16 [64, 3]",
        ),
        (Some(gemv), "up", (64, 24), AWQ, "expected I32 [64, 3], got I32 [24, 8]"),
        (
            Some(long_bias),
            "up",
            (64, 24),
            AWQ,
            "tensor `up.bias`: expected F16 or BF16 or F32 [24], got F16 [25]",
        ),
    ];
    for (changed, prefix, (k, n), quantization, expected) in cases {
        let mut tensors = awq_tensors();
        for tensor in &mut tensors {
            *tensor = changed.filter(|changed| changed.0 == tensor.0).unwrap_or(*tensor);
        }
        let dir = folder(&[("model.safetensors", &safetensors(&tensors))]);
        let error = Checkpoint::open(dir.path()).unwrap().linear(prefix, k, n, &quantization).unwrap_err();
        let error = error.to_string().replace(&dir.path().display().to_string(), "DIR");
        assert!(error.contains(expected), "expected {expected}\ngot {error}");
    }
}

fn owned<T: bytemuck::Pod>(name: &str, dtype: DType, shape: &[usize], elements: &[T]) -> Tensor {
    let bytes = bytemuck::cast_slice::<T, u8>(elements).to_vec();
    let range = 0..bytes.len();
    Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), data: Arc::new(bytes), range }
}

#[test]
fn elements_become_float32() {
    let values = [1.0f32, -0.5, 65504.0];
    let halves = values.map(f16::from_f32);
    let brains = [1.0f32, -0.5, 65536.0].map(half::bf16::from_f32);
    assert_eq!(owned("a", DType::F32, &[3], &values).to_f32(), values);
    assert_eq!(owned("a", DType::F16, &[3], &halves).to_f32(), values);
    assert_eq!(owned("a", DType::BF16, &[3], &brains).to_f32(), [1.0, -0.5, 65536.0]);
    assert_eq!(owned("a", DType::I32, &[2], &[-7i32, 9]).to_f32(), [-7.0, 9.0]);
    let bytes: Vec<u8> = [&[0u8][..], bytemuck::cast_slice(&values)].concat();
    let unaligned = Tensor { range: 1..13, data: Arc::new(bytes), ..owned("a", DType::F32, &[3], &values) };
    assert_eq!(unaligned.to_f32(), values);
}

/// Resident bytes of the mappings of `path` in this process.
fn resident(path: &std::path::Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps.lines();
    let mut kib = 0;
    while lines.by_ref().any(|line| line.ends_with(path.to_str().unwrap())) {
        let rss = lines.by_ref().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        kib += rss.trim().trim_end_matches(" kB").parse::<usize>().unwrap();
    }
    kib << 10
}

#[test]
fn released_pages_leave_memory_and_come_back() {
    let dir = folder(&[("model.safetensors", &safetensors(&[("a", Dtype::F32, &[1 << 20])]))]);
    let path = dir.path().join("model.safetensors");
    let tensor = Checkpoint::open(dir.path()).unwrap().tensor("a", &[1 << 20]).unwrap();
    let before = tensor.to_f32();
    assert!(resident(&path) >= 4 << 20, "{}", resident(&path));
    tensor.release();
    assert!(resident(&path) < 1 << 20, "{}", resident(&path));
    assert_eq!(tensor.to_f32(), before);
}

#[test]
fn awq_nibbles_are_interleaved() {
    assert_eq!(awq::pack([0, 1, 2, 3, 4, 5, 6, 7]), 0x7531_6420);
    assert_eq!(awq::unpack(0x7531_6420), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn scales_must_be_finite() {
    for bad in [f16::INFINITY, f16::NEG_INFINITY, f16::NAN] {
        let scales = owned("up.scales", DType::F16, &[1, 8], &[f16::ONE, bad]);
        let error = awq::check_scales(&scales).unwrap_err().to_string();
        assert!(
            error.contains("tensor `up.scales`: expected finite scales, got")
                && error.contains("at element 1"),
            "{error}"
        );
        let words = owned("up.qweight", DType::I32, &[32, 1], &[0u32; 32]);
        assert!(matches!(awq::dequantize(&words, &words, &scales, 32), Err(LoadError::Tensor { .. })));
    }
    awq::check_scales(&owned("s", DType::F16, &[2], &[f16::MAX, f16::ZERO])).unwrap();
}

proptest! {
    #[test]
    fn awq_words_round_trip(word: u32) {
        let columns = awq::unpack(word);
        prop_assert!(columns.iter().all(|&column| column < 16));
        prop_assert_eq!(awq::pack(columns), word);
    }

    /// Packs random q, z and s and expects `(q - z) * s` at `[n, k]`.
    #[test]
    fn awq_dequantizes(q in proptest::collection::vec(0u8..16, 64 * 16), z in proptest::collection::vec(0u8..16, 2 * 16)) {
        let (k, n, group) = (64, 16, 32);
        let words = |values: &[u8]| -> Vec<u32> {
            values.chunks_exact(8).map(|columns| awq::pack(columns.try_into().unwrap())).collect()
        };
        let scales: Vec<f16> = (0..2 * n).map(|i| f16::from_f32(0.25 + i as f32)).collect();
        let weight = awq::dequantize(
            &owned("q", DType::I32, &[k, n / 8], &words(&q)),
            &owned("z", DType::I32, &[2, n / 8], &words(&z)),
            &owned("s", DType::F16, &[2, n], &scales),
            group,
        ).unwrap();
        for (row, column) in (0..k).flat_map(|row| (0..n).map(move |column| (row, column))) {
            let g = row / group * n + column;
            let expected = (i32::from(q[row * n + column]) - i32::from(z[g])) as f32 * scales[g].to_f32();
            prop_assert_eq!(weight[column * k + row], expected);
        }
    }

    #[test]
    fn random_files_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(header::parse(&bytes).is_err());
    }

    /// A sound file with a few changed bytes and another end: an error, or tensors inside the file.
    #[test]
    fn damaged_files_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in 0usize..40,
    ) {
        let mut bytes = safetensors(&awq_tensors());
        for (at, byte) in changes {
            // Half of the changes hit the header.
            let at = at.index(2 * 700).min(bytes.len() - 1);
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut.saturating_sub(20));
        for (_, entry) in header::parse(&bytes).unwrap_or_default() {
            let n_bytes = entry.shape.iter().product::<usize>() * entry.dtype.bitsize() / 8;
            prop_assert_eq!(bytes.get(entry.range.clone()).map(<[u8]>::len), Some(n_bytes));
        }
    }
}
