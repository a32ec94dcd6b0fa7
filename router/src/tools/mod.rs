//! Tool use: how functions are told to a model, and how its calls are read from what it writes.
//!
//! `prompt` turns functions and earlier calls into messages that a chat template can render, `grammar`
//! makes a call the only thing that can be written, `ToolParser` reads calls from the answer. Used by the
//! chat route. Knows no wire types.

mod call;
mod grammar;
mod hermes;
mod json;
mod prompt;
mod react;
mod sink;
mod transcript;

use serde_json::{Value, json};

pub use grammar::grammar;
pub use prompt::{Conversation, arrange};

use crate::text::ToolStyle;
use hermes::Hermes;
use react::React;

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    pub name: String,
    pub description: Option<String>,
    /// JSON schema of the arguments; `None`: it takes none.
    pub parameters: Option<Value>,
}

impl Function {
    /// Its definition as OpenAI and chat templates write it.
    pub fn definition(&self) -> Value {
        let mut function = json!({"name": self.name});
        if let Some(description) = &self.description {
            function["description"] = json!(description);
        }
        function["parameters"] = self.schema();
        json!({"type": "function", "function": function})
    }

    /// JSON schema of its arguments, always an object's.
    fn schema(&self) -> Value {
        let none = || json!({"type": "object", "properties": {}});
        let mut schema = self.parameters.clone().filter(Value::is_object).unwrap_or_else(none);
        if schema.get("type").is_none() {
            schema["type"] = json!("object");
        }
        schema
    }
}

/// Whether the answer may, or must, be a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    Auto,
    /// At least one call.
    Required,
    /// Exactly one call, of the only function there is.
    Named,
}

/// The functions of one request; not empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Toolbox {
    pub functions: Vec<Function>,
    pub choice: ToolChoice,
    /// Whether one answer may have several calls.
    pub parallel: bool,
    /// The client's own words about the functions, instead of the built-in ones.
    pub prompt: Option<String>,
}

impl Toolbox {
    /// Whether the answer can be nothing but calls.
    pub fn is_forced(&self) -> bool {
        self.choice != ToolChoice::Auto
    }

    fn has_many_calls(&self) -> bool {
        self.parallel && self.choice != ToolChoice::Named
    }
}

/// A part of an answer, in order. Texts and arguments come in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolEvent {
    Text(String),
    /// A call of this function begins; its arguments follow.
    Call(String),
    /// More of the current call's arguments, as the model wrote them: a JSON object once complete.
    Arguments(String),
}

/// Reads one answer.
pub struct ToolParser(Kind);

enum Kind {
    Hermes(Hermes),
    React(React),
}

impl ToolParser {
    /// `after_result`: as `Conversation` says.
    pub fn new(style: ToolStyle, tools: &Toolbox, after_result: bool) -> Self {
        let names = tools.functions.iter().map(|function| function.name.clone()).collect();
        let max_calls = if tools.has_many_calls() { usize::MAX } else { 1 };
        Self(match style {
            ToolStyle::Template | ToolStyle::Prompt { .. } => Kind::Hermes(Hermes::new(names, max_calls)),
            ToolStyle::React => Kind::React(React::new(names, after_result && !tools.is_forced())),
        })
    }

    /// What the next piece of the answer's text adds.
    pub fn push(&mut self, piece: &str) -> Vec<ToolEvent> {
        match &mut self.0 {
            Kind::Hermes(parser) => parser.push(piece),
            Kind::React(parser) => parser.push(piece),
        }
    }

    /// What is still held back when the answer ends.
    pub fn finish(&mut self) -> Vec<ToolEvent> {
        match &mut self.0 {
            Kind::Hermes(parser) => parser.finish(),
            Kind::React(parser) => parser.finish(),
        }
    }
}

/// A stop string of the form's own: the original Qwen would go on with the call's result as it imagines it.
pub fn stop_string(style: ToolStyle) -> Option<&'static str> {
    (style == ToolStyle::React).then_some(react::STOP)
}

#[cfg(test)]
mod tests;
