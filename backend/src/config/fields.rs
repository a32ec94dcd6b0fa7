//! Checked reading of a JSON object from a model folder. Callers: the parsers of `config` and the
//! index reader of `weights`. A value is never used before its type and range are checked, and every
//! error names the file, the key, what was expected and what was found. `null` counts as absent.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use text_generation_limits::files::{self, MAX_JSON_BYTES};

use crate::error::LoadError;

/// Longest message about a file's contents.
pub(crate) const MAX_DETAIL_CHARS: usize = 500;

/// One JSON object and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    path: PathBuf,
    /// `"quantization_config."` inside such a section, else empty.
    prefix: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Reads `path`, which must hold one JSON object.
    pub(crate) fn read(path: &Path) -> Result<Fields, LoadError> {
        let io = |source| LoadError::Io { path: path.to_path_buf(), source };
        let mut text = Vec::new();
        let file = File::open(path).map_err(io)?;
        file.take(MAX_JSON_BYTES as u64 + 1).read_to_end(&mut text).map_err(io)?;
        if text.len() > MAX_JSON_BYTES {
            let detail = format!("expected at most {MAX_JSON_BYTES} bytes of JSON, the file is larger");
            return Err(LoadError::Config { path: path.to_path_buf(), detail });
        }
        Fields::parse(path, &text)
    }

    /// Parses the bytes of a file called `path`.
    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Fields, LoadError> {
        let config = |detail| LoadError::Config { path: path.to_path_buf(), detail };
        files::check_json_values(text, files::MAX_JSON_VALUES).map_err(|error| config(error.to_string()))?;
        let detail = match serde_json::from_slice(text) {
            Ok(Value::Object(map)) => {
                return Ok(Fields { path: path.to_path_buf(), prefix: String::new(), map });
            }
            Ok(other) => format!("expected a JSON object, got {}", shown(&other)),
            Err(error) => format!("expected a JSON object, got invalid JSON: {error}"),
        };
        Err(config(detail))
    }

    /// The file's name without its folder, for messages.
    pub(crate) fn file_name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// An error about `key`.
    pub(crate) fn error(&self, key: &str, detail: impl std::fmt::Display) -> LoadError {
        LoadError::Config { path: self.path.clone(), detail: self.about(key, detail) }
    }

    /// A sound value that is not served: `key`'s file, then `detail`.
    pub(crate) fn unsupported(&self, key: &str, detail: impl std::fmt::Display) -> LoadError {
        LoadError::Unsupported(format!("{}: {}", self.path.display(), self.about(key, detail)))
    }

    fn about(&self, key: &str, detail: impl std::fmt::Display) -> String {
        clipped(format!("`{}{key}`: {detail}", self.prefix), MAX_DETAIL_CHARS)
    }

    fn wrong(&self, key: &str, expected: impl std::fmt::Display, got: &Value) -> LoadError {
        self.error(key, format_args!("expected {expected}, got {}", shown(got)))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is written at all, be it as `null`.
    pub(crate) fn has_key(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// A whole number in `1..=limit`, if present.
    pub(crate) fn optional_size(&self, key: &str, limit: usize) -> Result<Option<usize>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        match number.filter(|n| (1..=limit).contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(key, format_args!("a whole number from 1 to {limit}"), value)),
        }
    }

    /// A whole number in `1..=limit`, which must be there.
    pub(crate) fn size(&self, key: &str, limit: usize) -> Result<usize, LoadError> {
        self.optional_size(key, limit)?.ok_or_else(|| {
            self.error(key, format_args!("missing; expected a whole number from 1 to {limit}"))
        })
    }

    /// A number in `range` (so a finite one), or `default`.
    pub(crate) fn number_or(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<f64>,
        default: f64,
    ) -> Result<f64, LoadError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().filter(|n| range.contains(n)).ok_or_else(|| {
            self.wrong(key, format_args!("a number from {:e} to {:e}", range.start(), range.end()), value)
        })
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, "true or false", value))
    }

    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool, LoadError> {
        Ok(self.flag(key)?.unwrap_or(default))
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(key, "a string", value))
    }

    /// A list of strings, empty if absent.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<String>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let texts = value.as_array().and_then(|list| {
            list.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        texts.ok_or_else(|| self.wrong(key, "a list of strings", value))
    }

    /// An object inside this one.
    pub(crate) fn section(&self, key: &str) -> Result<Option<Fields>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Value::Object(map) = value else { return Err(self.wrong(key, "an object", value)) };
        let prefix = format!("{}{key}.", self.prefix);
        Ok(Some(Fields { path: self.path.clone(), prefix, map: map.clone() }))
    }

    /// The value under the one of two spellings that is there; both, if they agree.
    pub(crate) fn either<'a>(
        &'a self,
        keys: [&'static str; 2],
    ) -> Result<Option<(&'static str, &'a Value)>, LoadError> {
        match (self.get(keys[0]), self.get(keys[1])) {
            (Some(first), Some(second)) if first != second => {
                let detail =
                    format!("{} contradicts `{}`: {}; correct one", shown(first), keys[1], shown(second));
                Err(self.error(keys[0], detail))
            }
            (Some(value), _) => Ok(Some((keys[0], value))),
            (None, Some(value)) => Ok(Some((keys[1], value))),
            (None, None) => Ok(None),
        }
    }

    /// All entries, in the file's order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.map.iter()
    }
}

/// A value as an error message shows it.
pub(crate) fn shown(value: &Value) -> String {
    clipped(value.to_string(), 80)
}

/// `text` cut to `max_chars`: a hostile file must not flood the log.
pub(crate) fn clipped(mut text: String, max_chars: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(max_chars) {
        text.truncate(end);
        text.push_str("...");
    }
    text
}
