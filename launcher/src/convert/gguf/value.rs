//! The key-value metadata of a GGUF: values as stored, and typed look-ups whose errors name the key.
//! Called by `gguf` to parse and by `config` and `tokenizer` to look up. Must never guess: a key of the wrong type is
//! an error, not an absent key.

use std::collections::HashMap;
use std::io::Read;

use super::cursor::Cursor;
use crate::convert::ConvertError;

/// Type numbers of metadata values, from the GGUF specification.
mod kind {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}

/// One metadata value.
#[derive(Debug)]
enum Value {
    Int(i128),
    Float(f32),
    Bool(bool),
    Str(String),
    Strings(Vec<String>),
    /// Numbers as they lie in the file, `size` bytes each, decoded when asked for.
    Numbers {
        kind: u32,
        size: usize,
        bytes: Vec<u8>,
    },
}

/// All metadata of a file.
#[derive(Debug, Default)]
pub(in crate::convert) struct Metadata(HashMap<String, Value>);

impl Metadata {
    /// Parses `count` pairs.
    pub(super) fn parse<R: Read>(cursor: &mut Cursor<'_, R>, count: u64) -> Result<Self, ConvertError> {
        // The smallest pair: an empty key's length, a type and one byte.
        cursor.check(count, 8 + 4 + 1, "metadata pairs")?;
        let mut pairs = HashMap::new();
        for _ in 0..count {
            let key = cursor.string("metadata key")?;
            let value = parse_value(cursor, &key)?;
            if pairs.contains_key(&key) {
                return Err(ConvertError::Damaged(format!("metadata key {key:?} occurs twice")));
            }
            pairs.insert(key, value);
        }
        Ok(Self(pairs))
    }

    pub(in crate::convert) fn str(&self, key: &str) -> Result<Option<&str>, ConvertError> {
        self.typed(key, "a string", |v| if let Value::Str(s) = v { Some(s.as_str()) } else { None })
    }

    /// A number that is not negative.
    pub(in crate::convert) fn uint(&self, key: &str) -> Result<Option<u64>, ConvertError> {
        self.typed(key, "a non-negative integer", |v| match v {
            Value::Int(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    /// A finite number; integers count.
    pub(in crate::convert) fn float(&self, key: &str) -> Result<Option<f32>, ConvertError> {
        self.typed(key, "a finite number", |v| match v {
            Value::Float(x) if x.is_finite() => Some(*x),
            Value::Int(n) => Some(*n as f32),
            _ => None,
        })
    }

    pub(in crate::convert) fn bool(&self, key: &str) -> Result<Option<bool>, ConvertError> {
        self.typed(key, "a boolean", |v| if let Value::Bool(b) = v { Some(*b) } else { None })
    }

    pub(in crate::convert) fn strings(&self, key: &str) -> Result<Option<&[String]>, ConvertError> {
        self.typed(
            key,
            "an array of strings",
            |v| if let Value::Strings(s) = v { Some(&s[..]) } else { None },
        )
    }

    /// An array of integers.
    pub(in crate::convert) fn ints(&self, key: &str) -> Result<Option<Vec<i128>>, ConvertError> {
        self.typed(key, "an array of integers", |v| match v {
            Value::Numbers { kind, size, bytes } => {
                bytes.chunks_exact(*size).map(|raw| decode_int(*kind, raw)).collect()
            }
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        get: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConvertError> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        get(value).map(Some).ok_or_else(|| {
            ConvertError::Damaged(format!("{key}: expected {expected}, got {}", describe(value)))
        })
    }
}

/// Unwraps a look-up of a key that must be there.
pub(in crate::convert) fn required<T>(value: Option<T>, key: &str) -> Result<T, ConvertError> {
    value.ok_or_else(|| ConvertError::Damaged(format!("the metadata key {key:?} is missing")))
}

fn describe(value: &Value) -> String {
    match value {
        Value::Int(n) => format!("the integer {n}"),
        Value::Float(x) => format!("the number {x}"),
        Value::Bool(b) => format!("the boolean {b}"),
        Value::Str(_) => "a string".into(),
        Value::Strings(s) => format!("an array of {} strings", s.len()),
        Value::Numbers { size, bytes, .. } => format!("an array of {} numbers", bytes.len() / size),
    }
}

fn parse_value<R: Read>(cursor: &mut Cursor<'_, R>, key: &str) -> Result<Value, ConvertError> {
    match cursor.u32(key)? {
        kind::STRING => Ok(Value::Str(cursor.string(key)?)),
        kind::ARRAY => parse_array(cursor, key),
        kind::F32 => Ok(Value::Float(f32::from_le_bytes(cursor.array(key)?))),
        kind::F64 => Ok(Value::Float(f64::from_le_bytes(cursor.array(key)?) as f32)),
        kind::BOOL => Ok(Value::Bool(cursor.array::<1>(key)? != [0])),
        other => {
            let raw = cursor.bytes(number_size(other, key)? as u64, key)?;
            decode_int(other, &raw).map(Value::Int).ok_or_else(|| unknown_type(other, key))
        }
    }
}

fn parse_array<R: Read>(cursor: &mut Cursor<'_, R>, key: &str) -> Result<Value, ConvertError> {
    let kind = cursor.u32(key)?;
    let count = cursor.u64(key)?;
    if kind == kind::STRING {
        cursor.check(count, 8, key)?;
        return (0..count).map(|_| cursor.string(key)).collect::<Result<_, _>>().map(Value::Strings);
    }
    let size = number_size(kind, key)?;
    cursor.check(count, size as u64, key)?;
    Ok(Value::Numbers { kind, size, bytes: cursor.bytes(count * size as u64, key)? })
}

fn number_size(kind: u32, key: &str) -> Result<usize, ConvertError> {
    match kind {
        kind::U8 | kind::I8 | kind::BOOL => Ok(1),
        kind::U16 | kind::I16 => Ok(2),
        kind::U32 | kind::I32 | kind::F32 => Ok(4),
        kind::U64 | kind::I64 | kind::F64 => Ok(8),
        kind::ARRAY => Err(ConvertError::Unsupported(format!("{key}: an array of arrays"))),
        other => Err(unknown_type(other, key)),
    }
}

fn unknown_type(kind: u32, key: &str) -> ConvertError {
    ConvertError::Damaged(format!("{key}: {kind} is not a metadata type (0 to 12)"))
}

/// The little-endian integer in `raw`, or none if `kind` is not an integer type of that size.
fn decode_int(kind: u32, raw: &[u8]) -> Option<i128> {
    Some(match kind {
        kind::U8 => u8::from_le_bytes(raw.try_into().ok()?).into(),
        kind::I8 => i8::from_le_bytes(raw.try_into().ok()?).into(),
        kind::U16 => u16::from_le_bytes(raw.try_into().ok()?).into(),
        kind::I16 => i16::from_le_bytes(raw.try_into().ok()?).into(),
        kind::U32 => u32::from_le_bytes(raw.try_into().ok()?).into(),
        kind::I32 => i32::from_le_bytes(raw.try_into().ok()?).into(),
        kind::U64 => u64::from_le_bytes(raw.try_into().ok()?).into(),
        kind::I64 => i64::from_le_bytes(raw.try_into().ok()?).into(),
        _ => return None,
    })
}
