//! From `--model-id` to a checked local folder: a path, a snapshot in the Hugging Face cache, or the
//! starter model.
//!
//! Called by `launch` before anything is spawned. Reads only small files (configuration, names of
//! weight files); never a weight, never the network: fetching the starter model is `starter`'s.

mod facts;
mod folder;
mod hub_cache;
pub mod starter;

use std::path::{Path, PathBuf};

pub use facts::{ModelFacts, Positions, QuantizationFact};
pub use folder::{Weights, read_folder};
pub use hub_cache::{CacheVariables, HubCache};

use crate::args::ModelArgs;
use crate::error::LauncherError;

/// What `--model-id` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder on this machine, used as it is.
    Folder(PathBuf),
    /// A repository of the Hub, by its id.
    Hub(String),
    /// No `--model-id`.
    Starter,
}

impl ModelSource {
    /// Tells a folder from a Hub id, without reading the folder.
    ///
    /// # Errors
    /// [`LauncherError::ArgumentValidation`] for what is neither: a missing path, or a file.
    pub fn of(model_id: Option<&str>) -> Result<Self, LauncherError> {
        let Some(id) = model_id else { return Ok(Self::Starter) };
        let path = Path::new(id);
        if path.is_dir() {
            return Ok(Self::Folder(path.to_path_buf()));
        }
        if path.is_file() {
            return Err(LauncherError::argument(not_a_folder(id)));
        }
        if is_hub_id(id) {
            return Ok(Self::Hub(id.to_owned()));
        }
        Err(LauncherError::argument(format!(
            "`model_id`: there is no folder {id}, and it is no Hub id (`name` or `owner/name`) either"
        )))
    }
}

fn not_a_folder(id: &str) -> String {
    if id.to_ascii_lowercase().ends_with(".gguf") {
        return format!(
            "`model_id` is a GGUF file ({id}). Turn it into a folder first: text-generation-launcher convert {id} OUT"
        );
    }
    format!("`model_id` must be a folder with config.json and *.safetensors, but {id} is a file")
}

/// `name` or `owner/name`, in the characters that the Hub allows.
fn is_hub_id(id: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let parts: Vec<&str> = id.split('/').collect();
    parts.len() <= 2
        && parts.iter().all(|part| !part.is_empty() && part.chars().all(allowed) && !part.contains(".."))
        && !id.starts_with('.')
}

/// The snapshot of a Hub repository in the cache on this machine.
///
/// # Errors
/// [`LauncherError::Download`] when it is absent or incomplete; nothing is downloaded.
pub fn find_snapshot(id: &str, args: &ModelArgs, cache: &HubCache) -> Result<PathBuf, LauncherError> {
    let revision = args.revision.as_deref().unwrap_or("main");
    let found = cache.snapshot(id, revision);
    let usable = found.as_deref().map(|folder| read_folder(folder, Weights::of(args)));
    let reason = match (found, usable) {
        (Some(path), Some(Ok(_))) => return Ok(path),
        (_, Some(Err(reason))) => format!("its snapshot in the cache is incomplete: {reason}"),
        _ => format!("revision {revision} is not in the cache {}", cache.root().display()),
    };
    Err(LauncherError::Download(format!(
        "{id} cannot be loaded: {reason}. This release does not download models: fetch it with `hf download {id}` of \
         huggingface_hub, or pass the path of a local folder as --model-id"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_folders_from_hub_ids() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("model.gguf");
        std::fs::write(&file, b"GGUF").expect("written");
        let path = folder.path().to_str().expect("UTF-8");
        assert_eq!(ModelSource::of(Some(path)), Ok(ModelSource::Folder(folder.path().to_path_buf())));
        assert_eq!(ModelSource::of(None), Ok(ModelSource::Starter));
        for id in ["gpt2", "TheBloke/Qwen-14B-Chat-AWQ", "a/b.c_d-1"] {
            assert_eq!(ModelSource::of(Some(id)), Ok(ModelSource::Hub(id.to_owned())), "{id}");
        }
        let refused = [
            ("/no/such/folder", "there is no folder /no/such/folder"),
            ("./missing", "there is no folder ./missing"),
            ("a/b/c", "there is no folder a/b/c"),
            ("../x", "there is no folder ../x"),
            ("", "there is no folder"),
            ("a b", "there is no folder a b"),
            (file.to_str().expect("UTF-8"), "text-generation-launcher convert"),
        ];
        for (id, part) in refused {
            let message = ModelSource::of(Some(id)).expect_err(id).to_string();
            assert!(message.contains(part), "{id}: {message}");
        }
    }
}
