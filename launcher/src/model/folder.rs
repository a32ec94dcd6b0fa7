//! Looks into a model folder: is there a configuration, are the weight files it needs all there?
//!
//! Called for every model before anything is spawned. Reads JSON of bounded size and file names,
//! never a weight file, and never anything but safetensors counts as weights.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use text_generation_limits::files::{MAX_JSON_BYTES, MAX_JSON_VALUES, check_json_values};

use super::facts::ModelFacts;
use crate::args::ModelArgs;

/// The file that names the shards of a checkpoint in several files.
pub(super) const INDEX: &str = "model.safetensors.index.json";
const MISSING_SHOWN: usize = 3;

/// What must be in a model folder beside its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// All weight files.
    Whole,
    /// Nothing: the shard makes random ones.
    Dummy,
}

impl Weights {
    /// What the flags ask for.
    pub fn of(args: &ModelArgs) -> Self {
        if args.dummy_weights { Self::Dummy } else { Self::Whole }
    }
}

/// Facts of the model in `folder`, if the folder is complete.
///
/// # Errors
/// One sentence with what is missing or unreadable, what was expected, and what to do.
pub fn read_folder(folder: &Path, weights: Weights) -> Result<ModelFacts, String> {
    if !folder.is_dir() {
        return Err(format!("there is no folder {}", folder.display()));
    }
    let config = read_json(folder, "config.json")?.ok_or_else(|| {
        format!("{} holds no config.json. A Hugging Face model folder is expected", folder.display())
    })?;
    if !config.is_object() {
        return Err(format!("config.json in {} is not a JSON object", folder.display()));
    }
    if weights == Weights::Whole {
        check_weights(folder)?;
    }
    let mut quant_files = Vec::new();
    for name in ["quant_config.json", "quantize_config.json"] {
        if let Some(content) = read_json(folder, name)? {
            quant_files.push((name, content));
        }
    }
    Ok(ModelFacts::new(&config, &quant_files))
}

/// The file's JSON, `None` when there is no such file.
pub(super) fn read_json(folder: &Path, name: &str) -> Result<Option<Value>, String> {
    let path = folder.join(name);
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
    };
    if !metadata.is_file() || metadata.len() > MAX_JSON_BYTES as u64 {
        return Err(format!("{} is not a JSON file of at most {MAX_JSON_BYTES} bytes", path.display()));
    }
    let text =
        fs::read_to_string(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    check_json_values(text.as_bytes(), MAX_JSON_VALUES)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let value =
        serde_json::from_str(&text).map_err(|error| format!("{} is not JSON: {error}", path.display()))?;
    Ok(Some(value))
}

fn check_weights(folder: &Path) -> Result<(), String> {
    let names = file_names(folder)?;
    if let Some(index) = read_json(folder, INDEX)? {
        return check_index(&index, &names, folder);
    }
    let has = |suffix: &str| names.iter().any(|name| name.ends_with(suffix));
    if has(".safetensors") {
        return Ok(());
    }
    let folder = folder.display();
    if has(".bin") || has(".pt") || has(".pth") {
        return Err(format!(
            "{folder} holds pickled weights (.bin, .pt) but no *.safetensors. Pickle can run code and is never \
             loaded: use a safetensors revision of the model, or convert it with the safetensors package"
        ));
    }
    if has(".gguf") {
        return Err(format!(
            "{folder} holds a GGUF file but no *.safetensors. \
             Convert it first: text-generation-launcher convert GGUF OUT"
        ));
    }
    Err(format!("{folder} holds no *.safetensors weights"))
}

