//! JSON of /v1/chat/completions. Key order is TGI's; `id`, logprob `bytes` and error objects are OpenAI's.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::types::{Envelope, SamplingFields, StreamOptions, Usage};
use crate::api::constraint_fields::ConstraintFields;
use crate::api::error::ApiError;
use crate::api::lists::{one_or_many, one_or_many_schema};
use crate::api::sequence::Piece;
use crate::request::TokenLogprob;
use crate::text::{ChatMessage, Tokenizer};
use crate::validation::Refusal;

/// The request. Fields that change nothing here (`user`, `store`, ...) are not read.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ChatRequest {
    pub messages: Vec<Message>,
    pub model: Option<String>,
    #[serde(flatten)]
    pub sampling: SamplingFields,
    #[serde(flatten)]
    pub constraint: ConstraintFields,
    pub logprobs: Option<bool>,
    pub top_logprobs: Option<u32>,
    pub max_tokens: Option<u32>,
    /// OpenAI's newer name of `max_tokens`; wins when both are given.
    pub max_completion_tokens: Option<u32>,
    pub n: Option<usize>,
    #[serde(default, deserialize_with = "one_or_many")]
    #[schema(schema_with = one_or_many_schema)]
    pub stop: Vec<String>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct Message {
    role: String,
    content: Option<Content>,
    name: Option<String>,
    tool_calls: Option<Value>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a string or a list of content parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize, ToSchema)]
struct Part {
    r#type: String,
    text: Option<String>,
}

impl ChatRequest {
    pub fn max_new_tokens(&self) -> Option<u32> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    pub fn include_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    /// Refuses what needs tools; `tool_choice: "none"` drops them.
    pub fn check_tools(&self) -> Result<(), ApiError> {
        let none = self.tool_choice.as_ref().is_some_and(|choice| choice == "none");
        if none || self.tools.as_ref().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let text = match self.constraint.constraint()? {
            Some(_) => "Grammar and tools are mutually exclusive",
            None => "Tools are not supported yet",
        };
        Err(ApiError::Tool(text.into()))
    }

    /// The messages as templates see them.
    pub fn template_messages(&self) -> Result<Vec<ChatMessage>, Refusal> {
        self.messages.iter().enumerate().map(|(index, message)| message.for_template(index)).collect()
    }
}

impl Message {
    fn for_template(&self, index: usize) -> Result<ChatMessage, Refusal> {
        let content = match (&self.content, &self.tool_calls) {
            (Some(content), _) => content.text(index)?,
            (None, Some(calls)) => calls.to_string(),
            (None, None) => {
                return Err(Refusal(format!("`messages[{index}]` must have `content` or `tool_calls`")));
            }
        };
        Ok(ChatMessage { role: self.role.clone(), content, name: self.name.clone() })
    }
}

impl Content {
    /// Text parts joined without a separator.
    fn text(&self, index: usize) -> Result<String, Refusal> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Parts(parts) => parts.iter().map(|part| part.text(index)).collect(),
        }
    }
}

impl Part {
    fn text(&self, index: usize) -> Result<&str, Refusal> {
        match (self.r#type.as_str(), &self.text) {
            ("text", Some(text)) => Ok(text),
            ("text", None) => Err(Refusal(format!("`messages[{index}]` has a text part without `text`"))),
            (kind, _) => Err(Refusal(format!(
                "`messages[{index}]` has content of type `{kind}`, but this model reads only text"
            ))),
        }
    }
}

/// The whole answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletion {
    pub object: &'static str,
    pub id: String,
    pub created: u64,
    pub model: String,
    pub system_fingerprint: String,
    pub choices: Vec<Choice>,
    pub usage: Usage,
}

impl ChatCompletion {
    pub fn new(envelope: Envelope, choices: Vec<Choice>, usage: Usage) -> Self {
        let Envelope { id, created, model, system_fingerprint } = envelope;
        Self { object: "chat.completion", id, created, model, system_fingerprint, choices, usage }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Choice {
    pub index: usize,
    pub message: Answer,
    pub logprobs: Option<Logprobs>,
    pub finish_reason: &'static str,
}

/// A message or the delta of one.
#[derive(Debug, Serialize, ToSchema)]
pub struct Answer {
    pub role: &'static str,
    pub content: String,
}

impl Answer {
    pub fn new(content: String) -> Self {
        Self { role: "assistant", content }
    }
}

/// One event of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct Chunk<'a> {
    object: &'static str,
    id: &'a str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: &'a [ChunkChoice],
    usage: Option<Usage>,
}

impl<'a> Chunk<'a> {
    pub fn new(envelope: &'a Envelope, choices: &'a [ChunkChoice], usage: Option<Usage>) -> Self {
        Self {
            object: "chat.completion.chunk",
            id: &envelope.id,
            created: envelope.created,
            model: &envelope.model,
            system_fingerprint: &envelope.system_fingerprint,
            choices,
            usage,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ChunkChoice {
    pub index: usize,
    pub delta: Answer,
    pub logprobs: Option<Logprobs>,
    pub finish_reason: Option<&'static str>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Logprobs {
    content: Vec<Logprob>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Logprob {
    #[serde(flatten)]
    token: Candidate,
    top_logprobs: Vec<Candidate>,
}

/// A token with its exact bytes: half a character has no text of its own.
#[derive(Debug, Serialize, ToSchema)]
struct Candidate {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl Logprobs {
    pub fn new(tokenizer: &Tokenizer, pieces: &[Piece]) -> Self {
        let one = |piece: &Piece| Logprob {
            token: Candidate::new(tokenizer, piece.token),
            top_logprobs: piece.top.iter().map(|&top| Candidate::new(tokenizer, top)).collect(),
        };
        Self { content: pieces.iter().map(one).collect() }
    }
}

impl Candidate {
    fn new(tokenizer: &Tokenizer, TokenLogprob { id, logprob }: TokenLogprob) -> Self {
        let bytes = tokenizer.token_bytes(id).to_vec();
        Self { token: String::from_utf8_lossy(&bytes).into_owned(), logprob, bytes }
    }
}
