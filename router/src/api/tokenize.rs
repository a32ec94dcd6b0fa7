//! Text to token ids and back, without a model: /tokenize, /chat_tokenize, /detokenize.
//!
//! /tokenize takes TGI's body and answers with TGI's list; a body with `prompt` or `messages` is vLLM's.

use std::borrow::Cow;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ApiError;
use super::extract::{Json, RawJson};
use super::named::named;
use super::openai::ChatRequest;
use super::record::RequestCount;
use super::state::{App, Serving};
use super::tgi::request::GenerateRequest;
use crate::text::{Encoding, Prompt};
use crate::validation::Refusal;

/// One token of a text: `start` and `stop` are byte offsets into it.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenSpan<'a> {
    id: u32,
    text: Cow<'a, str>,
    start: usize,
    stop: usize,
}

/// Answer of /chat_tokenize.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatTokens<'a> {
    tokenize_response: Vec<TokenSpan<'a>>,
    templated_text: &'a str,
}

/// vLLM's body of /tokenize for a text.
#[derive(Debug, Deserialize, ToSchema)]
pub struct VllmText {
    prompt: String,
    /// Whether the tokenizer adds its own, such as a BOS; true when absent.
    add_special_tokens: Option<bool>,
    #[serde(flatten, deserialize_with = "named")]
    wishes: VllmWishes,
}

/// vLLM's body of /tokenize for a chat.
#[derive(Debug, Deserialize, ToSchema)]
pub struct VllmChat {
    #[serde(flatten, deserialize_with = "named")]
    chat: ChatRequest,
    #[serde(flatten, deserialize_with = "named")]
    wishes: VllmWishes,
}

/// vLLM's answer of /tokenize.
#[derive(Debug, Serialize, ToSchema)]
pub struct VllmTokens {
    count: usize,
    max_model_len: u32,
    tokens: Vec<u32>,
    /// Each token's text, if `return_token_strs` asked for them.
    token_strs: Option<Vec<String>>,
}

/// What both of vLLM's bodies may ask for.
#[derive(Debug, Deserialize, ToSchema)]
struct VllmWishes {
    /// Answer with each token's text, too.
    return_token_strs: Option<bool>,
}

impl VllmTokens {
    fn new(serving: &Serving, tokens: Vec<u32>, wishes: &VllmWishes) -> Self {
        let text = |id: &u32| serving.tokenizer.token_text(*id);
        Self {
            count: tokens.len(),
            max_model_len: serving.info.max_total_tokens,
            token_strs: wishes.return_token_strs.unwrap_or(false).then(|| tokens.iter().map(text).collect()),
            tokens,
        }
    }
}

/// Body of /detokenize.
#[derive(Debug, Deserialize, ToSchema)]
pub struct DetokenizeRequest {
    tokens: Vec<u32>,
}

/// Answer of /detokenize.
#[derive(Debug, Serialize, ToSchema)]
pub struct Detokenized {
    prompt: String,
}

/// What /tokenize takes: TGI's body (its parameters are ignored), or one of vLLM's two.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum TokenizeBody {
    Tgi(Box<GenerateRequest>),
    Text(VllmText),
    Chat(Box<VllmChat>),
}

impl TokenizeBody {
    fn read(body: &RawJson) -> Result<Self, ApiError> {
        match body.first_of(&["inputs", "prompt", "messages"]) {
            Some("prompt") => Ok(Self::Text(body.parse()?)),
            Some("messages") => Ok(Self::Chat(body.parse()?)),
            _ => Ok(Self::Tgi(body.parse()?)),
        }
    }
}

/// What /tokenize answers, in the shape of its body.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TokenizeReply<'a> {
    Tgi(Vec<TokenSpan<'a>>),
    Vllm(VllmTokens),
}

/// Token ids of a text.
#[utoipa::path(post, path = "/tokenize", tag = "Tokens", request_body = TokenizeBody,
    responses((status = 200, description = "The tokens", body = TokenizeReply)))]
pub async fn tokenize(State(app): State<App>, body: RawJson) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    let (encoding, wishes) = match TokenizeBody::read(&body)? {
        TokenizeBody::Text(VllmText { prompt, add_special_tokens, wishes }) => {
            (serving.validator.encode(prompt, add_special_tokens.unwrap_or(true)).await?, wishes)
        }
        TokenizeBody::Chat(request) => {
            let VllmChat { chat, wishes } = *request;
            (serving.validator.encode_prompt(chat.prompt(&serving)?).await?, wishes)
        }
        TokenizeBody::Tgi(request) => {
            let text = request.inputs;
            let encoding = serving.validator.encode(text.clone(), true).await?;
            return Ok(axum::Json(TokenizeReply::Tgi(spans(&text, &encoding))).into_response());
        }
    };
    let reply = VllmTokens::new(&serving, encoding.ids, &wishes);
    Ok(axum::Json(TokenizeReply::Vllm(reply)).into_response())
}

/// The prompt that a chat becomes, and its token ids.
#[utoipa::path(post, path = "/chat_tokenize", tag = "Tokens", request_body = ChatRequest,
    responses((status = 200, description = "The prompt and its tokens", body = ChatTokens)))]
pub async fn chat_tokenize(
    State(app): State<App>,
    Json(request): Json<ChatRequest>,
) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    // Counts as a request, as in TGI.
    let (text, encoding) = RequestCount::over(&serving.metrics, chat_tokens(&serving, &request)).await?;
    let body = ChatTokens { tokenize_response: spans(&text, &encoding), templated_text: &text };
    Ok(axum::Json(body).into_response())
}

async fn chat_tokens(serving: &Serving, request: &ChatRequest) -> Result<(String, Encoding), ApiError> {
    let prompt: Prompt = request.prompt(serving)?;
    Ok((prompt.text(), serving.validator.encode_prompt(prompt).await?))
}

/// The text of token ids; special tokens are text, too.
#[utoipa::path(post, path = "/detokenize", tag = "Tokens", request_body = DetokenizeRequest,
    responses((status = 200, description = "The text", body = Detokenized)))]
pub async fn detokenize(
    State(app): State<App>,
    Json(request): Json<DetokenizeRequest>,
) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    let n_ids = serving.tokenizer.vocab_size();
    if let Some(id) = request.tokens.iter().find(|id| **id as usize >= n_ids) {
        return Err(Refusal(format!("token ids must be < {n_ids}. Given: {id}")).into());
    }
    Ok(axum::Json(Detokenized { prompt: serving.tokenizer.decode(&request.tokens, false) }).into_response())
}

fn spans<'a>(text: &'a str, encoding: &Encoding) -> Vec<TokenSpan<'a>> {
    let bytes = text.as_bytes();
    let span = |(&id, &(start, stop)): (&u32, &(usize, usize))| {
        let text = String::from_utf8_lossy(bytes.get(start..stop).unwrap_or_default());
        TokenSpan { id, text, start, stop }
    };
    encoding.ids.iter().zip(&encoding.offsets).map(span).collect()
}
