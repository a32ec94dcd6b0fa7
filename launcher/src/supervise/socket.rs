//! The place of the unix sockets between router and shards.
//!
//! Called by `launch` before the children start. By default a new folder that only this user can
//! enter, so that servers run side by side; with `--shard-uds-path` the given base, of which a
//! leftover socket is removed but never one that another server still listens on.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::error::LauncherError;

const BASE_NAME: &str = "text-generation-server";
/// `sun_path` holds 108 bytes with its final zero; `-0` is still to come.
const MAX_PATH_BYTES: usize = 105;
const ATTEMPTS: u32 = 1000;

/// Owner of the base path; a folder made for it is removed when this is dropped.
#[derive(Debug)]
pub struct SocketFolder {
    base: PathBuf,
    created: Option<PathBuf>,
}

impl SocketFolder {
    /// Uses the given base, or makes a private folder under `temporary`, named after `pid`.
    ///
    /// # Errors
    /// [`LauncherError::ArgumentValidation`] when the path cannot serve or is in use.
    pub fn prepare(given: Option<&Path>, temporary: &Path, pid: u32) -> Result<Self, LauncherError> {
        let place = match given {
            Some(base) => Self { base: base.to_path_buf(), created: None },
            None => Self::create(temporary, pid)?,
        };
        let length = place.base.as_os_str().len();
        if length > MAX_PATH_BYTES {
            return Err(LauncherError::argument(format!(
                "the socket path {} has {length} bytes, a unix socket allows {MAX_PATH_BYTES}. \
                 Set a shorter --shard-uds-path or TMPDIR",
                place.base.display()
            )));
        }
        if given.is_some() {
            place.remove_leftover()?;
        }
        Ok(place)
    }

    /// Base of the socket names.
    pub fn base(&self) -> &Path {
        &self.base
    }

    fn create(temporary: &Path, pid: u32) -> Result<Self, LauncherError> {
        for attempt in 0..ATTEMPTS {
            let folder = temporary.join(format!("{BASE_NAME}-{pid}-{attempt}"));
            match DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => return Ok(Self { base: folder.join(BASE_NAME), created: Some(folder) }),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => (),
                Err(error) => return Err(cannot_create(&folder, &error)),
            }
        }
        Err(cannot_create(temporary, &ErrorKind::AlreadyExists.into()))
    }

    fn remove_leftover(&self) -> Result<(), LauncherError> {
        let mut socket = self.base.clone().into_os_string();
        socket.push("-0");
        let socket = PathBuf::from(socket);
        let Ok(metadata) = fs::symlink_metadata(&socket) else { return Ok(()) };
        let shown = socket.display();
        if !metadata.file_type().is_socket() {
            return Err(LauncherError::argument(format!(
                "`shard_uds_path`: {shown} exists and is no socket. Remove it or set another path"
            )));
        }
        if UnixStream::connect(&socket).is_ok() {
            return Err(LauncherError::argument(format!(
                "`shard_uds_path`: another server is running on {shown}. Stop it, set another path, or leave the flag out"
            )));
        }
        fs::remove_file(&socket).map_err(|error| {
            LauncherError::argument(format!(
                "`shard_uds_path`: the old socket {shown} cannot be removed: {error}"
            ))
        })
    }
}

fn cannot_create(folder: &Path, error: &std::io::Error) -> LauncherError {
    LauncherError::argument(format!(
        "the folder {} for the shard's socket cannot be created: {error}. Set --shard-uds-path or TMPDIR",
        folder.display()
    ))
}

impl Drop for SocketFolder {
    fn drop(&mut self) {
        if let Some(folder) = &self.created {
            // A folder that is left over harms nobody: the next launcher makes its own.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_private_folder_of_our_own() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let first = SocketFolder::prepare(None, temporary.path(), 7).expect("made");
        let second = SocketFolder::prepare(None, temporary.path(), 7).expect("made, beside the first");
        assert_ne!(first.base(), second.base());
        let folder = first.base().parent().expect("a parent").to_path_buf();
        assert_eq!(fs::metadata(&folder).expect("exists").permissions().mode() & 0o777, 0o700);
        drop(first);
        assert!(!folder.exists() && second.base().parent().is_some_and(Path::exists));
    }

    #[test]
    fn given_bases() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let prepare =
            |name: &str| SocketFolder::prepare(Some(&temporary.path().join(name)), Path::new("/"), 7);
        let message = |name: &str| prepare(name).expect_err(name).to_string();

        assert!(prepare("new").is_ok());

        drop(UnixListener::bind(temporary.path().join("old-0")).expect("bound"));
        assert!(prepare("old").is_ok() && !temporary.path().join("old-0").exists());

        let _listener = UnixListener::bind(temporary.path().join("live-0")).expect("bound");
        assert!(message("live").contains("another server is running"));
        assert!(temporary.path().join("live-0").exists());

        fs::write(temporary.path().join("file-0"), "").expect("written");
        assert!(message("file").contains("is no socket"));

        assert!(message(&"x".repeat(120)).contains("a unix socket allows 105"));
        let no_folder = SocketFolder::prepare(None, Path::new("/no/such/folder"), 7).expect_err("no folder");
        assert!(no_folder.to_string().contains("cannot be created"));
    }
}
