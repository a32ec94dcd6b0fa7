//! Which files of a model folder hold its weights. Called by `Checkpoint::open`.
//!
//! Opens the index of a sharded checkpoint, nothing else. A name in an index must be a plain file
//! name, so that a checkpoint can never make the loader read outside its folder.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::config::fields::{Fields, shown};
use crate::error::LoadError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Weight files in the order they are opened, each with the tensors that an index says it holds.
pub(super) type WeightFiles = Vec<(PathBuf, Vec<String>)>;

/// Finds the weights in `dir`: model.safetensors, else the index's shards, else every *.safetensors.
pub(super) fn find(dir: &Path) -> Result<WeightFiles, LoadError> {
    crate::config::check_folder(dir)?;
    let single = dir.join(SINGLE);
    if single.exists() {
        return Ok(vec![(single, Vec::new())]);
    }
    let index = dir.join(INDEX);
    if index.exists() {
        return shards(dir, &index);
    }
    let mut names = file_names(dir)?;
    names.sort();
    let found: WeightFiles = names
        .iter()
        .filter(|name| name.ends_with(".safetensors"))
        .map(|name| (dir.join(name), Vec::new()))
        .collect();
    if found.is_empty() { Err(no_weights(dir, &names)) } else { Ok(found) }
}

fn file_names(dir: &Path) -> Result<Vec<String>, LoadError> {
    let io = |source| LoadError::Io { path: dir.to_path_buf(), source };
    let entries = std::fs::read_dir(dir).map_err(io)?;
    entries.map(|entry| Ok(entry.map_err(io)?.file_name().to_string_lossy().into_owned())).collect()
}

fn no_weights(dir: &Path, names: &[String]) -> LoadError {
    let ends_with =
        |endings: &[&str]| names.iter().find(|name| endings.iter().any(|ending| name.ends_with(ending)));
    let detail = if let Some(name) = ends_with(&[".bin", ".pt", ".pth", ".ckpt"]) {
        format!(
            "no *.safetensors here, only {name}: pickle files can run code and are never opened; \
             use a safetensors version of the model"
        )
    } else if let Some(name) = ends_with(&[".gguf"]) {
        format!(
            "no *.safetensors here, only {name}; convert it with `text-generation-launcher convert {name} OUT`"
        )
    } else {
        format!("no weights here; expected {SINGLE}, {INDEX} with its shards, or other *.safetensors")
    };
    LoadError::Safetensors { path: dir.to_path_buf(), detail }
}

fn shards(dir: &Path, index: &Path) -> Result<WeightFiles, LoadError> {
    let fields = Fields::read(index)?;
    let map = fields.section("weight_map")?.ok_or_else(|| {
        fields.error("weight_map", "missing; expected an object from tensor names to file names")
    })?;
    let mut by_file: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (tensor, file) in map.entries() {
        let name = file.as_str().filter(|name| is_plain_name(name)).ok_or_else(|| {
            map.error(
                tensor,
                format_args!("expected a *.safetensors file name in this folder, got {}", shown(file)),
            )
        })?;
        by_file.entry(name).or_default().push(tensor.clone());
    }
    if by_file.is_empty() {
        return Err(fields.error("weight_map", "expected at least one tensor, got an empty object"));
    }
    if let Some(missing) = by_file.keys().find(|name| !dir.join(name).exists()) {
        let detail =
            format!("shard {missing} is missing (the index names {} shards); fetch it", by_file.len());
        return Err(LoadError::Safetensors { path: index.to_path_buf(), detail });
    }
    Ok(by_file.into_iter().map(|(name, tensors)| (dir.join(name), tensors)).collect())
}

fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let one = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
    one && !name.contains(['/', '\\', '\0']) && name.ends_with(".safetensors")
}
