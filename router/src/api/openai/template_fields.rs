//! Fields of chats that say how the model's template is used, as vLLM names them. Used by `chat_types`.

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::vllm_fields::{is_empty, refuse_any};
use crate::text::{Ending, TemplateOptions};
use crate::validation::Refusal;

/// Names that templates know as something else than a client's variable.
const RESERVED: [&str; 7] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "raise_exception",
    "strftime_now",
];

#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct TemplateFields {
    /// Whether the prompt opens the assistant's turn. When absent it does, unless the last message is the
    /// assistant's, which is continued.
    add_generation_prompt: Option<bool>,
    /// Whether the answer continues the last message, which is the assistant's.
    continue_final_message: Option<bool>,
    /// Variables for the template.
    chat_template_kwargs: Option<Map<String, Value>>,
    /// Refused: the model's own template is used.
    chat_template: Option<Value>,
    /// Refused unless empty.
    documents: Option<Value>,
    /// Refused unless false.
    echo: Option<bool>,
}

impl TemplateFields {
    /// `by_assistant`: whether the assistant spoke last.
    ///
    /// # Errors
    /// What contradicts itself or is not done here; the latter is passed over when `lenient`.
    pub fn options(&self, by_assistant: bool, lenient: bool) -> Result<TemplateOptions, Refusal> {
        if !lenient {
            refuse_any(&[
                ("chat_template", self.chat_template.is_none()),
                ("documents", self.documents.as_ref().is_none_or(is_empty)),
                ("echo", self.echo != Some(true)),
            ])?;
        }
        let variables = self.chat_template_kwargs.clone().unwrap_or_default();
        if let Some(name) = RESERVED.iter().find(|name| variables.contains_key(**name)) {
            return Err(Refusal(format!("`chat_template_kwargs` cannot have `{name}`")));
        }
        Ok(TemplateOptions { ending: self.ending(by_assistant)?, variables })
    }

    fn ending(&self, by_assistant: bool) -> Result<Ending, Refusal> {
        match (self.continue_final_message, self.add_generation_prompt) {
            (Some(true), Some(true)) => Err(Refusal(
                "`continue_final_message` and `add_generation_prompt` cannot both be true".into(),
            )),
            (Some(true), _) if !by_assistant => {
                Err(Refusal("`continue_final_message` needs a last message whose role is assistant".into()))
            }
            (Some(true), _) | (None, None) => Ok(Ending::Reply),
            (_, Some(false)) => Ok(Ending::Closed),
            (Some(false), _) | (None, Some(true)) => Ok(Ending::NewTurn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(json: &str, by_assistant: bool) -> Result<TemplateOptions, Refusal> {
        serde_json::from_str::<TemplateFields>(json).unwrap().options(by_assistant, false)
    }

    #[test]
    fn endings() {
        use Ending::{Closed, NewTurn, Reply};
        for (json, expected) in [
            ("{}", Reply),
            (r#"{"continue_final_message": true}"#, Reply),
            (r#"{"continue_final_message": true, "add_generation_prompt": false}"#, Reply),
            (r#"{"continue_final_message": false}"#, NewTurn),
            (r#"{"add_generation_prompt": true}"#, NewTurn),
            (r#"{"add_generation_prompt": true, "continue_final_message": false}"#, NewTurn),
            (r#"{"add_generation_prompt": false}"#, Closed),
            (r#"{"add_generation_prompt": false, "continue_final_message": false}"#, Closed),
        ] {
            assert_eq!(options(json, true).unwrap().ending, expected, "{json}");
        }
        assert!(options(r#"{"continue_final_message": true}"#, false).is_err());
        assert!(options(r#"{"continue_final_message": true, "add_generation_prompt": true}"#, true).is_err());
    }

    #[test]
    fn what_is_refused() {
        for (json, name) in [
            (r#"{"chat_template": "{{ x }}"}"#, "chat_template"),
            (r#"{"documents": [{"text": "x"}]}"#, "documents"),
            (r#"{"echo": true}"#, "echo"),
            (r#"{"chat_template_kwargs": {"messages": []}}"#, "messages"),
        ] {
            let Refusal(text) = options(json, false).unwrap_err();
            assert!(text.contains(&format!("`{name}`")), "{text}");
        }
        let json =
            r#"{"documents": [], "echo": false, "chat_template": null, "chat_template_kwargs": {"x": 1}}"#;
        assert_eq!(options(json, false).unwrap().variables.len(), 1);
    }
}
