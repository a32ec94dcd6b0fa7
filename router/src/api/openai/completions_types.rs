//! JSON of /v1/completions. Key order is TGI's, which differs between chunks and whole answers.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::Value;
use utoipa::ToSchema;

use super::types::{Envelope, SamplingFields, StreamOptions, Usage};
use crate::api::constraint_fields::ConstraintFields;
use crate::api::error::ApiError;
use crate::api::lists::{one_or_many, one_or_many_schema};
use crate::api::named::named;
use crate::api::sequence::{Piece, Prefill};
use crate::api::vllm_fields::VllmFields;
use crate::request::Score;
use crate::text::Tokenizer;
use crate::validation::{Input, Refusal};

/// The request. Fields that change nothing here (`user`, ...) are not read.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CompletionRequest {
    #[serde(deserialize_with = "prompts")]
    pub prompt: Vec<PromptText>,
    #[serde(flatten, deserialize_with = "named")]
    pub sampling: SamplingFields,
    #[serde(flatten, deserialize_with = "named")]
    pub constraint: ConstraintFields,
    #[serde(flatten, deserialize_with = "named")]
    pub vllm: VllmFields,
    pub max_tokens: Option<u32>,
    pub n: Option<usize>,
    best_of: Option<usize>,
    /// How many candidates to report for each token; 0 reports the chosen one.
    pub logprobs: Option<u32>,
    echo: Option<bool>,
    suffix: Option<Value>,
    #[serde(default, deserialize_with = "one_or_many")]
    #[schema(schema_with = one_or_many_schema)]
    pub stop: Vec<String>,
    pub stream: Option<bool>,
    stream_options: Option<StreamOptions>,
}

/// One prompt: text, or token ids.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum PromptText {
    Text(String),
    Ids(Vec<u32>),
}

/// `"a"`, `["a", "b"]`, `[1, 2]` (one prompt) or `[[1, 2], [3]]`.
fn prompts<'de, D: Deserializer<'de>>(de: D) -> Result<Vec<PromptText>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a string, a list of strings, token ids, or a list of token ids")]
    enum Prompts {
        Text(String),
        Ids(Vec<u32>),
        Many(Vec<PromptText>),
    }
    match Prompts::deserialize(de)? {
        Prompts::Text(text) => Ok(vec![PromptText::Text(text)]),
        Prompts::Ids(ids) if !ids.is_empty() => Ok(vec![PromptText::Ids(ids)]),
        Prompts::Many(prompts) if !prompts.is_empty() => Ok(prompts),
        _ => Err(D::Error::custom("Empty array detected. Do not use an empty array for the prompt.")),
    }
}

impl PromptText {
    pub fn input(&self) -> Input {
        match self {
            Self::Text(text) => Input::Text(text.clone()),
            Self::Ids(ids) => Input::Ids(ids.clone()),
        }
    }

    /// The text that `echo` puts before the answer.
    pub fn echoed(&self, tokenizer: &Tokenizer) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Ids(ids) => tokenizer.decode(ids, false),
        }
    }
}

impl CompletionRequest {
    pub fn echo(&self) -> bool {
        self.echo.unwrap_or(false)
    }

    pub fn include_usage(&self) -> Option<bool> {
        self.stream_options.as_ref().and_then(|options| options.include_usage)
    }

    pub fn continuous_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.continuous_usage_stats).unwrap_or(false)
    }

    /// Refuses what this server does not do, and more prompts than it takes at once.
    pub fn check(&self, n: usize, max_client_batch_size: usize) -> Result<(), ApiError> {
        if self.suffix.is_some() {
            return Err(ApiError::Suffix);
        }
        if self.prompt.len().saturating_mul(n) > max_client_batch_size {
            return Err(ApiError::BatchSize(max_client_batch_size));
        }
        if self.best_of.is_some_and(|best_of| best_of > n) {
            return Err(Refusal("`best_of` > `n` is not supported".into()).into());
        }
        if self.echo() && self.vllm.truncates() {
            return Err(Refusal("`truncate_prompt_tokens` is not supported with `echo`".into()).into());
        }
        match self.logprobs {
            Some(n_top @ 2..) if self.echo() => Err(Refusal(format!(
                "`logprobs` must be <= 1 with `echo`: of a prompt's tokens only the likeliest one is known. Given: {n_top}"
            ))
            .into()),
            _ => Ok(()),
        }
    }
}

