//! POST /v1/chat/completions: messages through the model's template, one sequence for each of `n` choices.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;

use super::chat_types::{Answer, ChatCompletion, ChatRequest, Choice, Chunk, ChunkChoice, Logprobs};
use super::stream::{self, Chunks};
use super::types::{Envelope, Usage};
use crate::api::error::ApiError;
use crate::api::extract::Json;
use crate::api::pieces::TextStyle;
use crate::api::record::{RequestCount, compute_headers};
use crate::api::sequence::{Finished, Piece, Sequence};
use crate::api::state::{App, Serving};
use crate::api::{random, sse};
use crate::text::TextError;
use crate::validation::{Draft, Input};

pub async fn respond(State(app): State<App>, Json(request): Json<ChatRequest>) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    let job = Job { arrived: Instant::now(), serving, request };
    if job.request.stream.unwrap_or(false) { job.stream().await } else { job.whole().await }
}

/// One chat request on its way.
struct Job {
    arrived: Instant,
    serving: Arc<Serving>,
    request: ChatRequest,
}

/// Its submitted choices.
struct Opened {
    characters: usize,
    sequences: Vec<Sequence>,
}

impl Job {
    async fn whole(self) -> Result<Response, ApiError> {
        RequestCount::over(&self.serving.metrics, async {
            let Opened { characters, sequences } = self.open().await?;
            let logprobs = self.shows_logprobs();
            let done = try_join_all(sequences.into_iter().map(|one| one.collect(logprobs))).await?;
            let prompt_tokens = done.first().map_or(0, |one| one.input_tokens);
            let headers = super::headers(&self.serving, characters, prompt_tokens, &done);
            let usage = Usage::new(prompt_tokens, done.iter().map(|one| one.times.n_tokens).sum());
            let choices = done.into_iter().enumerate().map(|(i, one)| self.choice(i, one)).collect();
            let body = ChatCompletion::new(self.envelope(), choices, usage);
            Ok((headers, axum::Json(body)).into_response())
        })
        .await
    }

    async fn stream(self) -> Result<Response, ApiError> {
        let mut count = RequestCount::begin(&self.serving.metrics);
        match self.open_stream().await {
            Ok(Opened { characters, sequences }) => {
                let headers = compute_headers(&self.serving.compute_type, characters);
                let chunks = self.chunks(&sequences);
                Ok(stream::respond(headers, sequences, chunks, count))
            }
            Err(error) => {
                count.fail(&error);
                Err(error)
            }
        }
    }

    async fn open_stream(&self) -> Result<Opened, ApiError> {
        let mut opened = self.open().await?;
        stream::first_tokens(&mut opened.sequences).await?;
        Ok(opened)
    }

    async fn open(&self) -> Result<Opened, ApiError> {
        self.request.check_tools()?;
        let n = super::check_n(&self.serving, self.request.n)?;
        let messages = self.request.template_messages()?;
        let template = self.serving.template.as_ref().ok_or(TextError::NoTemplate);
        let prompt = template
            .and_then(|template| template.apply(&messages))
            .map_err(|error| ApiError::Template(error.to_string()))?;
        let input = Input::Prompt(prompt);
        let characters = input.characters();
        let drafts = super::repeat(vec![self.draft(input)], n);
        let sequences = self.serving.open_all(drafts, TextStyle::OpenAi, self.arrived).await?;
        Ok(Opened { characters, sequences })
    }

    fn draft(&self, input: Input) -> Draft {
        let request = &self.request;
        Draft {
            choice: request.sampling.choice(),
            max_new_tokens: request.max_new_tokens(),
            stop: request.stop.clone(),
            top_n_tokens: request.top_logprobs.unwrap_or(0),
            grammar: request.constrained(),
            ..Draft::new(input, random::seed())
        }
    }

    fn shows_logprobs(&self) -> bool {
        self.request.logprobs.unwrap_or(false)
    }

    fn choice(&self, index: usize, done: Finished) -> Choice {
        let logprobs = self.shows_logprobs().then(|| Logprobs::new(&self.serving.tokenizer, &done.pieces));
        let finish_reason = done.finish.openai();
        Choice { index, message: Answer::new(done.answer), logprobs, finish_reason }
    }

    /// Clients that name no model, or TGI's placeholder, are told the server's.
    fn envelope(&self) -> Envelope {
        let model = self.request.model.clone().filter(|name| name != "tgi");
        Envelope::new(&self.serving, "chatcmpl", model)
    }

    fn chunks(&self, sequences: &[Sequence]) -> ChatChunks {
        ChatChunks {
            serving: self.serving.clone(),
            envelope: self.envelope(),
            logprobs: self.shows_logprobs(),
            include_usage: self.request.include_usage(),
            usage: Usage::new(sequences.first().map_or(0, |one| one.input_tokens), 0),
        }
    }
}

struct ChatChunks {
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
            finish_reason: piece.finish.map(|finish| finish.openai()),
        };
        sse::json(&Chunk::new(&self.envelope, &[choice], None))
    }

    fn usage(&mut self) -> Option<Event> {
        self.include_usage.then(|| sse::json(&Chunk::new(&self.envelope, &[], Some(self.usage))))
    }
}
