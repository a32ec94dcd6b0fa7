//! JSON of TGI's routes. Key order is TGI's. `null` means "not given" everywhere; unknown keys are ignored.

use serde::{Deserialize, Deserializer, Serialize};

use crate::api::lists::one_or_many;
use crate::api::sequence::{Finished, Piece};
use crate::request::TokenLogprob;
use crate::text::Tokenizer;
use crate::validation::rules::SamplingChoice;
use crate::validation::{Draft, Input};

/// Body of /generate, /generate_stream, / and /tokenize.
#[derive(Debug, Deserialize)]
pub struct GenerateRequest {
    pub inputs: String,
    #[serde(default, deserialize_with = "or_default")]
    pub parameters: Parameters,
    /// Only / reads it.
    #[serde(default, deserialize_with = "or_default")]
    pub stream: bool,
}

/// `parameters`. Absent and empty mean the same: greedy.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Parameters {
    pub best_of: Option<usize>,
    temperature: Option<f32>,
    repetition_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    top_k: Option<i32>,
    top_p: Option<f32>,
    typical_p: Option<f32>,
    #[serde(deserialize_with = "or_default")]
    do_sample: bool,
    max_new_tokens: Option<u32>,
    pub return_full_text: Option<bool>,
    #[serde(deserialize_with = "one_or_many")]
    stop: Vec<String>,
    truncate: Option<usize>,
    /// Accepted for compatibility; no watermark is added.
    #[serde(rename = "watermark")]
    _watermark: Option<bool>,
    #[serde(deserialize_with = "or_default")]
    pub details: bool,
    #[serde(deserialize_with = "or_default")]
    pub decoder_input_details: bool,
    seed: Option<u64>,
    top_n_tokens: Option<u32>,
    grammar: Option<Grammar>,
}

/// A constraint on the output, checked for its shape only: it is not supported yet.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Grammar {
    #[serde(alias = "json_object")]
    Json {
        #[serde(rename = "value")]
        _value: serde_json::Value,
    },
    Regex {
        #[serde(rename = "value")]
        _value: String,
    },
    JsonSchema {
        #[serde(rename = "value")]
        _value: serde_json::Value,
    },
}

impl Parameters {
    pub fn wants_details(&self) -> bool {
        self.details || self.decoder_input_details
    }

    /// The request that validation sees.
    pub fn draft(self, input: Input, random_seed: u64) -> Draft {
        Draft {
            best_of: self.best_of,
            choice: SamplingChoice {
                do_sample: self.do_sample,
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                typical_p: self.typical_p,
                repetition_penalty: self.repetition_penalty,
                frequency_penalty: self.frequency_penalty,
                presence_penalty: None,
                seed: self.seed,
            },
            max_new_tokens: self.max_new_tokens,
            stop: self.stop,
            truncate: self.truncate,
            top_n_tokens: self.top_n_tokens.unwrap_or(0),
            grammar: self.grammar.is_some(),
            ..Draft::new(input, random_seed)
        }
    }
}

/// `null` is the default.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(de: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(de)?.unwrap_or_default())
}

/// Answer of /generate.
#[derive(Debug, Serialize)]
pub struct Generated {
    pub generated_text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
}

#[derive(Debug, Serialize)]
pub struct Details {
    finish_reason: &'static str,
    generated_tokens: u32,
    seed: Option<u64>,
    /// Prompt logprobs: not computed by this version, as by TGI without its server flag.
    prefill: [(); 0],
    tokens: Vec<Token>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_tokens: Vec<Vec<Token>>,
}

impl Details {
    pub fn new(tokenizer: &Tokenizer, done: &Finished) -> Self {
        let top = |piece: &Piece| Token::top(tokenizer, &piece.top);
        let top_tokens: Vec<_> = done.pieces.iter().map(top).collect();
        let any_top = top_tokens.iter().any(|top| !top.is_empty());
        Self {
            finish_reason: done.finish.tgi(),
            generated_tokens: done.times.n_tokens,
            seed: done.seed,
            prefill: [],
            tokens: done.pieces.iter().map(|piece| Token::chosen(tokenizer, piece)).collect(),
            top_tokens: if any_top { top_tokens } else { Vec::new() },
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Token {
    id: u32,
    text: String,
    /// `null` when not finite.
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
            text: String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned(),
            logprob,
            special: tokenizer.is_special(id),
        };
        top.iter().map(one).collect()
    }
}

/// One event of /generate_stream.
#[derive(Debug, Serialize)]
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

#[derive(Debug, Serialize)]
pub struct StreamDetails {
    pub finish_reason: &'static str,
    pub generated_tokens: u32,
    pub seed: Option<u64>,
    pub input_length: u32,
}
