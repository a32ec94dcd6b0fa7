//! Checkpoints good and bad, made on the spot: what is read from them, or what the error must say.

use std::sync::Arc;

use half::f16;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::config::{AwqLayout, GptqFormat, Quantization};
use crate::error::LoadError;

mod files;
mod fuzz;
mod layers;
mod layouts;

/// Names and contents of a folder's files.
type Files<'a> = Vec<(&'a str, &'a [u8])>;
/// Name, type and shape.
type Spec<'a> = (&'a str, Dtype, &'a [usize]);

const AWQ: Quantization =
    Quantization::Awq { layout: AwqLayout::Gemm, group_size: 32, not_converted: Vec::new() };

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
    let path = dir.path().canonicalize().unwrap().join("model.safetensors"); // as smaps has it
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
