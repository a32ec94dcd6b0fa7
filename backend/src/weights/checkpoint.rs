//! All tensors of a model folder by name. Made once by `model::load`.
//!
//! Opening maps the files and reads their headers; tensors are checked for shape and type when they
//! are asked for, and their bytes are touched only by whoever packs them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::Dtype;

use super::files;
use super::header::{self, Entry};
use super::mmap::MappedFile;
use super::tensor::{DType, Tensor};
use crate::config::fields::{MAX_DETAIL_CHARS, clipped};
use crate::error::LoadError;

const FLOATS: &[DType] = &[DType::F16, DType::BF16, DType::F32];

/// The mapped weights of one model folder.
pub struct Checkpoint {
    dir: PathBuf,
    files: Vec<(PathBuf, Arc<MappedFile>)>,
    /// By name: index into `files`, and place in that file.
    tensors: HashMap<String, (usize, Entry)>,
}

impl Checkpoint {
    /// Opens model.safetensors, or the shards that model.safetensors.index.json names, or every
    /// *.safetensors of `dir`.
    ///
    /// # Errors
    /// No such folder or weights, a header that disagrees with its file, a missing shard, an index
    /// that disagrees with the shards, a tensor that is in two shards.
    pub fn open(dir: &Path) -> Result<Checkpoint, LoadError> {
        let mut checkpoint =
            Checkpoint { dir: dir.to_path_buf(), files: Vec::new(), tensors: HashMap::new() };
        for (path, expected) in files::find(dir)? {
            checkpoint.add_file(&path, &expected)?;
        }
        Ok(checkpoint)
    }

    fn add_file(&mut self, path: &Path, expected: &[String]) -> Result<(), LoadError> {
        let error = |detail| LoadError::Safetensors {
            path: path.to_path_buf(),
            detail: clipped(detail, MAX_DETAIL_CHARS),
        };
        let map = MappedFile::open(path)?;
        let entries = header::parse(map.as_ref()).map_err(error)?;
        let file_idx = self.files.len();
        for (name, entry) in entries {
            if let Some((other, _)) = self.tensors.get(&name) {
                let other = self.files[*other].0.display();
                return Err(error(format!("tensor `{name}` is also in {other}; expected it once")));
            }
            self.tensors.insert(name, (file_idx, entry));
        }
        let in_this_file = |name: &String| self.tensors.get(name).is_some_and(|(idx, _)| *idx == file_idx);
        if let Some(name) = expected.iter().find(|name| !in_this_file(name)) {
            return Err(error(format!(
                "the index says that tensor `{name}` is here, but it is not; fetch both again"
            )));
        }
        self.files.push((path.to_path_buf(), Arc::new(map)));
        Ok(())
    }

    /// Whether the checkpoint has a tensor called `name`, of any type.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Asks the kernel to start reading all files.
    pub fn read_ahead(&self) {
        self.files.iter().for_each(|(_, map)| map.read_ahead());
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> usize {
        self.tensors.values().map(|(_, entry)| entry.range.len()).sum()
    }

    /// The float tensor `name`, which must have exactly this shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        self.typed_tensor(name, shape, FLOATS, "config.json and the weights do not belong together")
    }

    /// The tensor `name`, which must have exactly this shape and one of `dtypes`; `hint` ends the error
    /// where it has not.
    pub(super) fn typed_tensor(
        &self,
        name: &str,
        shape: &[usize],
        dtypes: &[DType],
        hint: &str,
    ) -> Result<Tensor, LoadError> {
        let error = |detail| LoadError::Tensor { name: name.to_owned(), detail };
        let Some((file_idx, entry)) = self.tensors.get(name) else {
            return Err(error(self.missing(name)));
        };
        let (path, map) = &self.files[*file_idx];
        let dtype = known(entry.dtype).filter(|dtype| dtypes.contains(dtype));
        match dtype.filter(|_| entry.shape == shape) {
            Some(dtype) => Ok(Tensor {
                name: name.to_owned(),
                dtype,
                shape: shape.to_vec(),
                data: Arc::clone(map) as _,
                range: entry.range.clone(),
            }),
            None => Err(error(format!(
                "expected {} {shape:?}, got {} {:?} in {}; {hint}",
                names(dtypes),
                entry.dtype,
                entry.shape,
                path.display()
            ))),
        }
    }

    fn missing(&self, name: &str) -> String {
        let quantized = name.strip_suffix(".weight").map(|prefix| format!("{prefix}.qweight"));
        let hint = match quantized.filter(|name| self.has(name)) {
            Some(quantized) => format!(
                "; `{quantized}` is there: the layer is quantized, but the model's configuration says it is not"
            ),
            None => String::new(),
        };
        format!("not among the {} tensors of {}{hint}", self.tensors.len(), self.dir.display())
    }
}

fn known(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F32 => Some(DType::F32),
        Dtype::I16 => Some(DType::I16),
        Dtype::I32 => Some(DType::I32),
        _ => None,
    }
}

fn names(dtypes: &[DType]) -> String {
    dtypes.iter().map(|dtype| format!("{dtype:?}")).collect::<Vec<_>>().join(" or ")
}
