//! A model's Jinja chat template, rendered the way transformers renders it.
//!
//! Called by `ChatTemplate`. Knows no wire types; what a template may call beyond Jinja itself is
//! listed in `functions`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error};

use super::source::TemplateSource;
use super::{Chat, ChatMessage, TemplateOptions};
use crate::text::TextError;
use crate::text::files::file_error;

mod functions;

pub use functions::python_json;

const TEMPLATE_NAME: &str = "chat_template";

/// Work and memory of one rendering: at most about a quarter of a second of one of the runtime's threads, and 64 bytes of
/// output a unit. A conversation of 2 MB in 10,000 messages takes less than a fifth of it.
const FUEL: u64 = 2_500_000;

/// Stands for the end of the message that is continued, to find where to cut. Private-use characters:
/// if a client sends the same, the last one is still ours.
const CUT_MARK: &str = "\u{f8ff}\u{e000}cut\u{e001}\u{f8ff}";

/// A compiled template with the special tokens it may name.
pub struct JinjaTemplate {
    environment: Environment<'static>,
    tokens: Vec<(&'static str, String)>,
    knows_tools: bool,
}

impl JinjaTemplate {
    /// # Errors
    /// [`TextError::File`] with the line where the template's syntax is wrong.
    pub fn new(source: TemplateSource) -> Result<Self, TextError> {
        let mut environment = Environment::new();
        let cannot_compile = |e: Error| file_error(&source.path, format!("chat template: {e}"));
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(cannot_compile)?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", functions::to_json);
        environment.add_function("raise_exception", functions::raise_exception);
        let text = without_generation_tags(&source.text);
        environment.add_template_owned(TEMPLATE_NAME, text).map_err(cannot_compile)?;
        let knows_tools = source.text.contains("tools") && source.text.contains("<tool_call>");
        Ok(Self { environment, tokens: source.tokens, knows_tools })
    }

    /// Whether it puts the variable `tools` into the prompt, to be called as `<tool_call>`.
    pub fn knows_tools(&self) -> bool {
        self.knows_tools
    }

    /// Whether a system message gets into the prompt.
    pub fn takes_system(&self) -> bool {
        let messages = [ChatMessage::new("system", CUT_MARK), ChatMessage::new("user", "Hi")];
        let chat = Chat { messages: &messages, tools: &[], options: &TemplateOptions::default() };
        let text = self.render_all(chat, SystemTime::UNIX_EPOCH);
        text.is_ok_and(|text| text.contains(CUT_MARK))
    }

    /// The prompt's text. Where the last message is the assistant's it ends right after that
    /// message's content, whose trailing white space is dropped; a template that leaves the content
    /// out has nothing to continue and opens a new turn.
    pub fn render(&self, chat: Chat, now: SystemTime) -> Result<String, TextError> {
        if chat.continues_last() {
            let mut marked = chat.messages.to_vec();
            if let Some(last) = marked.last_mut() {
                last.content.truncate(last.content.trim_end().len());
                last.content.push_str(CUT_MARK);
            }
            let mut text = self.render_all(Chat { messages: &marked, ..chat }, now)?;
            if let Some(cut) = text.rfind(CUT_MARK) {
                text.truncate(cut);
                return Ok(text);
            }
        }
        self.render_all(chat, now)
    }

    fn render_all(&self, chat: Chat, now: SystemTime) -> Result<String, TextError> {
        let Chat { messages, tools, options } = chat;
        let tools = if tools.is_empty() { Value::from(()) } else { Value::from(Serde(tools)) };
        let variables = options.variables.iter();
        let mut context: BTreeMap<&str, Value> =
            variables.map(|(name, value)| (name.as_str(), Value::from(Serde(value)))).collect();
        context.extend([
            ("messages", Value::from(Serde(messages))),
            ("add_generation_prompt", Value::from(chat.opens_turn())),
            ("tools", tools),
            ("documents", Value::from(())),
            ("strftime_now", Value::from_function(move |format: &str| functions::strftime(format, now))),
        ]);
        context.extend(self.tokens.iter().map(|(name, token)| (*name, Value::from(token.as_str()))));
        let template = self.environment.get_template(TEMPLATE_NAME).map_err(render_error)?;
        template.render(Value::from(context)).map_err(render_error)
    }
}

/// What the template's author wrote in `raise_exception`, or the engine's own text.
fn render_error(e: Error) -> TextError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&e);
    while let Some(error) = cause {
        if let Some(raised) = error.downcast_ref::<functions::Raised>() {
            return TextError::Template(raised.to_string());
        }
        cause = error.source();
    }
    TextError::Template(e.to_string())
}

/// `{% generation %}` marks the assistant's words for training. It becomes `{% if true %}`, which
/// prints the same and keeps each tag's white-space control.
fn without_generation_tags(template: &str) -> String {
    let mut pieces = template.split("{%");
    let mut text = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        text.push_str("{%");
        let tag = piece.split_once("%}").map_or("", |(tag, _)| tag);
        let word = tag.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        match word {
            "generation" => text.push_str(&piece.replacen("generation", "if true", 1)),
            "endgeneration" => text.push_str(&piece.replacen("endgeneration", "endif", 1)),
            _ => text.push_str(piece),
        }
    }
    text
}

#[cfg(test)]
mod tests;
