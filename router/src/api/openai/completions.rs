//! POST /v1/completions: up to `max_client_batch_size` prompts at once, each without a chat template.

use std::sync::Arc;

use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};

use super::completions_types::{Choice, Chunk, Completion, CompletionRequest, Logprobs};
use super::job::{self, Answers, Choices, Route};
use super::stream::Chunks;
use super::types::{Envelope, Usage};
use crate::api::compat::Compat;
use crate::api::error::ApiError;
use crate::api::extract::Json;
use crate::api::pieces::TextStyle;
use crate::api::sequence::{Finished, Piece, Sequence};
use crate::api::sse::ServerSentEvent;
use crate::api::state::{App, Serving};
use crate::api::{random, sse};
use crate::text::Tokenizer;
use crate::validation::{Draft, Input};

/// Continue texts.
#[utoipa::path(post, path = "/v1/completions", tag = "OpenAI", request_body = CompletionRequest,
    responses((status = 200, description = "The answers",
        content((Completion = "application/json"), (ServerSentEvent = "text/event-stream")))))]
pub async fn respond(
    State(app): State<App>,
    Json(request): Json<CompletionRequest>,
) -> Result<Response, ApiError> {
    job::respond(app, request).await
}

impl Route for CompletionRequest {
    type Chunks = CompletionChunks;

    const COMPUTE_TIME: bool = false;

    fn is_stream(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    fn n(&self) -> Option<usize> {
        self.n
    }

    fn shows_logprobs(&self) -> bool {
        self.logprobs.is_some()
    }

    fn style(&self, compat: Compat) -> TextStyle {
        self.vllm.style(compat)
    }

    fn drafts(&self, serving: &Serving, n: usize) -> Result<Vec<Draft>, ApiError> {
        self.check(n, serving.info.max_client_batch_size)?;
        let constraint = self.constraint.constraint()?;
        let draft = |input: Input| {
            let draft = Draft {
                choice: self.sampling.choice(),
                max_new_tokens: self.max_tokens,
                stop: self.stop.clone(),
                top_n_tokens: self.logprobs.unwrap_or(0),
                prompt_logprobs: self.echo() && self.shows_logprobs(),
                constraint: constraint.clone(),
                logit_bias: self.sampling.logit_bias.clone(),
                ..Draft::new(input, random::seed())
            };
            Ok(self.vllm.apply(draft, &serving.field_route(true))?)
        };
        self.prompt.iter().map(|prompt| draft(prompt.input())).collect()
    }

    fn body(&self, serving: &Serving, Answers { n, done, usage }: Answers) -> Response {
        let tokenizer = &serving.tokenizer;
        let choice = |(index, one): (usize, &Finished)| {
            let echo = echoed(self, index / n, tokenizer);
            let logprobs = self.logprobs.map(|n_top| {
                let mut columns = Logprobs::default();
                if let Some(prefill) = &one.prefill {
                    columns.add_prompt(tokenizer, prefill, (&echo, n_top));
                }
                columns.add(tokenizer, &one.pieces, &mut echo.chars().count());
                columns
            });
            let finish_reason = Some(one.finish.openai(serving.compat));
            Choice { index, text: echo + &one.answer, logprobs, finish_reason }
        };
        let choices: Vec<_> = done.iter().enumerate().map(choice).collect();
        let envelope = Envelope::new(serving, "cmpl", None);
        axum::Json(Completion::new(&envelope, &choices, usage)).into_response()
    }

    fn chunks(&self, serving: &Arc<Serving>, choices: &Choices) -> CompletionChunks {
        let progress = |(index, sequence): (usize, &Sequence)| Progress {
            echo: echoed(self, index / choices.n, &serving.tokenizer),
            usage: Usage::new(sequence.input_tokens, 0),
            offset: 0,
        };
        CompletionChunks {
            serving: serving.clone(),
            envelope: Envelope::new(serving, "cmpl", None),
            logprobs: self.logprobs,
            include_usage: self.include_usage(),
            continuous_usage: self.continuous_usage(),
            n: choices.n,
            progress: choices.sequences.iter().enumerate().map(progress).collect(),
        }
    }
}

/// The prompt's text if the request wants it back, else "".
fn echoed(request: &CompletionRequest, prompt: usize, tokenizer: &Tokenizer) -> String {
    let prompt = request.prompt.get(prompt).filter(|_| request.echo());
    prompt.map(|prompt| prompt.echoed(tokenizer)).unwrap_or_default()
}

/// What a stream remembers of one choice.
struct Progress {
    /// Put before the first piece, then empty.
    echo: String,
    usage: Usage,
    /// Characters sent, for `text_offset`.
    offset: usize,
}

/// A completions stream under way.
pub struct CompletionChunks {
    serving: Arc<Serving>,
    envelope: Envelope,
    logprobs: Option<u32>,
    include_usage: Option<bool>,
    /// In every chunk its choice's usage so far.
    continuous_usage: bool,
    n: usize,
    progress: Vec<Progress>,
}

impl Chunks for CompletionChunks {
    /// The last chunk of a choice carries its usage, as TGI's does, unless the client chose otherwise.
    fn chunk(&mut self, index: usize, piece: &Piece) -> Option<Event> {
        let Progress { echo, usage, offset } = &mut self.progress[index];
        *usage = Usage::new(usage.prompt_tokens, usage.completion_tokens + 1);
        let logprobs = self.logprobs.map(|n_top| {
            let mut columns = Logprobs::default();
            if let Some(prefill) = &piece.prefill {
                columns.add_prompt(&self.serving.tokenizer, prefill, (echo, n_top));
            }
            *offset += echo.chars().count();
            columns.add(&self.serving.tokenizer, std::slice::from_ref(piece), offset);
            columns
        });
        let choice = [Choice {
            index,
            text: std::mem::take(echo) + &piece.text,
            logprobs,
            finish_reason: piece.finish.map(|finish| finish.openai(self.serving.compat)),
        }];
        if self.continuous_usage || piece.finish.is_some() && self.include_usage.is_none() {
            return Some(sse::json(&Completion::new(&self.envelope, &choice, *usage)));
        }
        Some(sse::json(&Chunk::new(&self.envelope, &choice)))
    }

    fn usage(&mut self) -> Option<Event> {
        let prompt = self.progress.iter().step_by(self.n).map(|one| one.usage.prompt_tokens).sum();
        let completion = self.progress.iter().map(|one| one.usage.completion_tokens).sum();
        let usage = Usage::new(prompt, completion);
        let wanted = self.include_usage == Some(true);
        wanted.then(|| sse::json(&Completion::new(&self.envelope, &[], usage)))
    }
}
