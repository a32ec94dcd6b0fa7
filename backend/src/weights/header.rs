//! The header of a safetensors file, checked against the file's length.
//!
//! Called by `Checkpoint::open` on mapped bytes that nobody has vouched for. Layout: a little-endian
//! u64 header length n, n bytes of JSON, then the tensors without gaps. The safetensors crate parses
//! the JSON and proves that the tensors follow each other and that shapes match their bytes; that the
//! file really holds them is proved here, with checked arithmetic.

use std::collections::HashMap;
use std::ops::Range;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use text_generation_limits::files::{self, MAX_HEADER_BYTES};

const LENGTH_BYTES: usize = 8;
/// Headers up to this size are read a second time to say what is wrong with them.
const EXPLAINED_BYTES: usize = 1 << 20;

/// One tensor's place in its file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Bytes of the whole file; within it.
    pub(super) range: Range<usize>,
}

/// All tensors of the file `bytes`; an error says what is wrong and with which tensor.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<(String, Entry)>, String> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!(
            "expected a safetensors file, which starts with 8 bytes of header length; it has {} bytes in all; {AGAIN}",
            bytes.len()
        ));
    };
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().filter(|&n| n <= MAX_HEADER_BYTES).and_then(|n| rest.get(..n));
    let Some(header) = header else {
        return Err(format!(
            "the header claims {length} bytes, but {} follow it and {MAX_HEADER_BYTES} are allowed; \
             not a safetensors file, or {AGAIN}",
            rest.len()
        ));
    };
    files::check_json_values(header, files::MAX_JSON_VALUES)
        .map_err(|error| format!("bad header: {error}"))?;
    let metadata: Metadata = serde_json::from_slice(header)
        .map_err(|error| mismatch(header).unwrap_or_else(|| format!("bad header: {error}")))?;
    let data_start = LENGTH_BYTES + header.len();
    let available = bytes.len() - data_start;
    if metadata.data_len() != available {
        return Err(format!(
            "the header describes {} bytes of tensors, but the file has {available}; {AGAIN}",
            metadata.data_len()
        ));
    }
    let entries = metadata.tensors().into_iter().map(|(name, info)| {
        let (start, end) = info.data_offsets;
        let entry = Entry {
            dtype: info.dtype,
            shape: info.shape.clone(),
            range: data_start + start..data_start + end,
        };
        (name, entry)
    });
    Ok(entries.collect())
}

const AGAIN: &str = "truncated or damaged: fetch it again";

/// Names the first tensor whose shape and offsets disagree, which the crate's message does not.
fn mismatch(header: &[u8]) -> Option<String> {
    if header.len() > EXPLAINED_BYTES {
        return None;
    }
    let mut raw: HashMap<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    raw.remove("__metadata__");
    let mut tensors: Vec<(String, TensorInfo)> = raw
        .into_iter()
        .map(|(name, value)| Some((name, serde_json::from_value(value).ok()?)))
        .collect::<Option<_>>()?;
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    tensors.iter().find_map(|(name, info)| {
        let (start, end) = info.data_offsets;
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, &dim| bits.checked_mul(dim));
        match bits {
            Some(bits) if end.checked_sub(start) == Some(bits / 8) => None,
            Some(bits) => Some(format!(
                "bad header: tensor `{name}` ({} {:?}) needs {} bytes, but its offsets are {start}..{end}",
                info.dtype,
                info.shape,
                bits / 8
            )),
            None => Some(format!("bad header: tensor `{name}` has an impossible shape {:?}", info.shape)),
        }
    })
}
