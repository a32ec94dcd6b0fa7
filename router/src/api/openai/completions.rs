//! POST /v1/completions: up to `max_client_batch_size` prompts at once, each without a chat template.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;

use super::completions_types::{Choice, Chunk, Completion, CompletionRequest, Logprobs, PromptText};
use super::stream::{self, Chunks};
use super::types::{Envelope, Usage};
use crate::api::error::ApiError;
use crate::api::extract::Json;
use crate::api::pieces::TextStyle;
use crate::api::record::{RequestCount, compute_headers};
use crate::api::sequence::{Finished, Piece, Sequence};
use crate::api::state::{App, Serving};
use crate::api::{random, sse};
use crate::validation::{Draft, Input};

pub async fn respond(
    State(app): State<App>,
    Json(request): Json<CompletionRequest>,
) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    let job = Job { arrived: Instant::now(), serving, request };
    if job.request.stream.unwrap_or(false) { job.stream().await } else { job.whole().await }
}

/// One completion request on its way.
struct Job {
    arrived: Instant,
    serving: Arc<Serving>,
    request: CompletionRequest,
}

/// Its submitted choices: prompt 0's `n` answers, then prompt 1's, ...
struct Opened {
    characters: usize,
    n: usize,
    sequences: Vec<Sequence>,
}

impl Job {
    async fn whole(self) -> Result<Response, ApiError> {
        RequestCount::over(&self.serving.metrics, async {
            let Opened { characters, n, sequences } = self.open().await?;
            let logprobs = self.request.logprobs.is_some();
            let done = try_join_all(sequences.into_iter().map(|one| one.collect(logprobs))).await?;
            let prompt_tokens = done.iter().step_by(n).map(|one| one.input_tokens).sum();
            let headers = super::headers(&self.serving, characters, prompt_tokens, &done);
            let usage = Usage::new(prompt_tokens, done.iter().map(|one| one.times.n_tokens).sum());
            let choices = done.into_iter().enumerate().map(|(i, one)| self.choice(i, n, one));
            let choices: Vec<_> = choices.collect();
            let envelope = Envelope::new(&self.serving, "cmpl", None);
            Ok((headers, axum::Json(Completion::new(&envelope, &choices, usage))).into_response())
        })
        .await
    }

    async fn stream(self) -> Result<Response, ApiError> {
        let mut count = RequestCount::begin(&self.serving.metrics);
        match self.open_stream().await {
            Ok(opened) => {
                let headers = compute_headers(&self.serving.compute_type, opened.characters);
                let chunks = self.chunks(&opened);
                Ok(stream::respond(headers, opened.sequences, chunks, count))
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
        let n = super::check_n(&self.serving, self.request.n)?;
        self.request.check(n, self.serving.info.max_client_batch_size)?;
        let inputs: Vec<Input> = self.request.prompt.iter().map(PromptText::input).collect();
        let characters = inputs.iter().map(Input::characters).sum();
        let drafts = super::repeat(inputs.into_iter().map(|input| self.draft(input)).collect(), n);
        let sequences = self.serving.open_all(drafts, TextStyle::OpenAi, self.arrived).await?;
        Ok(Opened { characters, n, sequences })
    }

    fn draft(&self, input: Input) -> Draft {
        Draft {
            choice: self.request.sampling.choice(),
            max_new_tokens: self.request.max_tokens,
            stop: self.request.stop.clone(),
            top_n_tokens: self.request.logprobs.unwrap_or(0),
            ..Draft::new(input, random::seed())
        }
    }

    fn choice(&self, index: usize, n: usize, done: Finished) -> Choice {
        let tokenizer = &self.serving.tokenizer;
        let logprobs =
            self.request.logprobs.is_some().then(|| Logprobs::new(tokenizer, &done.pieces, &mut 0));
        let finish_reason = Some(done.finish.openai());
        Choice { index, text: self.echoed(index / n) + &done.answer, logprobs, finish_reason }
    }

    /// The prompt's text if the request wants it back, else "".
    fn echoed(&self, prompt: usize) -> String {
        let prompt = self.request.prompt.get(prompt).filter(|_| self.request.echo());
        prompt.map(|prompt| prompt.echoed(&self.serving.tokenizer)).unwrap_or_default()
    }

    fn chunks(&self, opened: &Opened) -> CompletionChunks {
        let progress = |(index, sequence): (usize, &Sequence)| Progress {
            echo: self.echoed(index / opened.n),
            usage: Usage::new(sequence.input_tokens, 0),
            offset: 0,
        };
        CompletionChunks {
            serving: self.serving.clone(),
            envelope: Envelope::new(&self.serving, "cmpl", None),
            logprobs: self.request.logprobs.is_some(),
            include_usage: self.request.include_usage(),
            n: opened.n,
            progress: opened.sequences.iter().enumerate().map(progress).collect(),
        }
    }
}

/// What a stream remembers of one choice.
struct Progress {
    /// Put before the first piece, then empty.
    echo: String,
    usage: Usage,
    /// Characters sent, for `text_offset`.
    offset: usize,
}

struct CompletionChunks {
    serving: Arc<Serving>,
    envelope: Envelope,
    logprobs: bool,
    include_usage: Option<bool>,
    n: usize,
    progress: Vec<Progress>,
}

impl Chunks for CompletionChunks {
    /// The last chunk of a choice carries its usage, as TGI's does, unless the client chose otherwise.
    fn chunk(&mut self, index: usize, piece: &Piece) -> Event {
        let Progress { echo, usage, offset } = &mut self.progress[index];
        *usage = Usage::new(usage.prompt_tokens, usage.completion_tokens + 1);
        let pieces = std::slice::from_ref(piece);
        let choice = [Choice {
            index,
            text: std::mem::take(echo) + &piece.text,
            logprobs: self.logprobs.then(|| Logprobs::new(&self.serving.tokenizer, pieces, offset)),
            finish_reason: piece.finish.map(|finish| finish.openai()),
        }];
        if piece.finish.is_some() && self.include_usage.is_none() {
            return sse::json(&Completion::new(&self.envelope, &choice, *usage));
        }
        sse::json(&Chunk::new(&self.envelope, &choice))
    }

    fn usage(&mut self) -> Option<Event> {
        let prompt = self.progress.iter().step_by(self.n).map(|one| one.usage.prompt_tokens).sum();
        let completion = self.progress.iter().map(|one| one.usage.completion_tokens).sum();
        let usage = Usage::new(prompt, completion);
        let wanted = self.include_usage == Some(true);
        wanted.then(|| sse::json(&Completion::new(&self.envelope, &[], usage)))
    }
}
