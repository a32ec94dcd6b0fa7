//! The folder that a conversion fills before it appears under its final name by one rename.
//! Called by whoever writes a checkpoint. Must never touch an OUT that has content, nor leave its own folder behind after an error.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::WriteError;

/// A temporary folder beside the final one; removed on drop unless published.
#[derive(Debug)]
pub struct Staging {
    folder: PathBuf,
    target: PathBuf,
    published: bool,
    /// The folder itself, opened: locked while this one lives.
    _lock: File,
}

impl Staging {
    /// Fails unless `target` is absent or empty; for before hours of work.
    pub fn check(target: &Path) -> Result<(), WriteError> {
        match fs::read_dir(target).map(|mut entries| entries.next().is_some()) {
            Ok(false) => Ok(()),
            Ok(true) => Err(WriteError::Target(format!(
                "{} is not empty; give a folder that does not exist yet",
                target.display()
            ))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(WriteError::io(target)(e)),
        }
    }

    /// Checks `target` and makes the temporary folder, in place of one that a killed run has left.
    pub fn new(target: &Path) -> Result<Self, WriteError> {
        Self::check(target)?;
        let Some(name) = target.file_name() else {
            return Err(WriteError::Target(format!("{} does not name a folder", target.display())));
        };
        // In the same folder, so that the rename stays within one file system.
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = parent.join(format!(".{}.partial", name.to_string_lossy()));
        fs::create_dir_all(parent).map_err(WriteError::io(parent))?;
        match fs::create_dir(&folder) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => replace(&folder)?,
            made => made.map_err(WriteError::io(&folder))?,
        }
        let _lock = lock(&folder)?;
        Ok(Self { folder, target: target.to_path_buf(), published: false, _lock })
    }

    /// Where the file `name` is to be written.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a whole file.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), WriteError> {
        let path = self.path(name);
        fs::write(&path, content).map_err(WriteError::io(&path))
    }

    /// Gives the files mode 0644 and the folder its final name, once they would outlive a loss of power.
    pub fn publish(mut self) -> Result<(), WriteError> {
        for entry in fs::read_dir(&self.folder).map_err(WriteError::io(&self.folder))? {
            let path = entry.map_err(WriteError::io(&self.folder))?.path();
            fs::set_permissions(&path, Permissions::from_mode(0o644))
                .and_then(|()| File::open(&path)?.sync_all())
                .map_err(WriteError::io(&path))?;
        }
        fs::rename(&self.folder, &self.target).map_err(WriteError::io(&self.target))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After `publish` the name may be another run's.
        if !self.published {
            // There is nobody left to tell.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Keeps two runs apart, and goes with the process however it ends.
fn lock(folder: &Path) -> Result<File, WriteError> {
    let file = File::open(folder).map_err(WriteError::io(folder))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(WriteError::Target(format!("another run is writing there ({} is locked)", folder.display())))
        }
        // Network file systems may be unable to lock a folder.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// A new folder in place of one that nobody writes to any more; of a symbolic link only the link goes.
fn replace(folder: &Path) -> Result<(), WriteError> {
    let _left = lock(folder)?;
    fs::remove_dir_all(folder).and_then(|()| fs::create_dir(folder)).map_err(WriteError::io(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let (target, left) = (parent.path().join("out"), parent.path().join(".out.partial"));
        fs::create_dir_all(left.join("folder")).unwrap();
        fs::write(left.join("weights"), "half").unwrap();
        let staging = Staging::new(&target).unwrap();
        staging.write("config.json", b"{}").unwrap();
        staging.publish().unwrap();
        let names = |path: &Path| {
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
        };
        assert_eq!((names(parent.path()), names(&target)), (vec!["out".into()], vec!["config.json".into()]));
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let (target, elsewhere) = (parent.path().join("out"), parent.path().join("elsewhere"));
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("file"), "").unwrap();
        std::os::unix::fs::symlink(&elsewhere, parent.path().join(".out.partial")).unwrap();
        drop(Staging::new(&target));
        assert!(elsewhere.join("file").exists());
    }

    #[test]
    fn two_runs_are_kept_apart() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("out");
        let first = Staging::new(&target).unwrap();
        first.write("config.json", b"{}").unwrap();
        let second = Staging::new(&target).unwrap_err().to_string();
        assert!(second.contains("another run is writing there"), "{second}");
        assert!(first.path("config.json").exists());
        drop(first);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        Staging::new(&target).unwrap();
    }
}
