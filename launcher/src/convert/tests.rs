//! Conversion as a whole against files made by the Python reference, and against damaged files.
//! `testdata` is made by `integration-tests/oracle/gguf_goldens.py`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::dequantize::dequantize;
use super::gguf::TensorType;
use super::*;

const LLAMA: &[u8] = include_bytes!("testdata/llama.gguf");

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/convert/testdata").join(name)
}

fn args(gguf: &Path, out: &Path, format: Format) -> ConvertArgs {
    let group_size = if let Format::Awq { group_size } = format { group_size } else { 64 };
    ConvertArgs {
        gguf: gguf.into(),
        out: out.into(),
        awq_group_size: group_size,
        fp16: format == Format::Fp16,
    }
}

/// Converts `gguf`, given as bytes, inside a fresh folder; the folder must hold `out` afterwards exactly on success.
fn convert_bytes(gguf: &[u8], format: Format) -> Result<ConvertReport, ConvertError> {
    let folder = tempfile::tempdir().unwrap();
    let (from, out) = (folder.path().join("m.gguf"), folder.path().join("out"));
    fs::write(&from, gguf).unwrap();
    let result = run(&args(&from, &out, format));
    let n_entries = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!((n_entries, out.exists()), if result.is_ok() { (2, true) } else { (1, false) });
    result
}

/// File name to sha256 of each file in `folder`.
fn digests(folder: &Path) -> BTreeMap<String, String> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let hex =
        |path: &Path| Sha256::digest(fs::read(path).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
    files.map(|f| (f.file_name().into_string().unwrap(), hex(&f.path()))).collect()
}

fn expected_digests(folder: &str) -> BTreeMap<String, String> {
    let lines = fs::read_to_string(testdata("expected.txt")).unwrap();
    let fields = lines.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter(|f| f[1] == folder).map(|f| (f[2].to_owned(), f[0].to_owned())).collect()
}

#[test]
fn blocks_decode_bit_for_bit_as_the_reference() {
    for kind in TensorType::all() {
        let data = fs::read(testdata(&format!("{kind:?}.bin"))).unwrap();
        let n_blocks = data.len() / (kind.block_bytes() + 4 * kind.block_len());
        let (blocks, values) = data.split_at(n_blocks * kind.block_bytes());
        let mut got = vec![0.0; n_blocks * kind.block_len()];
        dequantize(kind, blocks, &mut got);
        let got: Vec<u8> = got.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert!(n_blocks == 4 && got == values, "{kind:?}");
    }
}

#[test]
fn folders_equal_the_references_byte_for_byte() {
    for model in ["llama", "qwen2"] {
        for (name, format) in [("fp16", Format::Fp16), ("awq", Format::Awq { group_size: 32 })] {
            let folder = tempfile::tempdir().unwrap();
            // An empty OUT is as good as none.
            let report = run(&args(&testdata(&format!("{model}.gguf")), folder.path(), format)).unwrap();
            assert_eq!(digests(folder.path()), expected_digests(&format!("{model}-{name}")));
            let written = fs::metadata(folder.path().join("model.safetensors")).unwrap().len();
            assert_eq!((report.n_bytes, report.n_quantized), (written, if name == "awq" { 14 } else { 0 }));
        }
    }
}

#[test]
fn version_2_reads_as_version_3() {
    let mut gguf = LLAMA.to_vec();
    gguf[4] = 2;
    assert!(convert_bytes(&gguf, Format::Fp16).is_ok());
}

/// `LLAMA` with the first occurrence of `from` replaced by `to`, of the same length.
fn patched(from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = LLAMA.windows(from.len()).position(|w| w == from).expect("pattern is there");
    patched_at(at, to)
}

fn patched_at(at: usize, to: &[u8]) -> Vec<u8> {
    let mut gguf = LLAMA.to_vec();
    gguf[at..at + to.len()].copy_from_slice(to);
    gguf
}

