//! POST /v1/chat/completions: messages through the model's template, one sequence for each of `n` choices.

use std::sync::Arc;

use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};

use super::chat_types::{Answer, ChatCompletion, ChatRequest, Choice, Chunk, ChunkChoice, Logprobs};
use super::job::{self, Answers, Choices, Route};
use super::stream::Chunks;
use super::types::{Envelope, Usage};
use crate::api::error::ApiError;
use crate::api::extract::Json;
use crate::api::sequence::Piece;
use crate::api::sse::ServerSentEvent;
use crate::api::state::{App, Serving};
use crate::api::{random, sse};
use crate::text::{Prompt, TextError};
use crate::validation::{Draft, Input};

/// Answer a chat.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "OpenAI", request_body = ChatRequest,
    responses((status = 200, description = "The answer",
        content((ChatCompletion = "application/json"), (ServerSentEvent = "text/event-stream")))))]
pub async fn respond(State(app): State<App>, Json(request): Json<ChatRequest>) -> Result<Response, ApiError> {
    job::respond(app, request).await
}

impl ChatRequest {
    /// The messages through the model's template.
    pub fn prompt(&self, serving: &Serving) -> Result<Prompt, ApiError> {
        self.check_tools()?;
        let messages = self.template_messages()?;
        let template = serving.template.as_ref().ok_or(TextError::NoTemplate);
        template
            .and_then(|template| template.apply(&messages))
            .map_err(|error| ApiError::Template(error.to_string()))
    }
}

impl Route for ChatRequest {
    type Chunks = ChatChunks;

    const COMPUTE_TIME: bool = true;

    fn is_stream(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    fn n(&self) -> Option<usize> {
        self.n
    }

    fn shows_logprobs(&self) -> bool {
        self.logprobs.unwrap_or(false)
    }

    fn drafts(&self, serving: &Serving, _n: usize) -> Result<Vec<Draft>, ApiError> {
        let prompt = self.prompt(serving)?;
        Ok(vec![Draft {
            choice: self.sampling.choice(),
            max_new_tokens: self.max_new_tokens(),
            stop: self.stop.clone(),
            top_n_tokens: self.top_logprobs.unwrap_or(0),
            constraint: self.constraint.constraint()?,
            logit_bias: self.sampling.logit_bias.clone(),
            ..Draft::new(Input::Prompt(prompt), random::seed())
        }])
    }

    fn body(&self, serving: &Serving, Answers { done, usage, .. }: Answers) -> Response {
        let choices = done.into_iter().enumerate().map(|(index, one)| Choice {
            index,
            logprobs: self.shows_logprobs().then(|| Logprobs::new(&serving.tokenizer, &one.pieces)),
            message: Answer::new(one.answer),
            finish_reason: one.finish.openai(serving.compat),
        });
        let body = ChatCompletion::new(envelope(self, serving), choices.collect(), usage);
        axum::Json(body).into_response()
    }

    fn chunks(&self, serving: &Arc<Serving>, choices: &Choices) -> ChatChunks {
        ChatChunks {
            serving: serving.clone(),
            envelope: envelope(self, serving),
            logprobs: self.shows_logprobs(),
            include_usage: self.include_usage(),
            usage: Usage::new(choices.sequences.first().map_or(0, |one| one.input_tokens), 0),
        }
    }
}

/// Clients that name no model, or TGI's placeholder, are told the server's.
fn envelope(request: &ChatRequest, serving: &Serving) -> Envelope {
    let model = request.model.clone().filter(|name| name != "tgi");
    Envelope::new(serving, "chatcmpl", model)
}

/// A chat stream under way.
pub struct ChatChunks {
    serving: Arc<Serving>,
    envelope: Envelope,
    logprobs: bool,
    include_usage: bool,
    usage: Usage,
}

impl Chunks for ChatChunks {
    fn chunk(&mut self, index: usize, piece: &Piece) -> Event {
        self.usage = Usage::new(self.usage.prompt_tokens, self.usage.completion_tokens + 1);
        let choice = ChunkChoice {
            index,
            delta: Answer::new(piece.text.clone()),
            logprobs: self
                .logprobs
                .then(|| Logprobs::new(&self.serving.tokenizer, std::slice::from_ref(piece))),
            finish_reason: piece.finish.map(|finish| finish.openai(self.serving.compat)),
        };
        sse::json(&Chunk::new(&self.envelope, &[choice], None))
    }

    fn usage(&mut self) -> Option<Event> {
        self.include_usage.then(|| sse::json(&Chunk::new(&self.envelope, &[], Some(self.usage))))
    }
}
