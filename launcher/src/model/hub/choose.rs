//! Which files of a repository a server needs. Pure: a listing in, names out.
//!
//! Called by `mod`, first for the small files and then, with the index among them read, for the
//! weights. Never names a pickle, a script, or a file that nothing here reads.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::folder::INDEX;
use super::error::HubError;
use super::listing::{Listing, RemoteFile, check_path};

/// Configuration, tokenizer and template files that the shard or the router reads.
const DESCRIPTION: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "quant_config.json",
    "quantize_config.json",
    "tokenizer.json",
    "qwen.tiktoken",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
];
const VOCABULARIES: [&str; 2] = ["qwen.tiktoken", "tokenizer.json"];
const SINGLE: &str = "model.safetensors";
/// Parts of names of safetensors that are not a model's own weights.
const NOT_WEIGHTS: [&str; 5] = ["adapter", "consolidated", "arguments", "args", "training"];

/// The small files, the index of a sharded checkpoint among them.
///
/// # Errors
/// [`HubError::Unusable`] when the repository can be seen not to hold a servable model.
pub(super) fn description(listing: &Listing) -> Result<Vec<&RemoteFile>, HubError> {
    let unusable = |reason: &str| Err(HubError::Unusable(format!("the repository {reason}")));
    if listing.get("config.json").is_none() {
        return unusable("holds no config.json, so it is no model in Hugging Face's format");
    }
    if !VOCABULARIES.iter().any(|name| listing.get(name).is_some()) {
        return unusable(
            "holds neither tokenizer.json nor qwen.tiktoken, and no other vocabulary is read. \
             Choose a revision that has one of them",
        );
    }
    if let Some(reason) = no_weights(listing) {
        return unusable(reason);
    }
    let mut files: Vec<&RemoteFile> = DESCRIPTION.iter().filter_map(|name| listing.get(name)).collect();
    if listing.get(SINGLE).is_none() {
        files.extend(listing.get(INDEX));
    }
    Ok(files)
}

fn no_weights(listing: &Listing) -> Option<&'static str> {
    let has = |suffix: &str| listing.files.iter().any(|file| file.name.ends_with(suffix));
    if listing.files.iter().any(|file| is_weight(&file.name)) {
        None
    } else if has(".gguf") {
        Some(
            "holds GGUF files but no *.safetensors. Fetch one of them by other means and convert it: \
             text-generation-launcher convert GGUF OUT",
        )
    } else if has(".bin") || has(".pt") || has(".pth") {
        Some(
            "holds pickled weights (.bin, .pt) but no *.safetensors. Pickle can run code and is never loaded: \
             choose a revision or a sister repository with safetensors",
        )
    } else if has(".safetensors") {
        Some("holds adapters or parts, but no whole model in *.safetensors")
    } else {
        Some("holds no *.safetensors weights")
    }
}

fn is_weight(name: &str) -> bool {
    name.ends_with(".safetensors") && !NOT_WEIGHTS.iter().any(|part| name.contains(part))
}

