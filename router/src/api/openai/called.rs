//! An answer with calls: the events of a tool parser as parts of messages. Used by `chat`.

use super::tool_types::Call;
use crate::api::compat::Compat;
use crate::api::pieces::Finish;
use crate::tools::{ToolEvent, ToolParser};

/// Reads the text of one choice.
pub struct AnswerReader {
    /// `None`: nothing can be called, all is text.
    parser: Option<ToolParser>,
    compat: Compat,
    n_calls: usize,
}

/// What a piece of text adds to an answer.
#[derive(Debug, Default, PartialEq)]
pub struct Part {
    pub text: String,
    pub calls: Vec<Call>,
}

impl AnswerReader {
    pub fn new(parser: Option<ToolParser>, compat: Compat) -> Self {
        Self { parser, compat, n_calls: 0 }
    }

    /// Takes the next piece; `last`: the answer ends with it.
    pub fn push(&mut self, piece: &str, last: bool) -> Part {
        let Some(parser) = &mut self.parser else {
            return Part { text: piece.into(), calls: Vec::new() };
        };
        let mut events = parser.push(piece);
        if last {
            events.extend(parser.finish());
        }
        let mut part = Part::default();
        events.into_iter().for_each(|event| self.add(event, &mut part));
        part
    }

    /// Whether a part says nothing because more text must come first.
    pub fn holds_back(&self, part: &Part) -> bool {
        self.parser.is_some() && part.text.is_empty() && part.calls.is_empty()
    }

    /// The whole of a text at once, each call in one piece.
    pub fn whole(mut self, text: &str, finish: Finish) -> (Part, &'static str) {
        let mut part = self.push(text, true);
        for call in &mut part.calls {
            call.index = None;
        }
        let reason = self.reason(finish);
        (part, reason)
    }

    /// `finish_reason`: calls end an answer that was not cut off.
    pub fn reason(&self, finish: Finish) -> &'static str {
        match finish {
            Finish::Eos | Finish::Stop if self.n_calls > 0 && !self.compat.numbers_tool_calls() => {
                "tool_calls"
            }
            Finish::Stop if self.n_calls > 0 => Finish::Eos.openai(self.compat),
            finish => finish.openai(self.compat),
        }
    }

    fn add(&mut self, event: ToolEvent, part: &mut Part) {
        match event {
            ToolEvent::Text(text) => part.text += &text,
            ToolEvent::Call(name) => {
                let index = self.n_calls;
                self.n_calls += 1;
                let id = if self.compat.numbers_tool_calls() { index.to_string() } else { Call::random_id() };
                part.calls.push(Call::begin(index, id, name));
            }
            ToolEvent::Arguments(text) => {
                let index = self.n_calls.saturating_sub(1);
                match part.calls.last_mut() {
                    Some(call) if call.index == Some(index) => call.function.arguments += &text,
                    _ => part.calls.push(Call::more(index, text)),
                }
            }
        }
    }
}