fn file_names(folder: &Path) -> Result<BTreeSet<String>, String> {
    let unreadable = |error: std::io::Error| format!("{} cannot be listed: {error}", folder.display());
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        // Follows links: in the Hub's cache a link may outlive the file it points to.
        if let (true, Some(name)) = (path.is_file(), path.file_name().and_then(|name| name.to_str())) {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

fn check_index(index: &Value, present: &BTreeSet<String>, folder: &Path) -> Result<(), String> {
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| format!("{INDEX} in {} has no object `weight_map`", folder.display()))?;
    let needed: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    let missing: Vec<&str> = needed.iter().copied().filter(|name| !present.contains(*name)).collect();
    if needed.is_empty() {
        return Err(format!("`weight_map` of {INDEX} in {} names no file", folder.display()));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let shown = missing.iter().take(MISSING_SHOWN).copied().collect::<Vec<_>>().join(", ");
    let more = if missing.len() > MISSING_SHOWN { ", ..." } else { "" };
    Err(format!(
        "{} of the {} weight files that {INDEX} names are missing in {}: {shown}{more}",
        missing.len(),
        needed.len(),
        folder.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Folder made of `(name, content)`, judged.
    fn check(files: &[(&str, &str)]) -> Result<ModelFacts, String> {
        let folder = tempfile::tempdir().expect("temporary folder");
        for (name, content) in files {
            fs::write(folder.path().join(name), content).expect("written");
        }
        read_folder(folder.path(), Weights::Whole)
    }

    const INDEX_OF_TWO: &str = r#"{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#;

    #[test]
    fn complete_folders() {
        let single = check(&[("config.json", r#"{"n_positions": 4}"#), ("model.safetensors", "")]);
        assert_eq!(single.expect("complete").positions.map(|found| found.limit), Some(4));
        let sharded =
            [("config.json", "{}"), (INDEX, INDEX_OF_TWO), ("a.safetensors", ""), ("b.safetensors", "")];
        assert!(check(&sharded).is_ok());
    }

    #[test]
    fn incomplete_folders() {
        let cases: [(&[(&str, &str)], &str); 11] = [
            (&[], "holds no config.json"),
            (&[("config.json", "{")], "is not JSON"),
            (&[("config.json", "[]")], "is not a JSON object"),
            (&[("config.json", "{}")], "holds no *.safetensors weights"),
            (&[("config.json", "{}"), ("pytorch_model.bin", "")], "Pickle can run code and is never loaded"),
            (&[("config.json", "{}"), ("model.gguf", "")], "Convert it first"),
            (&[("config.json", "{}"), (INDEX, "{}")], "has no object `weight_map`"),
            (&[("config.json", "{}"), (INDEX, r#"{"weight_map": {}}"#)], "names no file"),
            (&[("config.json", "{}"), (INDEX, INDEX_OF_TWO)], "2 of the 2 weight files"),
            (
                &[("config.json", "{}"), (INDEX, INDEX_OF_TWO), ("a.safetensors", "")],
                "1 of the 2 weight files that model.safetensors.index.json names are missing",
            ),
            (&[("config.json", "{}"), ("m.safetensors", ""), ("quant_config.json", "?")], "is not JSON"),
        ];
        for (files, part) in cases {
            let message = check(files).expect_err(part);
            assert!(message.contains(part), "{files:?}: {message}");
        }
        let missing = read_folder(Path::new("/no/such/folder"), Weights::Dummy).expect_err("missing");
        assert_eq!(missing, "there is no folder /no/such/folder");
    }

    #[test]
    fn dummy_weights_need_a_configuration_alone() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let read = || read_folder(folder.path(), Weights::Dummy);
        assert!(read().expect_err("empty").contains("holds no config.json"));
        fs::write(folder.path().join("config.json"), r#"{"n_positions": 4}"#).expect("written");
        assert_eq!(read().expect("complete").positions.map(|found| found.limit), Some(4));
    }

    #[test]
    fn a_dangling_link_is_a_missing_file() {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::write(folder.path().join("config.json"), "{}").expect("written");
        std::os::unix::fs::symlink("/no/such/blob", folder.path().join("model.safetensors")).expect("linked");
        assert!(
            read_folder(folder.path(), Weights::Whole)
                .expect_err("dangling")
                .contains("holds no *.safetensors")
        );
    }
}
