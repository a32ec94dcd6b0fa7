//! Reads `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, the form of Hermes and Qwen2, from
//! streamed text; and the same without tags at the beginning of an answer, as Llama writes it, and small models
//! that forget the tags. Pure; used through `ToolParser`.
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
    /// Nothing but calls without tags came so far: what comes may be another one.
    bare: bool,
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
        Self { names, sink: Sink::new(max_calls), state: State::default(), closing: false, bare: true }
    }

    pub fn push(&mut self, piece: &str) -> Vec<ToolEvent> {
        piece.chars().for_each(|c| self.step(c));
        self.sink.take()
    }

    /// What is still held back when the answer ends.
    pub fn finish(&mut self) -> Vec<ToolEvent> {
        // What is given back of a call without tags may end in the middle of one with a tag.
        while let State::Call(_) = self.state {
            self.give_back();
        }
        if let State::Text(tag) = std::mem::take(&mut self.state) {
            self.sink.text(&tag);
        }
        self.sink.finish()
    }

    fn step(&mut self, c: char) {
        let State::Call(reader) = &mut self.state else { return self.text(c) };
        match reader.push(c, &self.names, &mut self.sink) {
            Progress::More => {}
            Progress::Broken if reader.n_begun() == 0 => self.give_back(),
            Progress::Ended | Progress::Broken => {
                self.state = State::default();
                self.closing = true;
            }
        }
    }

    /// What was held of a call is text. Without a tag it was taken on trust: it may have tags in it.
    fn give_back(&mut self) {
        let State::Call(reader) = std::mem::take(&mut self.state) else { return };
        if reader.n_begun() > 0 {
            return;
        }
        if reader.is_bare() {
            self.bare = false;
            return reader.raw().chars().for_each(|c| self.step(c));
        }
        self.sink.text(OPEN);
        self.sink.text(reader.raw());
    }

    /// Whether `c` begins a call without tags, or stands between two of them.
    fn begins_bare(&mut self, c: char) -> bool {
        match c {
            '{' | '[' => {
                self.state = State::Call(Box::new(CallReader::bare()));
                self.step(c);
                true
            }
            ';' => self.closing,
            _ => {
                self.bare = c.is_whitespace();
                false
            }
        }
    }

    fn text(&mut self, c: char) {
        if self.bare && self.begins_bare(c) {
            return;
        }
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
