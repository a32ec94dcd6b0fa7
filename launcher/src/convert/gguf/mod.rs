//! Reader of GGUF files, version 2 and 3, little endian: metadata, tensor table, and the bytes of tensor rows.
//! Called by the rest of `convert`. Must never trust a number of the file: counts, lengths and offsets are checked
//! against the file's size before they are used. Tensor data is read row by row, never the file as a whole.
//! Source: the GGUF specification of the ggml project.

mod cursor;
mod tensor_type;
mod value;

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::ConvertError;
use cursor::Cursor;
pub(super) use tensor_type::TensorType;
pub(super) use value::{Metadata, required};

const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMS: u32 = 4;

/// One entry of the tensor table.
#[derive(Clone, Debug)]
pub(super) struct TensorInfo {
    pub name: String,
    /// Row-major shape, slowest dimension first: `[out, in]` for a matrix (the reverse of the file's order).
    pub shape: Vec<usize>,
    pub kind: TensorType,
    /// Absolute position of the first byte.
    offset: u64,
}

impl TensorInfo {
    /// Elements along the fastest dimension.
    pub(super) fn n_cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Rows of `n_cols` elements.
    pub(super) fn n_rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Bytes of one row.
    pub(super) fn row_bytes(&self) -> usize {
        self.n_cols() / self.kind.block_len() * self.kind.block_bytes()
    }
}

/// Metadata and tensor table of a file.
#[derive(Debug)]
pub(super) struct Header {
    pub metadata: Metadata,
    pub tensors: HashMap<String, TensorInfo>,
}

/// An open GGUF file.
#[derive(Debug)]
pub(super) struct Gguf {
    pub header: Header,
    file: File,
    path: PathBuf,
}

impl Gguf {
    /// Opens `path` and reads its header.
    pub(super) fn open(path: &Path) -> Result<Self, ConvertError> {
        let file = File::open(path).map_err(ConvertError::io(path))?;
        let len = file.metadata().map_err(ConvertError::io(path))?.len();
        let header = Header::parse(BufReader::new(&file), path, len)?;
        Ok(Self { header, file, path: path.to_path_buf() })
    }

    /// The stored bytes of `rows` of `tensor`.
    pub(super) fn read_rows(&self, tensor: &TensorInfo, rows: Range<usize>) -> Result<Vec<u8>, ConvertError> {
        let row_bytes = tensor.row_bytes();
        let mut bytes = vec![0; rows.len() * row_bytes];
        let at = tensor.offset + rows.start as u64 * row_bytes as u64;
        self.file.read_exact_at(&mut bytes, at).map_err(ConvertError::io(&self.path))?;
        Ok(bytes)
    }
}

impl Header {
    /// Parses the header of a file of `file_len` bytes; every tensor lies inside the file.
    pub(super) fn parse(reader: impl Read, path: &Path, file_len: u64) -> Result<Self, ConvertError> {
        let mut cursor = Cursor::new(reader, path, file_len);
        if cursor.array("magic")? != *b"GGUF" {
            return Err(ConvertError::Damaged("it does not start with \"GGUF\"".into()));
        }
        check_version(cursor.u32("version")?)?;
        let n_tensors = cursor.u64("tensor count")?;
        let n_pairs = cursor.u64("metadata count")?;
        let metadata = Metadata::parse(&mut cursor, n_pairs)?;
        // The smallest entry: an empty name's length, one dimension, type and offset.
        cursor.check(n_tensors, 8 + 4 + 8 + 4 + 8, "tensor table")?;
        let entries = (0..n_tensors).map(|_| parse_tensor(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
        let alignment = alignment(&metadata)?;
        let data_start = cursor.position().next_multiple_of(alignment);
        let mut tensors = HashMap::with_capacity(entries.len());
        for mut tensor in entries {
            place(&mut tensor, data_start, file_len)?;
            if let Some(twin) = tensors.insert(tensor.name.clone(), tensor) {
                return Err(ConvertError::Damaged(format!("tensor {:?} occurs twice", twin.name)));
            }
        }
        Ok(Self { metadata, tensors })
    }
}

fn check_version(version: u32) -> Result<(), ConvertError> {
    match version {
        2 | 3 => Ok(()),
        _ if matches!(version.swap_bytes(), 1..=3) => {
            Err(ConvertError::Unsupported("the file is big endian; only little endian is read".into()))
        }
        _ => Err(ConvertError::Unsupported(format!("GGUF version {version}; versions 2 and 3 are read"))),
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, ConvertError> {
    let alignment = metadata.uint("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
    if alignment.is_power_of_two() && alignment <= 1 << 20 {
        return Ok(alignment);
    }
    Err(ConvertError::Damaged(format!(
        "general.alignment: expected a power of two up to 1048576, got {alignment}"
    )))
}

/// One entry of the table, its offset still relative to the data section.
fn parse_tensor<R: Read>(cursor: &mut Cursor<'_, R>) -> Result<TensorInfo, ConvertError> {
    let name = cursor.string("tensor name")?;
    let damaged = |reason: String| ConvertError::Damaged(format!("tensor {name:?}: {reason}"));
    let n_dims = cursor.u32(&name)?;
    if !(1..=MAX_DIMS).contains(&n_dims) {
        return Err(damaged(format!("{n_dims} dimensions; expected 1 to {MAX_DIMS}")));
    }
    let mut shape = Vec::new();
    for _ in 0..n_dims {
        let dim = cursor.u64(&name)?;
        let dim = usize::try_from(dim).ok().filter(|&d| d > 0);
        shape.insert(0, dim.ok_or_else(|| damaged("a dimension is zero or too large".into()))?);
    }
    let kind = TensorType::from_id(cursor.u32(&name)?, &name)?;
    let offset = cursor.u64(&name)?;
    let tensor = TensorInfo { name: name.clone(), shape, kind, offset };
    if !tensor.n_cols().is_multiple_of(kind.block_len()) {
        let (cols, block) = (tensor.n_cols(), kind.block_len());
        return Err(damaged(format!("rows of {cols} are not whole {kind:?} blocks of {block}")));
    }
    Ok(tensor)
}

/// Makes the offset absolute and checks that the data lies inside the file.
fn place(tensor: &mut TensorInfo, data_start: u64, file_len: u64) -> Result<(), ConvertError> {
    let n_bytes = tensor
        .shape
        .iter()
        .try_fold(1u64, |n, &d| n.checked_mul(d as u64))
        .and_then(|n| (n / tensor.kind.block_len() as u64).checked_mul(tensor.kind.block_bytes() as u64));
    let start = data_start.checked_add(tensor.offset);
    let end = start.zip(n_bytes).and_then(|(start, n)| start.checked_add(n));
    match (start, end) {
        (Some(start), Some(end)) if end <= file_len => {
            tensor.offset = start;
            Ok(())
        }
        _ => Err(ConvertError::Damaged(format!(
            "tensor {:?}, {:?} {:?} at data offset {}, ends beyond the file's {file_len} bytes; is it truncated?",
            tensor.name, tensor.kind, tensor.shape, tensor.offset
        ))),
    }
}
