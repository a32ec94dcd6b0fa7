//! One repository in the cache that huggingface_hub keeps: what is there, and how a file joins it.
//!
//! Called by `mod` and `blob`. Knows no network. The layout, shared with Python's huggingface_hub in both directions:
//! `models--OWNER--NAME/{blobs/ETAG, snapshots/COMMIT/NAME -> ../../blobs/ETAG, refs/REVISION}` and, beside the
//! repositories, `.locks/models--OWNER--NAME/ETAG.lock`. Files appear by renames only, so that nobody sees half of one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::listing::{Commit, Etag};

/// One repository in the cache.
#[derive(Debug, Clone)]
pub(super) struct CachedRepository {
    folder: PathBuf,
    locks: PathBuf,
}

impl CachedRepository {
    /// The part of the cache at `root` for the repository `id` (`name` or `owner/name`).
    pub(super) fn new(root: &Path, id: &str) -> Self {
        let name = format!("models--{}", id.replace('/', "--"));
        Self { folder: root.join(&name), locks: root.join(".locks").join(name) }
    }

    /// The folder of a revision: a branch or tag through `refs`, or a commit by its own name.
    pub(super) fn snapshot_of(&self, revision: &str) -> Option<PathBuf> {
        if !is_plain(revision) {
            return None;
        }
        let commit = fs::read_to_string(self.folder.join("refs").join(revision)).ok();
        let name = commit.as_deref().map_or(revision, str::trim);
        let folder = self.folder.join("snapshots").join(name);
        (is_plain(name) && folder.is_dir()).then_some(folder)
    }

    /// The folder of a commit, whether or not it is there.
    pub(super) fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.folder.join("snapshots").join(commit.as_str())
    }

    /// Where the content of `etag` lies once it is whole.
    pub(super) fn blob(&self, etag: &Etag) -> PathBuf {
        self.folder.join("blobs").join(etag.as_str())
    }

    /// Where the content of `etag` lies until it is whole.
    pub(super) fn incomplete(&self, etag: &Etag) -> PathBuf {
        self.folder.join("blobs").join(format!("{}.incomplete", etag.as_str()))
    }

    /// The file that whoever fetches `etag` holds a lock on.
    pub(super) fn lock_file(&self, etag: &Etag) -> io::Result<(PathBuf, File)> {
        fs::create_dir_all(&self.locks)?;
        let path = self.locks.join(format!("{}.lock", etag.as_str()));
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        Ok((path, file))
    }

    /// Makes the folders of blobs and of the commit's snapshot.
    pub(super) fn make_folders(&self, commit: &Commit) -> io::Result<()> {
        fs::create_dir_all(self.folder.join("blobs"))?;
        fs::create_dir_all(self.snapshot(commit))
    }

    /// Lets `name` of the commit's snapshot be the blob of `etag`.
    pub(super) fn link(&self, commit: &Commit, name: &str, etag: &Etag) -> io::Result<()> {
        let link = self.snapshot(commit).join(name);
        let target = Path::new("../../blobs").join(etag.as_str());
        if fs::read_link(&link).is_ok_and(|present| present == target) {
            return Ok(());
        }
        let partial = with_suffix(&link, &format!(".{}.tmp", std::process::id()));
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => std::os::unix::fs::symlink(target, &partial)?,
        }
        fs::rename(partial, link)
    }

    /// Notes which commit a branch or tag means now; a full commit needs no note.
    pub(super) fn set_revision(&self, revision: &str, commit: &Commit) -> io::Result<()> {
        if revision == commit.as_str() || !is_plain(revision) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        if fs::read_to_string(&path).is_ok_and(|present| present == commit.as_str()) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let partial = with_suffix(&path, &format!(".{}.tmp", std::process::id()));
        fs::write(&partial, commit.as_str())?;
        fs::rename(partial, path)
    }
}

/// Whether `name` is a relative path that stays where it is put.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn revisions() {
        let root = tempfile::tempdir().expect("temporary folder");
        let repository = root.path().join("models--owner--name");
        fs::create_dir_all(repository.join("snapshots").join(COMMIT)).expect("made");
        fs::create_dir_all(repository.join("refs/refs/pr")).expect("made");
        for (reference, commit) in [
            ("main", format!("{COMMIT}\n").as_str()),
            ("refs/pr/1", COMMIT),
            ("gone", "dead"),
            ("evil", "../.."),
        ] {
            fs::write(repository.join("refs").join(reference), commit).expect("written");
        }
        let snapshot = repository.join("snapshots").join(COMMIT);
        let cases = [
            ("owner/name", "main", true),
            ("owner/name", "refs/pr/1", true),
            ("owner/name", COMMIT, true),
            ("owner/name", "gone", false),
            ("owner/name", "evil", false),
            ("owner/name", "../snapshots", false),
            ("owner/other", "main", false),
        ];
        for (id, revision, found) in cases {
            let expected = found.then(|| snapshot.clone());
            assert_eq!(
                CachedRepository::new(root.path(), id).snapshot_of(revision),
                expected,
                "{id} {revision}"
            );
        }
    }

    #[test]
    fn a_file_joins_its_snapshot() {
        let root = tempfile::tempdir().expect("temporary folder");
        let repository = CachedRepository::new(root.path(), "gpt2");
        let commit = Commit::parse(COMMIT).expect("a commit");
        let (first, second) = (Etag::parse("aa").expect("a tag"), Etag::parse("bb").expect("a tag"));
        repository.make_folders(&commit).expect("made");
        for (etag, content) in [(&first, "old"), (&second, "new")] {
            fs::write(repository.blob(etag), content).expect("written");
            // Twice: the second time there is nothing to do.
            for _ in 0..2 {
                repository.link(&commit, "config.json", etag).expect("linked");
                repository.set_revision("refs/pr/1", &commit).expect("noted");
            }
            let snapshot = repository.snapshot_of("refs/pr/1").expect("a snapshot");
            assert_eq!(fs::read_to_string(snapshot.join("config.json")).expect("read"), content);
            assert_eq!(fs::read_dir(&snapshot).expect("listed").count(), 1, "nothing half-made is left");
        }
        repository.set_revision(COMMIT, &commit).expect("nothing to note");
        assert!(!root.path().join("models--gpt2/refs").join(COMMIT).exists());
        assert!(repository.set_revision("../../x", &commit).is_ok() && !root.path().join("x").exists());
    }
}
