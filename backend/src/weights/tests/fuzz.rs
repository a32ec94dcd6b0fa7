//! Random damage to everything that a checkpoint's folder says of itself: headers, whole files, config.json, the index.
//!
//! Mutations of small sound files by a seeded generator: the same run every time. A short one by default; `make fuzz`
//! sets QUERN_FUZZ, how many executions each target gets.

use super::super::header;
use super::*;
use crate::config::ModelConfig;

/// Executions of one target.
fn executions() -> u64 {
    std::env::var("QUERN_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// What numbers, names and nesting are replaced by.
const DICTIONARY: &[&str] = &[
    "0",
    "-1",
    "1",
    "8",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "4294967296",
    "1e400",
    "1.5",
    "null",
    "true",
    "[]",
    "{}",
    "[[[[",
    "\"\"",
    "\"F16\"",
    "\"I64\"",
    "\"F8_E4M3\"",
    "\"F4\"",
    "\"__metadata__\"",
    "\"data_offsets\":[0,0]",
    "\"shape\":[]",
    "\"shape\":[0]",
    ",",
    "\\u0000",
    "\"../x.safetensors\"",
    "\"/etc/passwd.safetensors\"",
    "\"linear\"",
    "\"yarn\"",
    "\"llama3\"",
    "\"dynamic\"",
]; // fmt: skip

/// A few changes: bytes flipped, cut, doubled, pieces of the dictionary put in or over a number.
fn mutate(random: &mut Random, sound: &[u8]) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len() + 1);
        let piece = DICTIONARY[random.below(DICTIONARY.len())].bytes();
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..(at + random.below(8)).min(sound.len()).max(at).min(bytes.len()))),
            3 => drop(bytes.splice(at..at, piece)),
            _ => {
                let digit = bytes[at..].iter().position(u8::is_ascii_digit).map_or(bytes.len(), |i| at + i);
                let end = bytes[digit..]
                    .iter()
                    .position(|b| !b.is_ascii_digit())
                    .map_or(bytes.len(), |i| digit + i);
                drop(bytes.splice(digit..end, piece));
            }
        }
    }
    bytes
}

/// A file with this header, its length told rightly, before the data of a sound one.
fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

fn sound_file() -> (Vec<u8>, Vec<u8>) {
    let file = safetensors(&awq_tensors());
    let length = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    (file[8..8 + length].to_vec(), file[8 + length..].to_vec())
}

/// Whatever the header says: an error, or tensors that lie in the file one after the other.
#[test]
fn headers() {
    let (header, data) = sound_file();
    let mut random = Random(1);
    let mut n_read = 0;
    for i in 0..executions() {
        let file = match i % 3 {
            0 => mutate(&mut random, &with_header(&header, &data)),
            _ => with_header(&mutate(&mut random, &header), &data),
        };
        match header::parse(&file) {
            Ok(entries) => {
                n_read += 1;
                let mut ranges: Vec<_> = entries.iter().map(|(_, entry)| entry.range.clone()).collect();
                ranges.sort_by_key(|range| (range.start, range.end));
                assert!(ranges.iter().all(|range| range.start <= range.end && range.end <= file.len()));
                assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "tensors overlap");
                for (name, entry) in &entries {
                    let bits = entry.shape.iter().product::<usize>() * entry.dtype.bitsize();
                    assert_eq!(entry.range.len(), bits / 8, "{name}");
                }
            }
            Err(error) => assert!(error.len() < 10_000, "{} bytes of error", error.len()),
        }
    }
    assert!(n_read > executions() / 1000, "the mutations leave enough that can be read: {n_read}");
}

/// A whole folder: opened or refused, and each layer read or refused.
#[test]
fn files() {
    let (header, data) = sound_file();
    let dir = folder(&[]);
    let path = dir.path().join("model.safetensors");
    let mut random = Random(2);
    let mut n_layers = 0;
    for i in 0..executions() / 20 {
        let file = match i % 2 {
            0 => with_header(&header, &mutate(&mut random, &data)),
            _ => with_header(&mutate(&mut random, &header), &data),
        };
        // A new file each time: one that is mapped must not shrink.
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, &file).unwrap();
        let Ok(checkpoint) = Checkpoint::open(dir.path()) else { continue };
        for (prefix, k, n) in [("up", 64, 24), ("down", 64, 24), ("lm_head", 64, 16)] {
            for quantization in [&AWQ, &Quantization::None] {
                let Ok(layer) = checkpoint.linear(prefix, k, n, quantization) else { continue };
                if let Ok(weight) = layer.weight_to_f32() {
                    assert_eq!(weight.len(), k * n);
                    n_layers += 1;
                }
            }
        }
    }
    assert!(n_layers > executions() / 200, "the mutations leave enough that can be read: {n_layers}");
}

/// config.json and the index: a configuration or an error; never a name outside the folder.
#[test]
fn descriptions() {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 88, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "sliding_window": 32, "layer_types": ["full_attention"],
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 32},
        "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": true},
    });
    let index = json!({"metadata": {}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}});
    let sound = [config.to_string(), index.to_string()];
    let part = safetensors(&[("a", Dtype::F32, &[4])]);
    let dir =
        folder(&[("1.safetensors", &part), ("2.safetensors", &safetensors(&[("b", Dtype::F32, &[4])]))]);
    let mut random = Random(3);
    let mut n_read = [0, 0];
    for _ in 0..executions() / 20 {
        std::fs::write(dir.path().join("config.json"), mutate(&mut random, sound[0].as_bytes())).unwrap();
        let index = mutate(&mut random, sound[1].as_bytes());
        std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        if let Ok(config) = ModelConfig::from_dir(dir.path(), None) {
            n_read[0] += 1;
            assert!(
                config.rope.scaling.factors.iter().all(|factor| (0.0..=1.0).contains(factor)),
                "{config:?}"
            );
            assert!(config.rope.scaling.attention.is_finite() && config.max_positions > 0);
        }
        n_read[1] += u64::from(Checkpoint::open(dir.path()).is_ok());
    }
    assert!(n_read.iter().all(|&n| n > executions() / 1000), "{n_read:?} could be read");
}

/// Headers that would become far larger than they are.
#[test]
fn bombs() {
    let entry = r#""a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}"#;
    let ones = "1,".repeat(4 << 20);
    let cases = [
        ("nested lists", format!("{{\"__metadata__\":{}", "[".repeat(8 << 20))),
        ("nested objects", "{\"a\":".repeat(2 << 20)),
        (
            "a shape of many ones",
            format!(r#"{{"a":{{"dtype":"F32","shape":[{ones}4],"data_offsets":[0,15]}}}}"#),
        ),
        ("a long name", format!(r#"{{"{}":1,{entry}}}"#, "x".repeat(8 << 20))),
        (
            "more than any model's",
            format!("{{{entry}{}}}", " ".repeat(text_generation_limits::files::MAX_HEADER_BYTES)),
        ),
    ];
    for (what, header) in cases {
        let error = header::parse(&with_header(header.as_bytes(), &[0; 16])).expect_err(what);
        let shown: String = error.chars().take(100).collect();
        assert!(error.contains("header"), "{what}: {shown}");
    }
}
