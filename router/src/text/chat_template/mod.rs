//! Chat messages to a prompt: the model's own template, or the original Qwen's built-in ChatML.
//!
//! Built once from the checkpoint folder, applied by the chat endpoints. Templates come with the model
//! and messages from clients: rendering is bounded in work and memory and touches nothing outside.

mod chatml;
mod jinja;
mod source;

use std::path::Path;
use std::time::SystemTime;

use super::TextError;
use jinja::JinjaTemplate;

/// A chat prompt after its template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// One text in which special tokens are parsed (a template's output).
    Text(String),
    /// Parts encoded one by one (Qwen v1's ChatML): text in `PromptPart::Text` cannot inject a special token.
    Parts(Vec<PromptPart>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptPart {
    Special(&'static str),
    Text(String),
}

impl Prompt {
    /// Its texts in order.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        let (one, parts): (Option<&str>, &[PromptPart]) = match self {
            Self::Text(text) => (Some(text), &[]),
            Self::Parts(parts) => (None, parts),
        };
        one.into_iter().chain(parts.iter().map(PromptPart::text))
    }

    /// All of it as one text.
    pub fn text(&self) -> String {
        self.parts().collect()
    }

    /// Bytes of all of it.
    pub fn n_bytes(&self) -> usize {
        self.parts().map(str::len).sum()
    }
}

impl PromptPart {
    pub fn text(&self) -> &str {
        match self {
            Self::Special(text) => text,
            Self::Text(text) => text,
        }
    }
}

/// One chat message as templates see it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ChatMessage {
    pub role: String,
    pub content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The model's chat template, or the built-in ChatML of the original Qwen.
pub struct ChatTemplate {
    kind: Kind,
}

enum Kind {
    Jinja(Box<JinjaTemplate>),
    QwenChatMl,
}

impl ChatTemplate {
    /// `tokenizer_config_path` overrides the folder's tokenizer_config.json; a template in it comes
    /// before all others. Then chat_template.jinja, chat_template.json, tokenizer_config.json and, for
    /// a folder with `qwen.tiktoken`, the built-in ChatML.
    ///
    /// # Errors
    /// [`TextError::NoTemplate`] where there is none; [`TextError::File`] where one cannot be used.
    pub fn from_dir(dir: &Path, tokenizer_config_path: Option<&Path>) -> Result<Self, TextError> {
        let source = source::find(dir, tokenizer_config_path)?;
        let kind = match source {
            source::Found::Template(template) => Kind::Jinja(Box::new(JinjaTemplate::new(template)?)),
            source::Found::QwenChatMl => Kind::QwenChatMl,
            source::Found::Nothing => return Err(TextError::NoTemplate),
        };
        Ok(Self { kind })
    }

    /// Renders messages and the opening of the assistant's turn. A last message from the assistant
    /// is continued instead (TGI's rule: cut right after its content, right-trimmed).
    pub fn apply(&self, messages: &[ChatMessage]) -> Result<Prompt, TextError> {
        self.apply_at(messages, SystemTime::now())
    }

    /// [`apply`](Self::apply) with the time that the template's `strftime_now` tells, in UTC.
    pub fn apply_at(&self, messages: &[ChatMessage], now: SystemTime) -> Result<Prompt, TextError> {
        match &self.kind {
            Kind::Jinja(template) => template.render(messages, now).map(Prompt::Text),
            Kind::QwenChatMl => Ok(Prompt::Parts(chatml::render(messages))),
        }
    }
}

/// Whether the reply continues the last message instead of opening a turn.
fn continues_last(messages: &[ChatMessage]) -> bool {
    messages.last().is_some_and(|message| message.role == "assistant")
}
