//! Chat messages to a prompt: the model's own template, or the original Qwen's built-in ChatML.
//!
//! Built once from the checkpoint folder, applied by the chat endpoints. Templates come with the model
//! and messages from clients: rendering is bounded in work and memory and touches nothing outside.

mod chatml;
mod jinja;
mod message;
mod source;

use std::path::Path;
use std::time::SystemTime;

use serde_json::{Map, Value};

use super::TextError;
use jinja::JinjaTemplate;
pub use jinja::python_json;
pub use message::{ChatMessage, ToolCall};

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

/// The model's chat template, or the built-in ChatML of the original Qwen.
pub struct ChatTemplate {
    kind: Kind,
    tool_style: ToolStyle,
}

/// How the functions that a model may call get into its prompt, and in which form it calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolStyle {
    /// The template has a variable for them and `<tool_call>{...}</tool_call>` as their form.
    Template,
    /// The template knows nothing of them: they are told in words, and called in the same form.
    /// `system`: it takes a system message.
    Prompt { system: bool },
    /// The original Qwen's lines of thoughts and actions.
    React,
}

/// What a request may say about its template.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TemplateOptions {
    pub ending: Ending,
    /// For the template. Its own names come first.
    pub variables: Map<String, Value>,
}

/// How a prompt ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ending {
    /// With the opening of the assistant's turn, or, where the assistant spoke last, with that message, to
    /// be continued (TGI's rule: cut right after its content, right-trimmed).
    #[default]
    Reply,
    /// With the opening of the assistant's turn, whoever spoke last.
    NewTurn,
    /// With the last message's turn.
    Closed,
}

/// A conversation to be rendered.
#[derive(Clone, Copy)]
pub struct Chat<'a> {
    pub messages: &'a [ChatMessage],
    /// Definitions of functions, for templates that know what to do with them.
    pub tools: &'a [Value],
    pub options: &'a TemplateOptions,
}

impl Chat<'_> {
    /// Whether the reply continues the last message instead of opening a turn.
    fn continues_last(&self) -> bool {
        let by_assistant = self.messages.last().is_some_and(|message| message.role == "assistant");
        by_assistant && self.options.ending == Ending::Reply
    }

    /// Whether the prompt ends with the opening of the assistant's turn.
    fn opens_turn(&self) -> bool {
        self.options.ending != Ending::Closed
    }
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
        let tool_style = match &kind {
            Kind::Jinja(template) if template.knows_tools() => ToolStyle::Template,
            Kind::Jinja(template) => ToolStyle::Prompt { system: template.takes_system() },
            Kind::QwenChatMl => ToolStyle::React,
        };
        Ok(Self { kind, tool_style })
    }

    pub fn tool_style(&self) -> ToolStyle {
        self.tool_style
    }

    /// The prompt of a conversation.
    pub fn apply(&self, chat: Chat) -> Result<Prompt, TextError> {
        self.apply_at(chat, SystemTime::now())
    }

    /// [`apply`](Self::apply) with the time that the template's `strftime_now` tells, in UTC.
    pub fn apply_at(&self, chat: Chat, now: SystemTime) -> Result<Prompt, TextError> {
        match &self.kind {
            Kind::Jinja(template) => template.render(chat, now).map(Prompt::Text),
            Kind::QwenChatMl => Ok(Prompt::Parts(chatml::render(chat))),
        }
    }
}
