//! A file mapped read-only into memory: the only unsafe code of the loader.
//!
//! Made by `Checkpoint::open`, shared by the tensors inside it. Never writes, and never hands out
//! anything but `&[u8]`. Truncating a checkpoint while it is served kills the process (SIGBUS), as
//! with every mapped file: replace model folders, do not overwrite them.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memmap2::{Advice, Mmap, UncheckedAdvice};

use super::Storage;
use crate::error::LoadError;

/// A whole file as bytes.
pub struct MappedFile {
    map: Mmap,
    file: File,
}

impl MappedFile {
    /// Maps `path`, a regular file.
    pub fn open(path: &Path) -> Result<MappedFile, LoadError> {
        let io = |source| LoadError::Io { path: path.to_path_buf(), source };
        // Before opening, which would wait for a writer if this is a pipe.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            let detail = "expected a regular file".to_owned();
            return Err(LoadError::Safetensors { path: path.to_path_buf(), detail });
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: the mapping is private and read-only, and lives as long as the `Mmap`. Nobody is
        // supposed to change the file meanwhile (see above); readers check numbers, not trust them,
        // so changed bytes can make wrong results but no wrong memory access.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(MappedFile { map, file })
    }

    /// Asks the kernel to start reading the file.
    pub fn read_ahead(&self) {
        // A hint: where it fails, pages are read when they are touched.
        let _ = self.map.advise(Advice::WillNeed);
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Storage for MappedFile {
    /// Reads the file: mapping each page first would take longer than copying it.
    fn read(&self, from: usize, to: &mut [u8]) -> std::io::Result<()> {
        self.file.read_exact_at(to, from as u64)
    }

    fn release(&self, range: Range<usize>) {
        let end = range.end.min(self.map.len());
        let start = range.start.min(end);
        // SAFETY: MADV_DONTNEED on a read-only private mapping of a file only drops clean pages; the
        // next access reads the same bytes again, so references to them stay valid.
        let released =
            unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        // A hint: where it fails, the pages stay resident.
        let _ = released;
    }
}
