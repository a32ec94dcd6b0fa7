//! Reads the numbers and strings of a GGUF header one after the other.
//! Called by `gguf` and `gguf::value`. Must never read or allocate more than the file still holds: each length is
//! checked against the bytes that remain before it is used.

use std::io::Read;
use std::path::Path;

use crate::convert::ConvertError;

/// Most bytes that metadata and tensor table may take together; the largest vocabularies need a third of it.
/// Bounds the memory that a malicious header can ask for.
pub(super) const MAX_HEADER_BYTES: u64 = 64 << 20;

/// A reader that knows its position and how many bytes are left.
pub(super) struct Cursor<'a, R> {
    reader: R,
    path: &'a Path,
    position: u64,
    file_len: u64,
}

impl<'a, R: Read> Cursor<'a, R> {
    /// A cursor at the start of a file of `file_len` bytes; `path` is for messages.
    pub(super) fn new(reader: R, path: &'a Path, file_len: u64) -> Self {
        Self { reader, path, position: 0, file_len }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Fails unless `count` items of at least `min_bytes` each can still follow.
    pub(super) fn check(&self, count: u64, min_bytes: u64, what: &str) -> Result<(), ConvertError> {
        let end = count.checked_mul(min_bytes).and_then(|n| n.checked_add(self.position));
        match end {
            Some(end) if end <= self.file_len.min(MAX_HEADER_BYTES) => Ok(()),
            Some(end) if end <= self.file_len => {
                Err(ConvertError::Unsupported(format!("{what}: the header exceeds {MAX_HEADER_BYTES} bytes")))
            }
            _ => Err(ConvertError::Damaged(format!(
                "{what}: {count} items of {min_bytes} bytes or more at byte {}, but the file has {} bytes",
                self.position, self.file_len
            ))),
        }
    }

    /// The next `len` bytes.
    pub(super) fn bytes(&mut self, len: u64, what: &str) -> Result<Vec<u8>, ConvertError> {
        self.check(len, 1, what)?;
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The next `N` bytes, for `from_le_bytes`.
    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ConvertError> {
        self.check(N as u64, 1, what)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, ConvertError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, ConvertError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A length-prefixed UTF-8 string.
    pub(super) fn string(&mut self, what: &str) -> Result<String, ConvertError> {
        let len = self.u64(what)?;
        String::from_utf8(self.bytes(len, what)?)
            .map_err(|_| ConvertError::Damaged(format!("{what}: a string is not UTF-8")))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ConvertError> {
        self.reader.read_exact(bytes).map_err(ConvertError::io(self.path))?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}
