//! A file on its way: its bytes so far on disk, and their digest.
//!
//! Used by `blob`. What is on disk is always a beginning of the file, so an interrupted download goes on from
//! there; the digest of what an earlier process left is made up for when the file is opened.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::error::HubError;
use super::listing::{Content, Digest};

const BUFFER: usize = 1 << 20;

/// The beginning of a file, `length` bytes of `content.size`.
pub(super) struct Partial<'a> {
    path: PathBuf,
    file: File,
    content: &'a Content,
    hasher: Hasher,
    length: u64,
}

impl<'a> Partial<'a> {
    /// Opens what an earlier attempt left at `path`, or begins anew. What is longer than the file is no
    /// beginning of it and is dropped.
    pub(super) fn open(path: &Path, content: &'a Content) -> Result<Self, HubError> {
        let disk = HubError::disk(path);
        let file =
            File::options().create(true).read(true).write(true).truncate(false).open(path).map_err(&disk)?;
        let present = file.metadata().map_err(&disk)?.len();
        let hasher = Hasher::new(content);
        let mut partial = Self { path: path.to_path_buf(), file, content, hasher, length: 0 };
        if present > content.size {
            partial.restart()?
        } else {
            partial.read_present(present)?
        }
        Ok(partial)
    }

    fn read_present(&mut self, present: u64) -> Result<(), HubError> {
        let mut buffer = vec![0; BUFFER];
        while self.length < present {
            let n = self.file.read(&mut buffer).map_err(HubError::disk(&self.path))?;
            if n == 0 {
                break;
            }
            self.hasher.update(&buffer[..n]);
            self.length += n as u64;
        }
        Ok(())
    }

    /// Bytes that are there.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Forgets everything.
    pub(super) fn restart(&mut self) -> Result<(), HubError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(HubError::disk(&self.path))?;
        self.hasher = Hasher::new(self.content);
        self.length = 0;
        Ok(())
    }

    /// Adds the next bytes.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        if self.length + bytes.len() as u64 > self.content.size {
            return Err(HubError::Damaged(format!(
                "more than the announced {} bytes arrived",
                self.content.size
            )));
        }
        self.file.write_all(bytes).map_err(HubError::disk(&self.path))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Whether the whole content is there as announced; else what is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.length != self.content.size {
            return Err(format!("{} of {} bytes arrived", self.length, self.content.size));
        }
        match self.hasher.digest() {
            Some((name, found)) if found != self.content.etag.as_str() => {
                Err(format!("its {name} is {found}, the Hub announced {}", self.content.etag.as_str()))
            }
            _ => Ok(()),
        }
    }

    /// Removes the file.
    pub(super) fn discard(self) -> Result<(), HubError> {
        std::fs::remove_file(&self.path).map_err(HubError::disk(&self.path))
    }

    /// Gives the file its final name, once its bytes are on the disk.
    pub(super) fn publish(self, to: &Path) -> Result<(), HubError> {
        self.file.sync_data().map_err(HubError::disk(&self.path))?;
        std::fs::rename(&self.path, to).map_err(HubError::disk(to))
    }
}

#[derive(Clone)]
enum Hasher {
    Sha256(Sha256),
    GitBlob(Sha1),
    None,
}

impl Hasher {
    fn new(content: &Content) -> Self {
        match content.etag.digest() {
            Digest::Sha256 => Self::Sha256(Sha256::new()),
            Digest::GitBlob => Self::GitBlob(Sha1::new_with_prefix(format!("blob {}\0", content.size))),
            Digest::Opaque => Self::None,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitBlob(hasher) => hasher.update(bytes),
            Self::None => (),
        }
    }

    /// The digest's name and value.
    fn digest(&self) -> Option<(&'static str, String)> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hasher) => Some(("sha256", hex(&hasher.clone().finalize()))),
            Self::GitBlob(hasher) => Some(("git hash", hex(&hasher.clone().finalize()))),
            Self::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::listing::Etag;
    use super::*;

    /// "abc" by FIPS 180-2, and by `git hash-object`.
    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const GIT: &str = "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f";

    fn content(tag: &str, size: u64) -> Content {
        Content { size, etag: Etag::parse(tag).expect("a tag") }
    }

    #[test]
    fn digests_of_whole_and_resumed_files() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for tag in [SHA256, GIT, "opaque-tag"] {
            let (path, content) = (folder.path().join(tag), content(tag, 3));
            let mut first = Partial::open(&path, &content).expect("opened");
            first.append(b"a").expect("written");
            assert_eq!(first.check(), Err("1 of 3 bytes arrived".to_owned()));
            drop(first);
            let mut second = Partial::open(&path, &content).expect("opened again");
            assert_eq!(second.length(), 1);
            second.append(b"bc").expect("written");
            assert_eq!(second.check(), Ok(()));
            second.publish(&folder.path().join("whole")).expect("renamed");
            assert_eq!(std::fs::read(folder.path().join("whole")).expect("read"), b"abc");
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_is_wrong_is_found_and_can_begin_anew() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for (tag, part) in [(SHA256, "its sha256 is "), (GIT, "its git hash is ")] {
            let (path, content) = (folder.path().join(tag), content(tag, 3));
            std::fs::write(&path, "abX").expect("left by somebody");
            let mut partial = Partial::open(&path, &content).expect("opened");
            let message = partial.check().expect_err("wrong");
            assert!(message.contains(part) && message.contains(tag), "{message}");
            assert!(matches!(partial.append(b"d"), Err(HubError::Damaged(_))));
            partial.restart().expect("emptied");
            partial.append(b"abc").expect("written");
            assert_eq!(partial.check(), Ok(()));
            std::fs::write(&path, "longer than it").expect("left by somebody");
            assert_eq!(Partial::open(&path, &content).expect("opened").length(), 0);
        }
    }
}
