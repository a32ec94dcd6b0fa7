//! The folder that a conversion fills before it appears under its final name by one rename.
//! Called by `run`. Must never touch an OUT that has content, nor leave its own folder behind after an error.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::ConvertError;

/// A temporary folder beside the final one; removed on drop unless published.
#[derive(Debug)]
pub(super) struct Staging {
    folder: PathBuf,
    target: PathBuf,
}

impl Staging {
    /// Checks that `target` is absent or empty and makes the temporary folder.
    pub(super) fn new(target: &Path) -> Result<Self, ConvertError> {
        match fs::read_dir(target).map(|mut entries| entries.next().is_some()) {
            Ok(false) => {}
            Ok(true) => {
                return Err(ConvertError::Argument(format!(
                    "{} is not empty; give a folder that does not exist yet",
                    target.display()
                )));
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(ConvertError::io(target)(e)),
        }
        let Some(name) = target.file_name() else {
            return Err(ConvertError::Argument(format!("{} does not name a folder", target.display())));
        };
        // In the same folder, so that the rename stays within one file system.
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = parent.join(format!(".{}.{}.partial", name.to_string_lossy(), std::process::id()));
        fs::create_dir_all(parent).map_err(ConvertError::io(parent))?;
        fs::create_dir(&folder).map_err(ConvertError::io(&folder))?;
        Ok(Self { folder, target: target.to_path_buf() })
    }

    /// Where the file `name` is to be written.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Writes a whole file.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), ConvertError> {
        let path = self.path(name);
        fs::write(&path, content).map_err(ConvertError::io(&path))
    }

    /// Gives the files mode 0644 and the folder its final name.
    pub(super) fn publish(self) -> Result<(), ConvertError> {
        for entry in fs::read_dir(&self.folder).map_err(ConvertError::io(&self.folder))? {
            let path = entry.map_err(ConvertError::io(&self.folder))?.path();
            fs::set_permissions(&path, Permissions::from_mode(0o644)).map_err(ConvertError::io(&path))?;
        }
        fs::rename(&self.folder, &self.target).map_err(ConvertError::io(&self.target))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After `publish` there is nothing by this name; after an error there is nobody left to tell.
        let _ = fs::remove_dir_all(&self.folder);
    }
}
