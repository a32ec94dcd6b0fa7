//! Finished blocks on disk, so that an interrupted run goes on where it stopped.
//!
//! A folder beside the final one, `.OUT.quantizing`: a file a block, and one that says what run they belong to. Blocks
//! of another run (other weights, settings or text) are deleted. A lock keeps two runs apart. Only `assemble` reads
//! the blocks again; nothing here is trusted more than a checkpoint would be.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use sha2::{Digest, Sha256};
use tracing::info;

use crate::error::QuantizeError;
use crate::quantized::NewTensor;

const RUN: &str = "run";
const LOCK: &str = "lock";
/// Endings of the files that a result depends on.
const MODEL_FILES: [&str; 3] = ["json", "safetensors", "tiktoken"];

/// The folder of unfinished work.
pub(crate) struct Work {
    folder: PathBuf,
    _lock: File,
}

/// What a run depends on, digested: equal runs give equal blocks.
pub(crate) struct Fingerprint(Sha256);

impl Fingerprint {
    pub(crate) fn new() -> Self {
        Self(Sha256::new_with_prefix(concat!("quantizer ", env!("CARGO_PKG_VERSION"))))
    }

    /// Adds something that the result depends on.
    pub(crate) fn add(mut self, part: &[u8]) -> Self {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    /// Adds the model's files in `dir` (weights, configuration, vocabulary) by name, size and time of change: reading
    /// them would take as long as the work.
    pub(crate) fn add_model(mut self, dir: &Path) -> Result<Self, QuantizeError> {
        let mut names: Vec<PathBuf> = fs::read_dir(dir)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .map_err(QuantizeError::io(dir))?;
        let of_model =
            |path: &PathBuf| MODEL_FILES.iter().any(|end| path.extension().is_some_and(|e| e == *end));
        names.retain(of_model);
        names.sort();
        for path in names {
            let metadata = fs::metadata(&path).map_err(QuantizeError::io(&path))?;
            let changed = metadata.modified().map_err(QuantizeError::io(&path))?;
            self = self.add(format!("{} {} {changed:?}", path.display(), metadata.len()).as_bytes());
        }
        Ok(self)
    }

    fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Work {
    /// The folder for `out`, with the blocks of an earlier run of the same fingerprint, or empty.
    pub(crate) fn open(out: &Path, fingerprint: Fingerprint) -> Result<Self, QuantizeError> {
        let Some(name) = out.file_name() else {
            return Err(QuantizeError::Argument(format!("{} does not name a folder", out.display())));
        };
        let folder = out.with_file_name(format!(".{}.quantizing", name.to_string_lossy()));
        fs::create_dir_all(&folder).map_err(QuantizeError::io(&folder))?;
        let lock = lock(&folder.join(LOCK))?;
        let (run, fingerprint) = (folder.join(RUN), fingerprint.finish());
        let work = Self { folder, _lock: lock };
        if fs::read_to_string(&run).ok().as_deref() != Some(&fingerprint) {
            work.clear_blocks()?;
            fs::write(&run, fingerprint).map_err(QuantizeError::io(&run))?;
        }
        Ok(work)
    }

    /// The file of block `index`.
    pub(crate) fn path(&self, index: usize) -> PathBuf {
        self.folder.join(format!("block-{index:05}.safetensors"))
    }

    /// How many of `n_blocks` are there, counted from the first.
    pub(crate) fn n_found(&self, n_blocks: usize) -> usize {
        let n_found = (0..n_blocks).take_while(|&index| self.path(index).exists()).count();
        if n_found > 0 {
            info!("An earlier run finished {n_found} of {n_blocks} blocks; going on from there");
        }
        n_found
    }

    /// Keeps a finished block; its file appears whole.
    pub(crate) fn keep(&self, index: usize, tensors: &[NewTensor]) -> Result<(), QuantizeError> {
        let path = self.path(index);
        let partial = path.with_extension("partial");
        let views: Result<Vec<_>, _> = tensors
            .iter()
            .map(|t| Ok((t.name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes)?)))
            .collect();
        let written = views.and_then(|views| safetensors::serialize(views, None));
        let bytes = written.map_err(|error| QuantizeError::Numbers(error.to_string()))?;
        fs::write(&partial, bytes).map_err(QuantizeError::io(&partial))?;
        fs::rename(&partial, &path).map_err(QuantizeError::io(&path))
    }

    /// The tensors of a finished block.
    pub(crate) fn read(&self, index: usize) -> Result<Vec<NewTensor>, QuantizeError> {
        let path = self.path(index);
        let bytes = fs::read(&path).map_err(QuantizeError::io(&path))?;
        let damaged = |error| QuantizeError::Numbers(format!("{}: {error}; delete it", path.display()));
        let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let tensors = file.iter().map(|(name, view)| NewTensor {
            name: name.to_owned(),
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        });
        Ok(tensors.collect())
    }

    /// Deletes the folder: the checkpoint is written.
    pub(crate) fn finish(self) -> Result<(), QuantizeError> {
        fs::remove_dir_all(&self.folder).map_err(QuantizeError::io(&self.folder))
    }

    fn clear_blocks(&self) -> Result<(), QuantizeError> {
        for entry in fs::read_dir(&self.folder).map_err(QuantizeError::io(&self.folder))? {
            let path = entry.map_err(QuantizeError::io(&self.folder))?.path();
            if path.file_name().is_some_and(|name| name != LOCK) {
                fs::remove_file(&path).map_err(QuantizeError::io(&path))?;
            }
        }
        Ok(())
    }
}

fn lock(path: &Path) -> Result<File, QuantizeError> {
    let file = File::create(path).map_err(QuantizeError::io(path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(QuantizeError::Argument(format!(
            "another run is writing there ({} is locked)",
            path.display()
        ))),
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => Err(QuantizeError::io(path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::Dtype;

    fn open(out: &Path, settings: &str) -> Result<Work, QuantizeError> {
        Work::open(out, Fingerprint::new().add(settings.as_bytes()))
    }

    #[test]
    fn blocks_outlive_a_run_of_the_same_settings_only() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let out = folder.path().join("out");
        let block =
            vec![NewTensor { name: "a".into(), dtype: Dtype::F16, shape: vec![1], bytes: vec![1, 2] }];
        let work = open(&out, "g64").expect("opened");
        assert_eq!(work.n_found(3), 0);
        work.keep(0, &block).expect("kept");
        work.keep(2, &block).expect("kept");
        drop(work);
        let again = open(&out, "g64").expect("opened");
        assert_eq!((again.n_found(3), again.read(0).expect("read")), (1, block));
        let busy = open(&out, "g64").err().expect("locked").to_string();
        assert!(busy.contains("another run is writing there"), "{busy}");
        drop(again);
        let other = open(&out, "g128").expect("opened");
        assert_eq!(other.n_found(3), 0);
        other.finish().expect("deleted");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 0);
    }

    #[test]
    fn parts_of_a_fingerprint_cannot_flow_together() {
        let of =
            |parts: &[&str]| parts.iter().fold(Fingerprint::new(), |f, part| f.add(part.as_bytes())).finish();
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
    }

    #[test]
    fn another_configuration_is_another_run() {
        let model = tempfile::tempdir().expect("temporary folder");
        let digest = || Fingerprint::new().add_model(model.path()).expect("read").finish();
        let write = |name: &str, text: &str| fs::write(model.path().join(name), text).expect("written");
        write("model.safetensors", "weights");
        write("config.json", "{}");
        let first = digest();
        write("README.md", "about it");
        assert_eq!(digest(), first);
        write("config.json", r#"{"rope_theta": 5e5}"#);
        assert_ne!(digest(), first);
    }
}
