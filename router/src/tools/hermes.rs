//! Reads `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, the form of Hermes and Qwen2, from
//! streamed text. Pure; used through `ToolParser`.
//!
//! The outcome depends on the text alone, never on how it was cut into pieces. What turns out to be no call
//! of a known function is given back as text, markup included.

use super::ToolEvent;
use super::call::{CallReader, Progress};
use super::sink::Sink;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// Parser of one answer.
pub struct Hermes {
    names: Vec<String>,
    sink: Sink,
    state: State,
    /// A call ended and its closing tag has not come yet.
    closing: bool,
}

enum State {
    /// Outside of calls; the string is the beginning of a tag, not sent yet.
    Text(String),
    Call(Box<CallReader>),
}

impl Default for State {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl Hermes {
    /// A parser of calls to functions of these names; from the call after `max_calls` on they are left out.
    pub fn new(names: Vec<String>, max_calls: usize) -> Self {
        Self { names, sink: Sink::new(max_calls), state: State::default(), closing: false }
    }

    pub fn push(&mut self, piece: &str) -> Vec<ToolEvent> {
        piece.chars().for_each(|c| self.step(c));
        self.sink.take()
    }

    /// What is still held back when the answer ends.
    pub fn finish(&mut self) -> Vec<ToolEvent> {
        match std::mem::take(&mut self.state) {
            State::Text(tag) => self.sink.text(&tag),
            State::Call(reader) if reader.n_begun() == 0 => self.give_back(reader.raw()),
            State::Call(_) => {}
        }
        self.sink.finish()
    }

    fn step(&mut self, c: char) {
        let State::Call(reader) = &mut self.state else { return self.text(c) };
        match reader.push(c, &self.names, &mut self.sink) {
            Progress::More => {}
            Progress::Broken if reader.n_begun() == 0 => {
                let raw = reader.raw().to_string();
                self.state = State::default();
                self.give_back(&raw);
            }
            Progress::Ended | Progress::Broken => {
                self.state = State::default();
                self.closing = true;
            }
        }
    }

    fn give_back(&mut self, raw: &str) {
        self.sink.text(OPEN);
        self.sink.text(raw);
    }

    fn text(&mut self, c: char) {
        let State::Text(tag) = &mut self.state else { return };
        tag.push(c);
        if tag == OPEN {
            self.state = State::Call(Box::default());
        } else if self.closing && tag == CLOSE {
            tag.clear();
            self.closing = false;
        } else if !(OPEN.starts_with(tag.as_str()) || self.closing && CLOSE.starts_with(tag.as_str())) {
            self.no_tag(c);
        }
    }

    /// What was held is not the beginning of a tag. `<` stands only in front of tags: just `c` may begin another.
    fn no_tag(&mut self, c: char) {
        let State::Text(tag) = &mut self.state else { return };
        tag.pop();
        let held = std::mem::take(tag);
        if c == '<' {
            tag.push(c);
            return self.send(&held);
        }
        // Small models close a brace too many.
        if !(self.closing && held.is_empty() && c == '}') {
            self.send(&(held + c.encode_utf8(&mut [0; 4])));
        }
    }

    fn send(&mut self, text: &str) {
        self.closing &= text.trim().is_empty();
        self.sink.text(text);
    }
}
