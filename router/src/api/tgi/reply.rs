//! JSON that TGI's routes write. Key order is TGI's.

use serde::Serialize;
use utoipa::ToSchema;

use crate::api::sequence::{Finished, Piece, Prefill};
use crate::request::{Score, TokenLogprob};
use crate::text::Tokenizer;

/// Answer of /generate.
#[derive(Debug, Serialize, ToSchema)]
pub struct Generated {
    pub generated_text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
}

/// How an answer came about.
#[derive(Debug, Serialize, ToSchema)]
pub struct Details {
    finish_reason: &'static str,
    generated_tokens: u32,
    /// `null` for greedy answers.
    seed: Option<u64>,
    /// The prompt's tokens, if `decoder_input_details` asked for them.
    prefill: Vec<PrefillToken>,
    tokens: Vec<Token>,
    /// With `best_of` > 1: the answers that were not the best.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    best_of_sequences: Vec<BestOfSequence>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_tokens: Vec<Vec<Token>>,
}

/// One of `best_of` answers.
#[derive(Debug, Serialize, ToSchema)]
struct BestOfSequence {
    generated_text: String,
    finish_reason: &'static str,
    generated_tokens: u32,
    seed: Option<u64>,
    prefill: Vec<PrefillToken>,
    tokens: Vec<Token>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_tokens: Vec<Vec<Token>>,
}

/// A token of the prompt.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct PrefillToken {
    id: u32,
    text: String,
    /// `null` for the first.
    #[schema(required = true)]
    logprob: Option<f32>,
}

impl Generated {
    /// The answer `best`, after `prompt`, and the `others` in its details.
    pub fn new(tokenizer: &Tokenizer, prompt: &str, best: &Finished, others: Option<&[&Finished]>) -> Self {
        let generated_text = format!("{prompt}{}", best.answer);
        let details = others.map(|others| Details::new(tokenizer, prompt, best, others));
        Self { generated_text, details }
    }
}

impl Details {
    fn new(tokenizer: &Tokenizer, prompt: &str, best: &Finished, others: &[&Finished]) -> Self {
        let all = || others.iter().copied().chain([best]);
        // Computed once for all: the prompt is the same.
        let prefill = all().find_map(|one| one.prefill.as_deref());
        let prefill = prefill.map(|prefill| prefill_tokens(tokenizer, prefill)).unwrap_or_default();
        let other = |one: &&Finished| BestOfSequence {
            generated_text: format!("{prompt}{}", one.answer),
            finish_reason: one.finish.tgi(),
            generated_tokens: one.times.n_tokens,
            seed: one.seed,
            prefill: prefill.clone(),
            tokens: tokens(tokenizer, one),
            top_tokens: top_tokens(tokenizer, one),
        };
        Self {
            finish_reason: best.finish.tgi(),
            generated_tokens: best.times.n_tokens,
            seed: best.seed,
            tokens: tokens(tokenizer, best),
            best_of_sequences: others.iter().map(other).collect(),
            top_tokens: top_tokens(tokenizer, best),
            prefill,
        }
    }
}

fn prefill_tokens(tokenizer: &Tokenizer, prefill: &Prefill) -> Vec<PrefillToken> {
    let one = |(&id, score): (&u32, &Option<Score>)| PrefillToken {
        id,
        text: tokenizer.token_text(id),
        logprob: score.map(|score| score.logprob),
    };
    prefill.ids.iter().zip(&prefill.scores).map(one).collect()
}

fn tokens(tokenizer: &Tokenizer, done: &Finished) -> Vec<Token> {
    done.pieces.iter().map(|piece| Token::chosen(tokenizer, piece)).collect()
}

/// Empty unless candidates were asked for.
fn top_tokens(tokenizer: &Tokenizer, done: &Finished) -> Vec<Vec<Token>> {
    let any = done.pieces.iter().any(|piece| !piece.top.is_empty());
    let pieces = done.pieces.iter().filter(|_| any);
    pieces.map(|piece| Token::top(tokenizer, &piece.top)).collect()
}

/// A generated token, or a candidate for one.
#[derive(Debug, Serialize, ToSchema)]
pub struct Token {
    id: u32,
    text: String,
    /// `null` when not finite.
    #[schema(value_type = Option<f32>, required = true)]
    logprob: f32,
    special: bool,
}

impl Token {
    /// A generated token with the text it added.
    pub fn chosen(tokenizer: &Tokenizer, piece: &Piece) -> Self {
        let TokenLogprob { id, logprob } = piece.token;
        Self { id, text: piece.text.clone(), logprob, special: tokenizer.is_special(id) }
    }

    /// Candidates, each decoded on its own.
    pub fn top(tokenizer: &Tokenizer, top: &[TokenLogprob]) -> Vec<Self> {
        let one = |&TokenLogprob { id, logprob }: &TokenLogprob| Self {
            id,
            text: tokenizer.token_text(id),
            logprob,
            special: tokenizer.is_special(id),
        };
        top.iter().map(one).collect()
    }
}

/// One event of /generate_stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct StreamEvent<'a> {
    /// From 1.
    pub index: u32,
    pub token: Token,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top_tokens: Vec<Token>,
    /// The whole text, in the last event only.
    pub generated_text: Option<&'a str>,
    pub details: Option<StreamDetails>,
}

/// How a streamed answer came about.
#[derive(Debug, Serialize, ToSchema)]
pub struct StreamDetails {
    pub finish_reason: &'static str,
    pub generated_tokens: u32,
    pub seed: Option<u64>,
    pub input_length: u32,
}
