//! Which token ids end a generation, from the configuration files of a checkpoint folder.
//!
//! Called once by `Tokenizer::from_dir`.

use std::path::Path;

use serde_json::Value;

use super::Tokenizer;
use crate::text::TextError;
use crate::text::files::{file_error, read_json_if_present, token_content};

/// The union of what the files name, ascending. config.json counts only where generation_config.json
/// names no end, as in transformers.
///
/// `tokenizer_config` is tokenizer_config.json, or null.
pub fn read(dir: &Path, tokenizer_config: &Value, tokenizer: &Tokenizer) -> Result<Vec<u32>, TextError> {
    let path = dir.join("generation_config.json");
    let generation_config = read_json_if_present(&path)?.unwrap_or_default();
    let mut ids = eos_token_ids(&path, &generation_config)?;
    if ids.is_empty() {
        let path = dir.join("config.json");
        let config = read_json_if_present(&path)?.unwrap_or_default();
        ids = eos_token_ids(&path, &config)?;
    }
    let eos_token = tokenizer_config.get("eos_token").and_then(token_content);
    let mut names: Vec<&str> = eos_token.into_iter().collect();
    if tokenizer.is_tiktoken() {
        names.push("<|endoftext|>");
        // Base models of the original Qwen say `"chat_format": "raw"`.
        if generation_config.get("chat_format").is_none_or(|format| format == "chatml") {
            names.extend(["<|im_start|>", "<|im_end|>"]);
        }
    }
    ids.extend(names.iter().filter_map(|name| tokenizer.token_id(name)));
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// `eos_token_id`: absent, null, a number or a list of numbers.
fn eos_token_ids(path: &Path, config: &Value) -> Result<Vec<u32>, TextError> {
    let parse = |value: &Value| {
        value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            file_error(path, format!("eos_token_id: expected a token id or a list of them, got {value}"))
        })
    };
    match config.get("eos_token_id") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) => values.iter().map(parse).collect(),
        Some(value) => Ok(vec![parse(value)?]),
    }
}
