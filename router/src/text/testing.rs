//! Small vocabularies made on the spot for the tests of this folder: the three kinds that models use.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use serde_json::{Value, json};

use super::{ChatMessage, Tokenizer};

pub fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage::new(role, content)
}

/// A folder with these files, read by `read`.
pub fn with_files<T>(files: &[(&str, &str)], read: impl Fn(&Path) -> T) -> T {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    read(dir.path())
}

/// `qwen.tiktoken`: the 256 bytes in order, then a few merges, two of them ending inside a character.
pub fn tiktoken_file() -> String {
    let merged: [&[u8]; 10] =
        [b"he", b"ll", b"llo", b"hello", b" w", b"or", b" wor", b"ld", "é".as_bytes(), &[0xe4, 0xbd]];
    let tokens = (0..=u8::MAX).map(|b| vec![b]).chain(merged.into_iter().map(<[u8]>::to_vec));
    let line = |(rank, token): (usize, Vec<u8>)| {
        format!("{} {rank}\n", base64::engine::general_purpose::STANDARD.encode(token))
    };
    tokens.enumerate().map(line).collect()
}

/// Ids of `<|endoftext|>` and the other specials follow its 266 ranks.
pub fn tiktoken() -> Arc<Tokenizer> {
    static TOKENIZER: LazyLock<Arc<Tokenizer>> =
        LazyLock::new(|| Arc::new(load(&[("qwen.tiktoken", &tiktoken_file())])));
    Arc::clone(&TOKENIZER)
}

/// GPT-2's letters for the bytes 0 to 255, in order.
fn byte_letters() -> Vec<char> {
    let is_own = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let letter = |b: u32| {
        let code = if is_own(b) { b } else { next };
        next += u32::from(!is_own(b));
        char::from_u32(code).unwrap()
    };
    (0..256).map(letter).collect()
}

fn added(id: u32, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "special": special, "single_word": false,
        "lstrip": false, "rstrip": false, "normalized": false})
}

/// A byte-level BPE like Qwen2's: bytes, a few merges, then `<|im_start|>` 260, `<|im_end|>` 261 and
/// the plain added token `<tool é>` 262.
pub fn byte_level_file() -> String {
    let letters = byte_letters().into_iter().map(String::from);
    let merged = ["he", "ll", "Ġw", "Ã©"].map(str::to_string);
    let vocab: serde_json::Map<String, Value> =
        letters.chain(merged).zip(0..).map(|(token, id): (_, u32)| (token, id.into())).collect();
    json!({
        "version": "1.0",
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": null,
        "added_tokens": [added(260, "<|im_start|>", true), added(261, "<|im_end|>", true), added(262, "<tool é>", false)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "byte_fallback": false,
            "merges": [["h", "e"], ["l", "l"], ["Ġ", "w"], ["Ã", "©"]]},
    })
    .to_string()
}

pub fn byte_level() -> Arc<Tokenizer> {
    static TOKENIZER: LazyLock<Arc<Tokenizer>> =
        LazyLock::new(|| Arc::new(load(&[("tokenizer.json", &byte_level_file())])));
    Arc::clone(&TOKENIZER)
}

/// A vocabulary like Llama 2's: `<unk>` 0, `<s>` 1, `</s>` 2, the bytes 3 to 258, then letters and merges.
pub fn metaspace_file() -> String {
    let fixed = ["<unk>", "<s>", "</s>"].map(str::to_string).into_iter();
    let bytes = (0..256).map(|b| format!("<0x{b:02X}>"));
    let letters = "▁abcdefghijklmnopqrstuvwxyz".chars().map(String::from);
    let merged = ["he", "ll", "▁w", "▁▁"].map(str::to_string);
    let vocab: serde_json::Map<String, Value> = fixed
        .chain(bytes)
        .chain(letters)
        .chain(merged)
        .zip(0..)
        .map(|(t, id): (_, u32)| (t, id.into()))
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": [["h", "e"], ["l", "l"], ["▁", "w"], ["▁", "▁"]]},
    })
    .to_string()
}

pub fn metaspace() -> Arc<Tokenizer> {
    static TOKENIZER: LazyLock<Arc<Tokenizer>> =
        LazyLock::new(|| Arc::new(load(&[("tokenizer.json", &metaspace_file())])));
    Arc::clone(&TOKENIZER)
}

fn load(files: &[(&str, &str)]) -> Tokenizer {
    with_files(files, |dir| Tokenizer::from_dir(dir).unwrap())
}
