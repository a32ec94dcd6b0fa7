//! Reads the original Qwen's calls from streamed text: lines that begin with `Thought:`, `Action:`,
//! `Action Input:`, `Final Answer:`. Pure; used through `ToolParser`.
//!
//! A thought is held until what follows it is known: before a call it is the answer's text, before a final
//! answer it is dropped. The outcome depends on the text alone, never on how it was cut into pieces. What
//! turns out to be no call of a known function with an object as its input is given back as text.

use super::ToolEvent;
use super::json::{Scan, ValueScanner};
use super::sink::Sink;

/// Ends an answer: what follows would be the call's result as the model imagines it.
pub const STOP: &str = "\nObservation:";

const THOUGHT: &str = "Thought:";
const ACTION: &str = "Action:";
const INPUT: &str = "Action Input:";
const ANSWER: &str = "Final Answer:";

/// Parser of one answer; it reads one call at most.
pub struct React {
    names: Vec<String>,
    sink: Sink,
    state: State,
    /// Whether plain lines belong to a thought.
    thinking: bool,
    /// Text not sent yet, markers included: given back if it holds no call.
    held: String,
    /// The thought in `held`.
    thought: String,
}

enum State {
    /// At the start of a line; the string may be the beginning of a marker.
    LineStart(String),
    Line,
    /// After `Action:`.
    Name(String),
    /// In the line after the function's name: the name, and what may be the beginning of `Action Input:`.
    BeforeInput(String, String),
    /// Before the input of this function.
    InputStart(String),
    Input(ValueScanner),
    /// After the call nothing counts.
    Done,
    /// After `Final Answer:`; whether its text has begun.
    Answer(bool),
}

impl React {
    /// `thinking`: the prompt ends with `Thought:`, so that the answer begins inside a thought.
    pub fn new(names: Vec<String>, thinking: bool) -> Self {
        Self {
            names,
            sink: Sink::new(1),
            state: State::LineStart(String::new()),
            thinking,
            held: String::new(),
            thought: String::new(),
        }
    }

    pub fn push(&mut self, piece: &str) -> Vec<ToolEvent> {
        piece.chars().for_each(|c| self.step(c));
        self.sink.take()
    }

    /// What is still held back when the answer ends: a thought that nothing follows is the answer.
    pub fn finish(&mut self) -> Vec<ToolEvent> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::LineStart(line) => {
                self.plain(&line);
                self.sink.text(self.thought.trim());
            }
            State::Line => self.sink.text(self.thought.trim()),
            State::BeforeInput(_, line) => self.sink.text(&(std::mem::take(&mut self.held) + &line)),
            State::Name(_) | State::InputStart(_) => self.sink.text(&self.held),
            State::Input(_) | State::Done | State::Answer(_) => {}
        }
        self.sink.finish()
    }

    fn step(&mut self, c: char) {
        self.state = match std::mem::replace(&mut self.state, State::Done) {
            State::LineStart(line) => self.line_start(line, c),
            State::Line => self.in_line(c),
            State::Name(name) => self.name(name, c),
            State::BeforeInput(name, line) => self.before_input(name, line, c),
            State::InputStart(name) => self.input_start(name, c),
            State::Input(scanner) => self.input(scanner, c),
            State::Done => State::Done,
            State::Answer(begun) => {
                let begun = begun || !c.is_whitespace();
                if begun {
                    self.sink.text(c.encode_utf8(&mut [0; 4]));
                }
                State::Answer(begun)
            }
        }
    }

    fn line_start(&mut self, mut line: String, c: char) -> State {
        line.push(c);
        match line.trim_start_matches(' ') {
            THOUGHT => {
                self.thinking = true;
                self.held += &line;
                State::Line
            }
            ACTION => {
                self.held += &line;
                State::Name(String::new())
            }
            ANSWER => {
                self.held.clear();
                State::Answer(false)
            }
            marker if [THOUGHT, ACTION, ANSWER].iter().any(|whole| whole.starts_with(marker)) => {
                State::LineStart(line)
            }
            _ => {
                self.plain(&line);
                after(c)
            }
        }
    }

    fn in_line(&mut self, c: char) -> State {
        self.plain(c.encode_utf8(&mut [0; 4]));
        after(c)
    }

    fn plain(&mut self, text: &str) {
        if self.thinking {
            self.held += text;
            self.thought += text;
        } else {
            self.sink.text(text);
        }
    }

    fn name(&mut self, mut name: String, c: char) -> State {
        self.held.push(c);
        name.push(c);
        if c != '\n' {
            return State::Name(name);
        }
        let name = name.trim();
        if self.names.iter().any(|known| known == name) {
            return State::BeforeInput(name.into(), String::new());
        }
        self.give_back();
        State::LineStart(String::new())
    }

    fn before_input(&mut self, name: String, mut line: String, c: char) -> State {
        line.push(c);
        match line.trim_start() {
            INPUT => {
                self.held += &line;
                State::InputStart(name)
            }
            marker if INPUT.starts_with(marker) => State::BeforeInput(name, line),
            _ => {
                self.give_back();
                self.state = State::LineStart(String::new());
                line.chars().for_each(|c| self.step(c)); // it may be another marker
                std::mem::replace(&mut self.state, State::Done)
            }
        }
    }

    fn input_start(&mut self, name: String, c: char) -> State {
        self.held.push(c);
        if c.is_whitespace() {
            return State::InputStart(name);
        }
        if c != '{' {
            self.give_back();
            return State::Line;
        }
        self.sink.text(self.thought.trim());
        self.sink.call(&name);
        self.input(ValueScanner::default(), c)
    }

    fn input(&mut self, mut scanner: ValueScanner, c: char) -> State {
        match scanner.push(c) {
            Scan::Bad | Scan::After => State::Done,
            scan => {
                self.sink.arguments(c.encode_utf8(&mut [0; 4]));
                if scan == Scan::Last { State::Done } else { State::Input(scanner) }
            }
        }
    }

    /// What was held is text after all, and so is what follows it.
    fn give_back(&mut self) {
        self.sink.text(&self.held);
        self.held.clear();
        self.thought.clear();
        self.thinking = false;
    }
}

/// The state after a character of text.
fn after(c: char) -> State {
    if c == '\n' { State::LineStart(String::new()) } else { State::Line }
}