#[test]
fn damaged_and_unsupported_files_are_named() {
    let huge = u64::MAX.to_le_bytes();
    let last_norm = LLAMA.len() - 4;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"hello".to_vec(), "does not start with \"GGUF\""),
        (Vec::new(), "but the file has 0 bytes"),
        (LLAMA[..LLAMA.len() - 9].to_vec(), "is it truncated?"),
        (LLAMA[..900].to_vec(), "but the file has 900 bytes"),
        (patched_at(4, &[0, 0, 0, 3]), "big endian"),
        (patched_at(4, &[1]), "GGUF version 1; versions 2 and 3 are read"),
        (patched_at(8, &huge), "tensor table: 18446744073709551615 items"),
        (patched_at(16, &huge), "metadata pairs: 18446744073709551615 items"),
        (patched(b"llama", b"bloom"), "architecture \"bloom\"; supported are llama, qwen2"),
        (patched(b"smollm", b"falcon"), "pre-tokenizer \"falcon\"; supported are gpt-2, smollm, qwen2"),
        (patched(b"gpt2", b"bert"), "tokenizer model \"bert\"; only byte-level BPE"),
        (patched(b"llama.block_count", b"llama.block_kount"), "key \"llama.block_count\" is missing"),
        (patched(b"blk.1.ffn_up.weight", b"blk.1.ffn_xp.weight"), "\"blk.1.ffn_up.weight\" is missing"),
        (patched(b"output_norm.weight", b"blk.0.xxxxx.weight"), "\"output_norm.weight\" is missing"),
        (patched(b"blk.1.attn_norm", b"blk.0.attn_norm"), "\"blk.0.attn_norm.weight\" occurs twice"),
        (
            patched_at(last_norm, &f32::NAN.to_le_bytes()),
            "\"output_norm.weight\": the weight NaN does not fit",
        ),
        (patched_at(last_norm, &65505f32.to_le_bytes()), "the weight 65505 does not fit float16"),
    ];
    for (gguf, expected) in cases {
        let message = convert_bytes(&gguf, Format::Fp16).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("m.gguf"), "{expected:?} not in {message:?}");
    }
}

#[test]
fn layers_that_a_group_does_not_divide_are_named() {
    let message = convert_bytes(LLAMA, Format::Awq { group_size: 64 }).unwrap_err().to_string();
    assert!(message.contains("ffn_down.weight\": the group size 64 does not divide its 96"), "{message}");
    let message = convert_bytes(LLAMA, Format::Awq { group_size: 48 }).unwrap_err().to_string();
    assert!(message.contains("--awq-group-size: expected one of [32, 64, 128], got 48"), "{message}");
}

#[test]
fn a_folder_with_content_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mine"), "x").unwrap();
    let result = run(&args(&testdata("llama.gguf"), folder.path(), Format::Fp16));
    assert!(result.unwrap_err().to_string().contains("is not empty"));
    assert_eq!(digests(folder.path()).into_keys().collect::<Vec<_>>(), ["mine"]);
}

/// Bytes of `LLAMA` before its tensor data: damage there matters most.
const HEADER: usize = 2912;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn mutated_files_convert_or_fail_cleanly(
        mutations in prop::collection::vec((0..HEADER, any::<u8>()), 1..4),
        len in prop_oneof![Just(LLAMA.len()), 0..LLAMA.len()],
    ) {
        let mut gguf = LLAMA.to_vec();
        for (at, byte) in mutations {
            gguf[at] = byte;
        }
        let _ = convert_bytes(&gguf[..len], Format::Awq { group_size: 32 });
    }

    #[test]
    fn headers_of_random_bytes_fail_cleanly(bytes in prop::collection::vec(any::<u8>(), 0..256), counts in 0..4u64) {
        let mut gguf = b"GGUF\x03\0\0\0".to_vec();
        gguf.extend([counts.to_le_bytes(), counts.to_le_bytes()].concat());
        gguf.extend(bytes);
        prop_assert!(convert_bytes(&gguf, Format::Fp16).is_err());
    }
}
