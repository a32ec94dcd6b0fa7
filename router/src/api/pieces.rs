//! From token ids to the text that a route sends: detokenisation and stop strings of one sequence. Pure.
//!
//! TGI's routes show each token's own text and keep a stop string, cutting right after it. OpenAI's show
//! only text that is safe to send and cut before the stop string. Used by `sequence`.

use std::sync::Arc;

use super::compat::Compat;
use crate::request::FinishReason;
use crate::text::{Detokenizer, StopMatcher, Tokenizer};

/// Why a sequence ended, stop strings included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    Length,
    Eos,
    Stop,
}

impl Finish {
    /// TGI's name.
    pub fn tgi(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Eos => "eos_token",
            Self::Stop => "stop_sequence",
        }
    }

    /// OpenAI's name.
    pub fn openai(self, compat: Compat) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Stop if compat.names_stop_sequence_on_v1() => self.tgi(),
            Self::Eos | Self::Stop => "stop",
        }
    }
}

/// How a family of routes shows text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextStyle {
    /// Token texts with special tokens visible; the stop string stays.
    Tgi,
    /// Only final text: without the stop string and without special tokens, unless they are asked for.
    OpenAi { keep_stop: bool, show_special: bool },
}

impl TextStyle {
    fn keeps_stop(self) -> bool {
        !matches!(self, Self::OpenAi { keep_stop: false, .. })
    }

    fn shows_special(self) -> bool {
        matches!(self, Self::OpenAi { show_special: true, .. })
    }
}

/// Text of one token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceText {
    /// What the client sees for this token: "" while a character, or on OpenAI's routes a possible
    /// stop string, is unfinished.
    pub shown: String,
    pub finish: Option<Finish>,
}

/// Text state of one sequence.
pub struct Pieces {
    style: TextStyle,
    /// TGI's token texts; OpenAI's routes need none.
    visible: Option<Detokenizer>,
    text: Detokenizer,
    stops: Option<StopMatcher>,
    /// Special tokens among the stop strings: their text is never part of the answer's.
    stop_ids: Vec<u32>,
    /// Bytes given to `stops`.
    n_pushed: usize,
    /// Bytes `stops` let through.
    n_emitted: usize,
    /// The answer so far.
    answer: String,
}

impl Pieces {
    pub fn new(tokenizer: &Arc<Tokenizer>, stops: &[String], style: TextStyle) -> Self {
        let stops: Vec<String> = stops.iter().filter(|s| !s.is_empty()).cloned().collect();
        Self {
            style,
            visible: (style == TextStyle::Tgi).then(|| Detokenizer::new(tokenizer.clone(), false)),
            text: Detokenizer::new(tokenizer.clone(), !style.shows_special()),
            stop_ids: stops.iter().filter_map(|stop| special_id(tokenizer, stop)).collect(),
            stops: (!stops.is_empty()).then(|| StopMatcher::new(&stops)),
            n_pushed: 0,
            n_emitted: 0,
            answer: String::new(),
        }
    }

    /// Takes the next token. After a piece with a finish there must be no other.
    pub fn push(&mut self, id: u32, finish: Option<FinishReason>) -> PieceText {
        let mut visible = self.visible.as_mut().map(|v| v.push(id)).unwrap_or_default();
        // The token that ends an answer is no part of it, whatever its text.
        let is_end = finish == Some(FinishReason::Eos) && !self.style.keeps_stop();
        let mut piece = if is_end { String::new() } else { self.text.push(id) };
        let is_stop = self.stop_ids.contains(&id);
        let last = finish.is_some() || is_stop;
        if last {
            visible += &self.visible.as_mut().map(Detokenizer::finish).unwrap_or_default();
            piece += &self.text.finish();
        }
        let before = self.answer.len();
        let excess = self.append(&piece, last);
        if let Some(excess) = &excess
            && visible.ends_with(excess.as_str())
        {
            visible.truncate(visible.len() - excess.len());
        }
        let shown = match self.style {
            TextStyle::Tgi => visible,
            TextStyle::OpenAi { .. } => self.answer[before..].to_string(),
        };
        PieceText { shown, finish: self.reason(finish, is_stop || excess.is_some()) }
    }

    /// The answer; complete once a piece had a finish.
    pub fn answer(&self) -> &str {
        &self.answer
    }

    /// Adds text to the answer. `Some(rest)` when a stop string matched: the piece's text after it.
    fn append(&mut self, piece: &str, last: bool) -> Option<String> {
        let Some(stops) = &mut self.stops else {
            self.answer += piece;
            return None;
        };
        let outcome = stops.push(piece);
        self.n_pushed += piece.len();
        self.n_emitted += outcome.emit.len();
        self.answer += &outcome.emit;
        let Some(stop) = outcome.matched else {
            if last {
                self.answer += &stops.finish();
            }
            return None;
        };
        if self.style.keeps_stop() {
            self.answer += &stop;
        }
        let n_excess = self.n_pushed.saturating_sub(self.n_emitted + stop.len());
        let at = piece.len().saturating_sub(n_excess);
        Some(piece.get(at..).unwrap_or_default().to_string())
    }

    /// TGI's order: length, then the end token, then stop strings. OpenAI's: a stop string always counts.
    fn reason(&self, finish: Option<FinishReason>, stopped: bool) -> Option<Finish> {
        match finish {
            _ if stopped && self.style != TextStyle::Tgi => Some(Finish::Stop),
            Some(FinishReason::Length) => Some(Finish::Length),
            Some(FinishReason::Eos) => Some(Finish::Eos),
            None => stopped.then_some(Finish::Stop),
        }
    }
}

/// The id of the special token with this text.
fn special_id(tokenizer: &Tokenizer, text: &str) -> Option<u32> {
    tokenizer.token_id(text).filter(|&id| tokenizer.is_special(id))
}

#[cfg(test)]
#[path = "pieces_tests.rs"]
mod tests;