/// The whole answer; also the last chunk of each choice, with its usage.
#[derive(Debug, Serialize, ToSchema)]
pub struct Completion<'a> {
    object: &'static str,
    id: &'a str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: &'a [Choice],
    usage: Usage,
}

/// Every other chunk.
#[derive(Debug, Serialize, ToSchema)]
pub struct Chunk<'a> {
    object: &'static str,
    id: &'a str,
    created: u64,
    choices: &'a [Choice],
    model: &'a str,
    system_fingerprint: &'a str,
}

impl<'a> Completion<'a> {
    pub fn new(envelope: &'a Envelope, choices: &'a [Choice], usage: Usage) -> Self {
        Self {
            object: "text_completion",
            id: &envelope.id,
            created: envelope.created,
            model: &envelope.model,
            system_fingerprint: &envelope.system_fingerprint,
            choices,
            usage,
        }
    }
}

impl<'a> Chunk<'a> {
    pub fn new(envelope: &'a Envelope, choices: &'a [Choice]) -> Self {
        Self {
            object: "text_completion",
            id: &envelope.id,
            created: envelope.created,
            choices,
            model: &envelope.model,
            system_fingerprint: &envelope.system_fingerprint,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Choice {
    pub index: usize,
    pub text: String,
    pub logprobs: Option<Logprobs>,
    /// `null` until the last chunk.
    pub finish_reason: Option<&'static str>,
}

/// OpenAI's legacy columns, one entry a token; with `echo` those of the prompt come first, the first one `null`.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Logprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    #[schema(value_type = Vec<Option<std::collections::HashMap<String, f32>>>)]
    top_logprobs: Vec<Option<TopLogprobs>>,
    /// Characters of the choice's text before the token's text.
    text_offset: Vec<usize>,
}

/// Candidates by their text, best first. Of those with the same text only the best has a place.
#[derive(Debug)]
struct TopLogprobs(Vec<(String, f32)>);

impl Serialize for TopLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_first = |i: &usize| self.0[..*i].iter().all(|(text, _)| *text != self.0[*i].0);
        let entries = (0..self.0.len()).filter(is_first).map(|i| (&self.0[i].0, self.0[i].1));
        serializer.collect_map(entries)
    }
}

impl Logprobs {
    /// The prompt's tokens. `echo` is its text, which may lack special tokens that the tokenizer put before it.
    pub fn add_prompt(&mut self, tokenizer: &Tokenizer, prefill: &Prefill, (echo, n_top): (&str, u32)) {
        let (mut rest, mut offset) = (echo.as_bytes(), 0);
        for (&id, score) in prefill.ids.iter().zip(&prefill.scores) {
            self.tokens.push(tokenizer.token_text(id));
            self.token_logprobs.push(score.map(|score| score.logprob));
            self.top_logprobs.push(score.map(|Score { best, .. }| {
                TopLogprobs(
                    (0..n_top.min(1)).map(|_| (tokenizer.token_text(best.id), best.logprob)).collect(),
                )
            }));
            self.text_offset.push(offset);
            let bytes = tokenizer.token_bytes(id);
            if !tokenizer.is_special(id) || rest.starts_with(bytes) {
                rest = rest.get(bytes.len()..).unwrap_or_default();
                offset += bytes.iter().filter(|&&byte| begins_character(byte)).count();
            }
        }
    }

    /// Tokens of the answer. `offset`: characters of the text before the first piece; moved past the last.
    pub fn add(&mut self, tokenizer: &Tokenizer, pieces: &[Piece], offset: &mut usize) {
        for piece in pieces {
            self.tokens.push(tokenizer.token_text(piece.token.id));
            self.token_logprobs.push(Some(piece.token.logprob));
            let top = piece.top.iter().map(|top| (tokenizer.token_text(top.id), top.logprob));
            self.top_logprobs.push(Some(TopLogprobs(top.collect())));
            self.text_offset.push(*offset);
            *offset += piece.text.chars().count();
        }
    }
}

/// In UTF-8, all bytes of a character but the first are 10xxxxxx.
fn begins_character(byte: u8) -> bool {
    byte & 0b1100_0000 != 0b1000_0000
}