/// The weight files: `model.safetensors`, else those that `index` names, else every other *.safetensors.
///
/// # Errors
/// [`HubError::Unusable`] for an index that names other folders' files, or files that are not there.
pub(super) fn weights<'a>(
    listing: &'a Listing,
    index: Option<&Value>,
) -> Result<Vec<&'a RemoteFile>, HubError> {
    if let Some(single) = listing.get(SINGLE) {
        return Ok(vec![single]);
    }
    let Some(index) = index else {
        return Ok(listing.files.iter().filter(|file| is_weight(&file.name)).collect());
    };
    let unusable = |reason: String| HubError::Unusable(format!("{INDEX} {reason}"));
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| unusable("has no `weight_map` that names files".to_owned()))?;
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let name = file.as_str().ok_or_else(|| unusable(format!("gives tensor {tensor:?} no file name")))?;
        check_path(name)?;
        if name.contains('/') || !name.ends_with(".safetensors") {
            return Err(unusable(format!("names {name:?}, expected a *.safetensors file beside it")));
        }
        names.insert(name);
    }
    let found = |name: &str| {
        listing.get(name).ok_or_else(|| unusable(format!("names {name}, which the repository does not hold")))
    };
    names.into_iter().map(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn listing(names: &[&str]) -> Listing {
        let siblings: Vec<Value> = names.iter().map(|name| json!({ "rfilename": name })).collect();
        Listing::parse(json!({"sha": "0".repeat(40), "siblings": siblings}).to_string().as_bytes())
            .expect("listing")
    }

    fn names(files: Vec<&RemoteFile>) -> Vec<&str> {
        files.into_iter().map(|file| file.name.as_str()).collect()
    }

    const BASE: [&str; 2] = ["config.json", "tokenizer.json"];

    #[test]
    fn the_small_files() {
        let all = listing(&[
            "README.md",
            ".gitattributes",
            "config.json",
            "modeling_qwen.py",
            "qwen.tiktoken",
            "pytorch_model.bin",
            "model-00001-of-00002.safetensors",
            INDEX,
            "quant_config.json",
            "training_args.bin",
            "vocab.json",
        ]);
        let chosen = names(description(&all).expect("servable"));
        assert_eq!(chosen, ["config.json", "quant_config.json", "qwen.tiktoken", INDEX]);
        let single = listing(&["config.json", "tokenizer.json", SINGLE, INDEX]);
        assert_eq!(names(description(&single).expect("servable")), BASE);
    }

    #[test]
    fn repositories_that_cannot_be_served() {
        let cases: [(&[&str], &str); 7] = [
            (&["model.safetensors", "tokenizer.json"], "holds no config.json"),
            (
                &["config.json", "model.safetensors", "tokenizer.model"],
                "neither tokenizer.json nor qwen.tiktoken",
            ),
            (&["config.json", "tokenizer.json"], "holds no *.safetensors weights"),
            (&["config.json", "tokenizer.json", "pytorch_model.bin"], "Pickle can run code"),
            (&["config.json", "tokenizer.json", "model.q4.gguf"], "convert GGUF OUT"),
            (&["config.json", "tokenizer.json", "adapter_model.safetensors"], "holds adapters"),
            (&["config.json", "tokenizer.json", "sub/model.safetensors"], "holds no *.safetensors weights"),
        ];
        for (files, part) in cases {
            let message = description(&listing(files)).expect_err(part).to_string();
            assert!(message.contains(part), "{files:?}: {message}");
        }
    }

    #[test]
    fn the_weights() {
        let shards = [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "consolidated.safetensors",
        ];
        let index = json!({"weight_map": {"a": shards[1], "b": shards[0], "c": shards[1]}});
        assert_eq!(names(weights(&listing(&shards), Some(&index)).expect("named")), shards[..2]);
        assert_eq!(names(weights(&listing(&shards), None).expect("named")), shards[..2]);
        let both = [SINGLE, shards[0], "other.safetensors"];
        assert_eq!(names(weights(&listing(&both), Some(&index)).expect("named")), [SINGLE]);
        let gptq = ["gptq_model-4bit-128g.safetensors", "adapter_model.safetensors"];
        assert_eq!(names(weights(&listing(&gptq), None).expect("named")), gptq[..1]);
    }

    #[test]
    fn indices_that_are_refused() {
        let cases = [
            (json!({}), "has no `weight_map`"),
            (json!({"weight_map": {}}), "has no `weight_map`"),
            (json!({"weight_map": {"a": 1}}), "gives tensor \"a\" no file name"),
            (json!({"weight_map": {"a": "../../x.safetensors"}}), "no path inside it"),
            (json!({"weight_map": {"a": "/x.safetensors"}}), "no path inside it"),
            (json!({"weight_map": {"a": "sub/x.safetensors"}}), "expected a *.safetensors file beside it"),
            (json!({"weight_map": {"a": "x.bin"}}), "expected a *.safetensors file beside it"),
            (json!({"weight_map": {"a": "gone.safetensors"}}), "which the repository does not hold"),
        ];
        for (index, part) in cases {
            let listing = listing(&["x.safetensors", "x.bin"]);
            let message = weights(&listing, Some(&index)).expect_err(part).to_string();
            assert!(message.contains(part), "{index}: {message}");
        }
    }
}
