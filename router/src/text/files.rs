//! Reads the small files of a checkpoint folder for the tokenizers and the chat template.
//!
//! Sizes are checked before anything is read, and every error names the file. Absent optional files
//! are `None`, never an error.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use text_generation_limits::files::{MAX_JSON_VALUES, check_json_values};

use super::TextError;

/// Real vocabularies stay below 35 MB (multilingual 256k-token ones); a larger file is no vocabulary.
pub const MAX_VOCABULARY_BYTES: u64 = 64 << 20;
/// A vocabulary of 256k tokens with its merges has 2.4 million.
pub const MAX_VOCABULARY_VALUES: usize = 4 << 20;
/// Real configuration files stay below 1 MB.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// An error about `path`.
pub fn file_error(path: &Path, detail: impl Into<String>) -> TextError {
    TextError::File { path: path.display().to_string(), detail: detail.into() }
}

/// The whole file, refused when it is not a plain file or larger than `max` bytes.
pub fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, TextError> {
    let io_error = |e: std::io::Error| file_error(path, format!("cannot be read: {e}"));
    let file = File::open(path).map_err(io_error)?;
    let metadata = file.metadata().map_err(io_error)?;
    if !metadata.is_file() {
        return Err(file_error(path, "expected a plain file"));
    }
    let too_large = |len: u64| file_error(path, format!("is {len} bytes long, expected at most {max}"));
    if metadata.len() > max {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::new();
    // The length is taken again while reading: the file may have grown since.
    file.take(max + 1).read_to_end(&mut bytes).map_err(io_error)?;
    if bytes.len() as u64 > max {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

/// A text file that must exist.
pub fn read_text(path: &Path) -> Result<String, TextError> {
    String::from_utf8(read_bounded(path, MAX_CONFIG_BYTES)?)
        .map_err(|e| file_error(path, format!("is not UTF-8: {e}")))
}

/// A JSON object that must exist.
pub fn read_json(path: &Path) -> Result<Value, TextError> {
    let bytes = read_bounded(path, MAX_CONFIG_BYTES)?;
    check_json_values(&bytes, MAX_JSON_VALUES).map_err(|e| file_error(path, e.to_string()))?;
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|e| file_error(path, format!("is not valid JSON: {e}")))?;
    if !value.is_object() {
        return Err(file_error(path, "expected a JSON object"));
    }
    Ok(value)
}

/// A JSON object, or `None` where the file does not exist.
pub fn read_json_if_present(path: &Path) -> Result<Option<Value>, TextError> {
    if path.exists() { read_json(path).map(Some) } else { Ok(None) }
}

/// The text of a special token as configuration files write it: a string or `{"content": string}`.
pub fn token_content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_files_are_named_in_clear_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let check = |content: &[u8], expected: &str| {
            std::fs::write(&path, content).unwrap();
            let message = read_json(&path).unwrap_err().to_string();
            assert!(message.contains("config.json") && message.contains(expected), "{message}");
        };
        check(b"", "not valid JSON");
        check(b"{\"a\": ", "not valid JSON");
        check(b"[1]", "JSON object");
        check(&[0xff, 0xfe], "not valid JSON");
        check(&[b'['; 100_000], "not valid JSON");
        assert!(read_text(dir.path()).unwrap_err().to_string().contains("plain file"));
        assert!(read_json(&dir.path().join("none.json")).unwrap_err().to_string().contains("cannot be read"));
        assert!(read_json_if_present(&dir.path().join("none.json")).unwrap().is_none());
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vocab");
        std::fs::write(&path, [b'x'; 11]).unwrap();
        assert_eq!(read_bounded(&path, 11).unwrap().len(), 11);
        let message = read_bounded(&path, 10).unwrap_err().to_string();
        assert!(message.contains("11 bytes") && message.contains("at most 10"), "{message}");
    }
}
