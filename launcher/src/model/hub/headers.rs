//! A folder that looks like a model's but holds only the headers of its weights: enough to plan by, at a few hundred
//! kilobytes instead of gigabytes. Each weight file has its true length and, behind its header, a hole.
//!
//! Called by the subcommand `plan`. The small files come into the cache as for serving; headers do not.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;
use text_generation_limits::files::MAX_HEADER_BYTES;
use tracing::info;

use super::client::Client;
use super::error::HubError;
use super::listing::{Commit, Content};
use super::retry::{ATTEMPTS, retrying};
use super::stop::Stop;

/// A safetensors file begins with the length of its header.
const LENGTH_BYTES: u64 = 8;
/// What is asked for first: most headers are shorter.
const FIRST_BYTES: u64 = 128 << 10;

/// Gone with everything in it when dropped.
pub struct HeaderFolder(TempDir);

impl HeaderFolder {
    /// Links what is already in `snapshot`.
    pub(super) fn new(snapshot: &Path) -> Result<HeaderFolder, HubError> {
        let folder = tempfile::Builder::new().prefix("quern-plan-").tempdir();
        let folder = folder.map_err(HubError::disk(&std::env::temp_dir()))?;
        for entry in fs::read_dir(snapshot).map_err(HubError::disk(snapshot))? {
            let entry = entry.map_err(HubError::disk(snapshot))?;
            let link = folder.path().join(entry.file_name());
            symlink(entry.path(), &link).map_err(HubError::disk(&link))?;
        }
        Ok(HeaderFolder(folder))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Brings the header of `name`.
    pub(super) fn fetch(
        &self,
        client: &Client<'_>,
        commit: &Commit,
        (name, content): (&str, &Content),
    ) -> Result<(), HubError> {
        let range = |from: u64, to: u64| {
            retrying(name, ATTEMPTS, &Stop::default(), || (client.range(commit, name, from..to), 0))
        };
        let mut bytes = match content.size {
            0 => Vec::new(),
            size => range(0, FIRST_BYTES.min(size))?,
        };
        let end = header_end(&bytes, content.size)
            .map_err(|reason| HubError::Damaged(format!("{name} is no safetensors file: {reason}")))?;
        let have = bytes.len() as u64;
        if end > have {
            bytes.extend(range(have, end)?);
        }
        bytes.truncate(end as usize);
        info!("{name}: read {} of {} bytes", have.max(end), content.size);
        let path = self.path().join(name);
        let write = || {
            // In place of the link to a file of another length.
            let _ = fs::remove_file(&path);
            let mut file = File::create_new(&path)?;
            file.write_all(&bytes)?;
            file.set_len(content.size)
        };
        write().map_err(HubError::disk(&path))
    }
}

/// Where the tensors of a file of `size` bytes begin, by the first of them.
fn header_end(first: &[u8], size: u64) -> Result<u64, String> {
    let Some(length) = first.first_chunk() else {
        return Err(format!("it has {} bytes", first.len()));
    };
    let length = u64::from_le_bytes(*length);
    match length.checked_add(LENGTH_BYTES) {
        Some(end) if length <= MAX_HEADER_BYTES as u64 && end <= size => Ok(end),
        _ => Err(format!(
            "its header claims {length} bytes, the file has {size}, and {MAX_HEADER_BYTES} are allowed"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_end_inside_their_file() {
        let first = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
        assert_eq!(header_end(&first(2), 10), Ok(10));
        assert_eq!(header_end(&first(100), 1000), Ok(108));
        let refused = [
            (vec![], 0, "it has 0 bytes"),
            (vec![1; 7], 7, "it has 7 bytes"),
            (first(3), 10, "claims 3 bytes, the file has 10"),
            (first(u64::MAX), u64::MAX, "claims 18446744073709551615 bytes"),
            (first((32 << 20) + 1), u64::MAX, "33554432 are allowed"),
        ];
        for (bytes, size, part) in refused {
            let error = header_end(&bytes, size).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }
}
