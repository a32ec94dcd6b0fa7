//! The folder that a conversion fills before it appears under its final name by one rename.
//! Called by whoever writes a checkpoint. Must never touch an OUT that has content, nor leave its own folder behind after an error.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::WriteError;

/// A temporary folder beside the final one; removed on drop unless published.
#[derive(Debug)]
pub struct Staging {
    folder: PathBuf,
    target: PathBuf,
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

    /// Checks `target` and makes the temporary folder.
    pub fn new(target: &Path) -> Result<Self, WriteError> {
        Self::check(target)?;
        let Some(name) = target.file_name() else {
            return Err(WriteError::Target(format!("{} does not name a folder", target.display())));
        };
        // In the same folder, so that the rename stays within one file system.
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = parent.join(format!(".{}.{}.partial", name.to_string_lossy(), std::process::id()));
        fs::create_dir_all(parent).map_err(WriteError::io(parent))?;
        fs::create_dir(&folder).map_err(WriteError::io(&folder))?;
        Ok(Self { folder, target: target.to_path_buf() })
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

    /// Gives the files mode 0644 and the folder its final name.
    pub fn publish(self) -> Result<(), WriteError> {
        for entry in fs::read_dir(&self.folder).map_err(WriteError::io(&self.folder))? {
            let path = entry.map_err(WriteError::io(&self.folder))?.path();
            fs::set_permissions(&path, Permissions::from_mode(0o644)).map_err(WriteError::io(&path))?;
        }
        fs::rename(&self.folder, &self.target).map_err(WriteError::io(&self.target))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After `publish` there is nothing by this name; after an error there is nobody left to tell.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
