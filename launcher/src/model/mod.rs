//! From `--model-id` to a checked local folder: a path, a model of the Hugging Face Hub, or the starter model.
//!
//! Called by `launch` before anything is spawned. Of a local folder only small files are read
//! (configuration, names of weight files), and never the network: that is `hub`'s and `starter`'s.

mod facts;
mod folder;
pub mod hub;
pub mod starter;

use std::path::{Path, PathBuf};

pub use facts::{ModelFacts, Positions, QuantizationFact};
pub use folder::{Weights, read_folder};

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
