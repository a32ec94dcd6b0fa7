//! A compiled constraint, and how far one answer has come in it.
//!
//! `Constraint` is shared by all requests that ask for the same; `Progress` belongs to one sequence and moves
//! from the driver to a worker thread and back with each token.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use llguidance::Matcher;

use super::mask::TokenMask;

/// A constraint that was compiled. Cheap to clone.
#[derive(Clone)]
pub struct Constraint(Arc<Start>);

struct Start {
    /// Never advanced, only copied.
    matcher: Mutex<Matcher>,
    first_mask: TokenMask,
    vocab_size: usize,
    digest: [u8; 32],
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").field("digest", &self.0.digest).finish_non_exhaustive()
    }
}

impl Constraint {
    /// `matcher` has consumed nothing; `digest` names what it was compiled from.
    ///
    /// # Errors
    /// When no text can begin, or finding out takes more than the limits allow.
    pub fn new(mut matcher: Matcher, vocab_size: usize, digest: [u8; 32]) -> Result<Self, String> {
        let mut first = matcher.deep_clone();
        let first_mask = mask(&mut first, vocab_size)?;
        if let Some(error) = matcher.get_error() {
            return Err(brief(&error));
        }
        // What the first mask has found out of the lexer is of use to every answer.
        std::mem::swap(&mut first, &mut matcher);
        Ok(Self(Arc::new(Start { matcher: Mutex::new(matcher), first_mask, vocab_size, digest })))
    }

    /// What may come first.
    pub fn first_mask(&self) -> &TokenMask {
        &self.0.first_mask
    }

    /// The same for the same specification.
    pub fn digest(&self) -> &[u8; 32] {
        &self.0.digest
    }

    /// Whether it is the very same, not one compiled again.
    #[cfg(test)]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// One that begins with this mask and cannot go on: for tests that bring the other masks themselves.
    #[cfg(test)]
    pub fn with_first_mask(first_mask: TokenMask) -> Self {
        let matcher = Mutex::new(Matcher::new(Err(anyhow::anyhow!("not compiled"))));
        Self(Arc::new(Start { matcher, first_mask, vocab_size: 0, digest: [1; 32] }))
    }

    /// The beginning of an answer.
    pub fn begin(&self) -> Progress {
        Progress { start: self.clone(), matcher: None }
    }
}

/// How far one answer has come.
pub struct Progress {
    start: Constraint,
    /// `None` until the first token: copying takes its time, which is a worker's.
    matcher: Option<Box<Matcher>>,
}

impl Progress {
    /// Takes the next token of the answer; returns what may follow. When nothing else may, the tokens that
    /// end a text do.
    ///
    /// # Errors
    /// A token that was not allowed, or a constraint that becomes too complex here.
    pub fn advance(&mut self, token: u32) -> Result<TokenMask, String> {
        let Start { matcher: first, vocab_size, .. } = &*self.start.0;
        let copy = || Box::new(first.lock().unwrap_or_else(PoisonError::into_inner).deep_clone());
        let matcher = self.matcher.get_or_insert_with(copy);
        matcher.consume_token(token).map_err(|error| brief(&error.to_string()))?;
        mask(matcher, *vocab_size)
    }
}

fn mask(matcher: &mut Matcher, vocab_size: usize) -> Result<TokenMask, String> {
    let tokens = matcher.compute_mask_or_eos().map_err(|error| brief(&error.to_string()))?;
    Ok(TokenMask::new(tokens.as_slice(), vocab_size))
}

/// Longest message: some repeat the whole specification.
const MAX_MESSAGE: usize = 1000;

/// The library's message without its debugging parts.
pub(super) fn brief(message: &str) -> String {
    let end = ["<state>", "<non-verbose/>", "<backtrace>"].iter().filter_map(|mark| message.find(mark)).min();
    let message = message[..end.unwrap_or(message.len())].trim();
    match message.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}...", &message[..end]),
        None => message.to_string(),
    }
}
