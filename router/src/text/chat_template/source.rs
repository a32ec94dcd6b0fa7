//! Finds the chat template of a checkpoint folder and the special tokens that it may name.
//!
//! Called once by `ChatTemplate::from_dir`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::text::TextError;
use crate::text::files::{file_error, read_json, read_json_if_present, read_text, token_content};
use crate::text::tokenizer::QWEN_VOCABULARY;

/// Variables of a template that hold special tokens, as tokenizer_config.json names them too.
const TOKEN_VARIABLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What a folder offers.
pub enum Found {
    Template(TemplateSource),
    /// The original Qwen: its folder has no template, its code builds ChatML.
    QwenChatMl,
    Nothing,
}

/// A template's text, the file it comes from, and the special tokens of the tokenizer.
pub struct TemplateSource {
    pub path: PathBuf,
    pub text: String,
    pub tokens: Vec<(&'static str, String)>,
}

/// In order: the overriding tokenizer_config.json, chat_template.jinja, chat_template.json, the
/// folder's own tokenizer_config.json, the built-in.
pub fn find(dir: &Path, tokenizer_config_path: Option<&Path>) -> Result<Found, TextError> {
    let own_path = dir.join("tokenizer_config.json");
    let config_path = tokenizer_config_path.unwrap_or(&own_path);
    let config = match tokenizer_config_path {
        Some(path) => read_json(path)?,
        None => read_json_if_present(&own_path)?.unwrap_or_default(),
    };
    let in_config =
        || template_of(config_path, &config).map(|text| text.map(|t| (config_path.to_path_buf(), t)));
    let found = match tokenizer_config_path {
        Some(_) => in_config()?.map_or_else(|| beside_config(dir), |found| Ok(Some(found)))?,
        None => beside_config(dir)?.map_or_else(in_config, |found| Ok(Some(found)))?,
    };
    match found {
        Some((path, text)) => {
            Ok(Found::Template(TemplateSource { path, text, tokens: special_tokens(&config) }))
        }
        None if dir.join(QWEN_VOCABULARY).exists() => Ok(Found::QwenChatMl),
        None => Ok(Found::Nothing),
    }
}

/// chat_template.jinja, else chat_template.json.
fn beside_config(dir: &Path) -> Result<Option<(PathBuf, String)>, TextError> {
    let path = dir.join("chat_template.jinja");
    if path.exists() {
        let text = read_text(&path)?;
        return Ok(Some((path, text)));
    }
    let path = dir.join("chat_template.json");
    let Some(config) = read_json_if_present(&path)? else { return Ok(None) };
    Ok(template_of(&path, &config)?.map(|text| (path, text)))
}

/// `chat_template`: a text, or a list of named ones of which `default` is taken.
fn template_of(path: &Path, config: &Value) -> Result<Option<String>, TextError> {
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|entry| entry.get("name").is_some_and(|name| name == "default"));
            let text = default.and_then(|entry| entry.get("template")).and_then(Value::as_str);
            text.map(|text| Some(text.to_string())).ok_or_else(|| {
                file_error(path, "chat_template: expected one named \"default\" in the list of templates")
            })
        }
        Some(_) => Err(file_error(path, "chat_template: expected a text or a list of named templates")),
    }
}

fn special_tokens(config: &Value) -> Vec<(&'static str, String)> {
    let token = |name: &'static str| Some((name, token_content(config.get(name)?)?.to_string()));
    TOKEN_VARIABLES.into_iter().filter_map(token).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes files into a folder of their own; what is found there.
    fn find_in(files: &[(&str, &str)], override_name: Option<&str>) -> Result<String, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let override_path = override_name.map(|name| dir.path().join(name));
        match find(dir.path(), override_path.as_deref()) {
            Ok(Found::Template(source)) => Ok(format!("{} {:?}", source.text, source.tokens)),
            Ok(Found::QwenChatMl) => Ok("chatml".into()),
            Ok(Found::Nothing) => Ok("nothing".into()),
            Err(e) => Err(e.to_string()),
        }
    }

    #[test]
    fn templates_are_found_in_order() {
        let own = ("tokenizer_config.json", r#"{"chat_template": "own", "eos_token": {"content": "</s>"}}"#);
        let jinja = ("chat_template.jinja", "jinja");
        let json = ("chat_template.json", r#"{"chat_template": "json"}"#);
        let given = ("given.json", r#"{"chat_template": "given", "bos_token": "<s>", "eos_token": null}"#);
        let bare = ("bare.json", r#"{"bos_token": "<s>"}"#);
        let qwen = (QWEN_VOCABULARY, "");
        let check = |files: &[(&str, &str)], override_name: Option<&str>, expected: &str| {
            assert_eq!(find_in(files, override_name).unwrap(), expected);
        };
        check(&[], None, "nothing");
        check(&[qwen], None, "chatml");
        check(&[qwen, own], None, r#"own [("eos_token", "</s>")]"#);
        check(&[own, json], None, r#"json [("eos_token", "</s>")]"#);
        check(&[own, json, jinja], None, r#"jinja [("eos_token", "</s>")]"#);
        check(&[own, json, jinja, given], Some("given.json"), r#"given [("bos_token", "<s>")]"#);
        check(&[own, jinja, bare], Some("bare.json"), r#"jinja [("bos_token", "<s>")]"#);
        check(&[own, bare], Some("bare.json"), "nothing");
        let named = r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
        check(&[("tokenizer_config.json", named)], None, "d []");
    }

    #[test]
    fn bad_templates_are_named() {
        let check = |content: &str, expected: &str| {
            let message = find_in(&[("tokenizer_config.json", content)], None).unwrap_err();
            assert!(message.contains("tokenizer_config.json") && message.contains(expected), "{message}");
        };
        check(r#"{"chat_template": 1}"#, "expected a text or a list");
        check(r#"{"chat_template": [{"name": "rag", "template": "t"}]}"#, "\"default\"");
        check(r#"{"chat_template": [1, {"name": "default"}]}"#, "\"default\"");
        assert!(find_in(&[], Some("absent.json")).unwrap_err().contains("absent.json"));
    }
}
