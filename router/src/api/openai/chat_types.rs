//! JSON of /v1/chat/completions. Key order is TGI's; `id`, logprob `bytes` and error objects are OpenAI's.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::called;
use super::template_fields::TemplateFields;
use super::tool_types::{Call, Tool, ToolFields};
use super::types::{Envelope, SamplingFields, StreamOptions, Usage};
use crate::api::compat::Compat;
use crate::api::constraint_fields::ConstraintFields;
use crate::api::error::ApiError;
use crate::api::lists::{one_or_many, one_or_many_schema};
use crate::api::named::named;
use crate::api::sequence::Piece;
use crate::api::vllm_fields::VllmFields;
use crate::request::TokenLogprob;
use crate::text::{ChatMessage, TemplateOptions, Tokenizer, ToolCall};
use crate::tools::Toolbox;
use crate::validation::Refusal;

/// The request. Fields that change nothing here (`user`, `store`, ...) are not read.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ChatRequest {
    pub messages: Vec<Message>,
    pub model: Option<String>,
    #[serde(flatten, deserialize_with = "named")]
    pub sampling: SamplingFields,
    #[serde(flatten, deserialize_with = "named")]
    pub constraint: ConstraintFields,
    #[serde(flatten, deserialize_with = "named")]
    pub vllm: VllmFields,
    #[serde(flatten, deserialize_with = "named")]
    template: TemplateFields,
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
    tools: Option<Vec<Tool>>,
    /// `auto`, `none`, `required` or a function: its name, or OpenAI's object with the name.
    tool_choice: Option<Value>,
    /// Whether an answer may have several calls; true when absent.
    parallel_tool_calls: Option<bool>,
    /// TGI's: words about the tools, instead of the built-in ones.
    tool_prompt: Option<String>,
    /// OpenAI's older `tools`: refused.
    functions: Option<Vec<Value>>,
    /// Refused.
    web_search_options: Option<Value>,
    /// Refused unless it is `["text"]`.
    modalities: Option<Vec<String>>,
}

#[derive(Debug, Deserialize, ToSchema)]
pub struct Message {
    role: String,
    content: Option<Content>,
    name: Option<String>,
    tool_calls: Option<Vec<Value>>,
    tool_call_id: Option<String>,
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
    refusal: Option<String>,
}

impl ChatRequest {
    pub fn max_new_tokens(&self) -> Option<u32> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    pub fn include_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }

    /// The functions that the answer may call; `None` without any.
    ///
    /// # Errors
    /// Tools that cannot be followed, or beside another constraint.
    pub fn toolbox(&self) -> Result<Option<Toolbox>, ApiError> {
        let fields = ToolFields {
            tools: self.tools.as_deref().unwrap_or_default(),
            choice: self.tool_choice.as_ref(),
            parallel: self.parallel_tool_calls,
            prompt: self.tool_prompt.as_deref(),
        };
        let toolbox = fields.toolbox()?;
        if toolbox.is_some() && self.constraint.constraint()?.is_some() {
            return Err(ApiError::Tool("Grammar and tools are mutually exclusive".into()));
        }
        Ok(toolbox)
    }

    /// Whether the last message is a call's result.
    pub fn ends_with_result(&self) -> bool {
        self.messages.last().is_some_and(|message| message.role() == "tool")
    }

    /// What the request says about the template.
    ///
    /// # Errors
    /// What contradicts itself or is not done here.
    pub fn template_options(&self, compat: Compat) -> Result<TemplateOptions, Refusal> {
        let by_assistant = self.messages.last().is_some_and(|message| message.role() == "assistant");
        self.template.options(by_assistant, compat.ignores_unsupported_fields())
    }

    pub fn continuous_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.continuous_usage_stats).unwrap_or(false)
    }

    /// Fields that change what comes back, but not here.
    ///
    /// # Errors
    /// The first of them.
    pub fn check_unsupported(&self) -> Result<(), Refusal> {
        if self.functions.as_ref().is_some_and(|functions| !functions.is_empty()) {
            return Err(Refusal("`functions` is not supported: use `tools`".into()));
        }
        if self.web_search_options.is_some() {
            return Err(Refusal(
                "`web_search_options` is not supported: this server searches nothing".into(),
            ));
        }
        match self.modalities.iter().flatten().find(|kind| *kind != "text") {
            Some(kind) => Err(Refusal(format!("`modalities` must be [\"text\"]. Given: {kind}"))),
            None => Ok(()),
        }
    }

    /// The messages as templates see them.
    pub fn template_messages(&self) -> Result<Vec<ChatMessage>, Refusal> {
        self.messages.iter().enumerate().map(|(index, message)| message.for_template(index)).collect()
    }
}

impl Message {
    fn for_template(&self, index: usize) -> Result<ChatMessage, Refusal> {
        let calls = self.tool_calls.as_deref().unwrap_or_default();
        if self.content.is_none() && calls.is_empty() {
            return Err(Refusal(format!("`messages[{index}]` must have `content` or `tool_calls`")));
        }
        let call = |(i, call): (usize, &Value)| {
            earlier_call(call).ok_or_else(|| {
                Refusal(format!(
                    "`messages[{index}].tool_calls[{i}]` must have a `function` with `name` and `arguments`"
                ))
            })
        };
        Ok(ChatMessage {
            role: self.role().into(),
            content: self.content.as_ref().map_or(Ok(String::new()), |content| content.text(index))?,
            name: self.name.clone(),
            tool_calls: calls.iter().enumerate().map(call).collect::<Result<_, _>>()?,
            tool_call_id: self.tool_call_id.clone(),
        })
    }

    /// OpenAI's newer name of the system, and its older one of tools, are unknown to templates.
    fn role(&self) -> &str {
        match self.role.as_str() {
            "developer" => "system",
            "function" => "tool",
            role => role,
        }
    }
}

/// A call that the client gives back: arguments as the string they came in, or as an object.
fn earlier_call(call: &Value) -> Option<ToolCall> {
    let function = &call["function"];
    let arguments = match &function["arguments"] {
        Value::String(text) => text.clone(),
        Value::Null => "{}".into(),
        other => other.to_string(),
    };
    let id = call["id"].as_str().unwrap_or_default().to_string();
    Some(ToolCall { id, name: function["name"].as_str()?.to_string(), arguments })
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
            ("refusal", _) => Ok(self.refusal.as_deref().unwrap_or_default()),
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
    /// In a choice's first delta only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// `null` where there are only calls.
    pub content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Call>,
}

impl Answer {
    pub fn new(called::Part { text, calls }: called::Part) -> Self {
        let content = (calls.is_empty() || !text.is_empty()).then_some(text);
        Self { role: Some("assistant"), content, tool_calls: calls }
    }

    /// A delta that goes on: clients that put deltas together would repeat the role.
    pub fn more(part: called::Part) -> Self {
        Self { role: None, ..Self::new(part) }
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
