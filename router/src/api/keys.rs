//! The API keys that are good: those of the command line, and those of a file that is read again when it
//! changes. Used by `auth`.
//!
//! Keys are kept and compared as SHA-256 digests, each comparison in constant time, against every key:
//! how long an answer takes says nothing about them. Nothing here is ever logged but the file's path.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// The file is looked at no more often than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A key file larger than this is none.
const MAX_FILE_BYTES: u64 = 1 << 20;

type KeyDigest = [u8; 32];

/// All keys that let a request in.
pub struct ApiKeys {
    given: Vec<KeyDigest>,
    file: Option<Mutex<KeyFile>>,
}

struct KeyFile {
    path: PathBuf,
    looked: Instant,
    /// What tells a changed file from the one that was read.
    stamp: Stamp,
    keys: Vec<KeyDigest>,
}

type Stamp = Option<(SystemTime, u64)>;

/// Keys that cannot be used, without the keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("`api_key` must not be empty")]
    Empty,
    #[error("`api_key_file`: {path}: {error}")]
    File { path: String, error: io::Error },
    #[error("`api_key_file`: {0} has no key: expected one a line, lines that begin with # are comments")]
    NoKey(String),
}

impl ApiKeys {
    /// `None` when there is neither a key nor a file: everybody may ask.
    ///
    /// # Errors
    /// An empty key, or a file that cannot be read or holds none.
    pub fn new(keys: &[String], file: Option<&Path>, now: Instant) -> Result<Option<Self>, KeyError> {
        if keys.is_empty() && file.is_none() {
            return Ok(None);
        }
        if keys.iter().any(String::is_empty) {
            return Err(KeyError::Empty);
        }
        let given = keys.iter().map(|key| digest(key.as_bytes())).collect();
        let file = file.map(|path| KeyFile::open(path, now)).transpose()?;
        Ok(Some(Self { given, file: file.map(Mutex::new) }))
    }

    /// Whether `key` is one of them.
    pub fn allow(&self, key: &[u8], now: Instant) -> bool {
        let key = digest(key);
        let mut found = one_of(&key, &self.given);
        if let Some(file) = &self.file {
            // A panic while the lock was held cannot have left half a list.
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.refresh(now);
            found |= one_of(&key, &file.keys);
        }
        found.into()
    }
}

impl KeyFile {
    fn open(path: &Path, now: Instant) -> Result<Self, KeyError> {
        let failed = |error| KeyError::File { path: path.display().to_string(), error };
        let stamp = stamp(path).map_err(failed)?;
        let keys = read(path).map_err(failed)?;
        if keys.is_empty() {
            return Err(KeyError::NoKey(path.display().to_string()));
        }
        Ok(Self { path: path.to_path_buf(), looked: now, stamp, keys })
    }

    /// Reads the file again if it changed. One that cannot be read leaves the keys as they were; one
    /// without a key leaves none.
    fn refresh(&mut self, now: Instant) {
        if now.saturating_duration_since(self.looked) < LOOK_EVERY {
            return;
        }
        self.looked = now;
        let path = self.path.display();
        match stamp(&self.path) {
            Ok(stamp) if stamp == self.stamp => {}
            Ok(stamp) => match read(&self.path) {
                Ok(keys) => {
                    tracing::info!("{path} changed: {} API keys", keys.len());
                    (self.keys, self.stamp) = (keys, stamp);
                }
                Err(error) => tracing::warn!("{path}: {error}; the API keys stay as they were"),
            },
            Err(error) => tracing::warn!("{path}: {error}; the API keys stay as they were"),
        }
    }
}

/// A small local file, looked at once a second: not worth a thread of its own.
fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("is no regular file")); // opening a pipe would wait for its writer
    }
    Ok(metadata.modified().ok().map(|modified| (modified, metadata.len())))
}

fn read(path: &Path) -> io::Result<Vec<KeyDigest>> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("has more than {MAX_FILE_BYTES} bytes")));
    }
    let keys = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(keys.map(|key| digest(key.as_bytes())).collect())
}

fn digest(key: &[u8]) -> KeyDigest {
    Sha256::digest(key).into()
}

fn one_of(key: &KeyDigest, keys: &[KeyDigest]) -> Choice {
    keys.iter().fold(Choice::from(0), |found, one| found | one.ct_eq(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(keys: &[&str]) -> Vec<String> {
        keys.iter().map(|key| key.to_string()).collect()
    }

    #[test]
    fn keys_of_the_command_line() {
        let now = Instant::now();
        assert!(ApiKeys::new(&[], None, now).unwrap().is_none());
        assert!(ApiKeys::new(&strings(&["a", ""]), None, now).is_err());
        let keys = ApiKeys::new(&strings(&["secret", "other"]), None, now).unwrap().unwrap();
        for (key, expected) in
            [("secret", true), ("other", true), ("SECRET", false), ("secre", false), ("", false)]
        {
            assert_eq!(keys.allow(key.as_bytes(), now), expected, "{key}");
        }
    }

    #[test]
    fn what_cannot_be_a_key_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let large = dir.path().join("large");
        fs::write(&large, "k".repeat(MAX_FILE_BYTES as usize + 1)).unwrap();
        for (path, reason) in [(dir.path(), "is no regular file"), (&large, "has more than 1048576 bytes")] {
            let error = ApiKeys::new(&[], Some(path), Instant::now()).err().unwrap();
            assert!(error.to_string().ends_with(reason), "{error}");
        }
    }

    #[test]
    fn the_file_is_read_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let now = Instant::now();
        assert!(ApiKeys::new(&[], Some(&path), now).is_err(), "no file");
        fs::write(&path, "# nobody\n\n").unwrap();
        assert!(ApiKeys::new(&[], Some(&path), now).is_err(), "no key");
        fs::write(&path, "# two\none\n  two \n").unwrap();
        let keys = ApiKeys::new(&strings(&["fixed"]), Some(&path), now).unwrap().unwrap();
        let check = |seconds, allowed: &[&str], refused: &[&str]| {
            let now = now + Duration::from_secs(seconds);
            assert!(allowed.iter().all(|key| keys.allow(key.as_bytes(), now)), "{seconds}");
            assert!(!refused.iter().any(|key| keys.allow(key.as_bytes(), now)), "{seconds}");
        };
        check(0, &["one", "two", "fixed"], &["three", "# two"]);
        fs::write(&path, "three\n").unwrap();
        check(0, &["one"], &["three"]); // not looked at yet
        check(1, &["three", "fixed"], &["one"]);
        fs::remove_file(&path).unwrap();
        check(2, &["three", "fixed"], &["one"]);
        fs::write(&path, "#\n").unwrap();
        check(3, &["fixed"], &["three"]);
    }
}
