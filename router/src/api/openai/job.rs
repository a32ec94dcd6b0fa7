//! The way of a request to an OpenAI route, the same on both: all choices submitted or none, then one whole
//! answer or a stream. `chat` and `completions` say what differs by `Route`.

use std::sync::Arc;
use std::time::Instant;

use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;

use super::stream::{self, Chunks};
use super::types::Usage;
use crate::api::compat::Compat;
use crate::api::error::ApiError;
use crate::api::pieces::TextStyle;
use crate::api::record::{RequestCount, Times, compute_headers, compute_time};
use crate::api::sequence::{Finished, Sequence};
use crate::api::state::{App, Serving};
use crate::validation::Draft;

/// A request of one route.
pub trait Route: Send + Sync + 'static {
    type Chunks: Chunks;
    /// Whether whole answers carry x-compute-time (TGI's completions do not).
    const COMPUTE_TIME: bool;

    fn is_stream(&self) -> bool;
    /// How many answers to each prompt; 1 when not given.
    fn n(&self) -> Option<usize>;
    fn shows_logprobs(&self) -> bool;
    fn style(&self, compat: Compat) -> TextStyle;
    /// One draft a prompt, after the route's own checks. `n` is within the server's limit.
    fn drafts(&self, serving: &Serving, n: usize) -> Result<Vec<Draft>, ApiError>;
    /// The body of a whole answer.
    fn body(&self, serving: &Serving, answers: Answers) -> Response;
    /// How the stream of `choices` is written.
    fn chunks(&self, serving: &Arc<Serving>, choices: &Choices) -> Self::Chunks;
}

/// What a request asks for, before anything is submitted.
struct Drafts {
    n: usize,
    of_prompts: Vec<Draft>,
}

/// Submitted choices: prompt 0's `n`, then prompt 1's, ...
pub struct Choices {
    pub n: usize,
    pub sequences: Vec<Sequence>,
    /// Characters of all prompts.
    pub characters: usize,
}

/// Finished choices, in the same order.
pub struct Answers {
    pub n: usize,
    pub done: Vec<Finished>,
    pub usage: Usage,
}

/// Answers one request.
pub async fn respond<R: Route>(app: App, request: R) -> Result<Response, ApiError> {
    let job = Job { arrived: Instant::now(), serving: app.serving()?, request };
    if job.request.is_stream() { job.stream().await } else { job.whole().await }
}

/// The text of a request's first answer.
pub async fn text<R: Route>(serving: Arc<Serving>, request: R) -> Result<String, ApiError> {
    let metrics = serving.metrics.clone();
    let job = Job { arrived: Instant::now(), serving, request };
    let (_, answers) = RequestCount::over(&metrics, job.answers()).await?;
    answers.done.into_iter().next().map(|one| one.answer).ok_or(ApiError::Internal)
}

struct Job<R> {
    arrived: Instant,
    serving: Arc<Serving>,
    request: R,
}

impl<R: Route> Job<R> {
    async fn whole(self) -> Result<Response, ApiError> {
        RequestCount::over(&self.serving.metrics, async {
            let (characters, answers) = self.answers().await?;
            let headers = self.headers(characters, answers.usage.prompt_tokens, &answers.done);
            Ok((headers, self.request.body(&self.serving, answers)).into_response())
        })
        .await
    }

    /// All answers, and how many characters the prompts have.
    async fn answers(&self) -> Result<(usize, Answers), ApiError> {
        let Choices { n, sequences, characters } = self.open(self.drafts()?).await?;
        let keep_pieces = self.request.shows_logprobs();
        let done = try_join_all(sequences.into_iter().map(|one| one.collect(keep_pieces))).await?;
        // Each prompt counts once, however many answers it got.
        let prompt_tokens = done.iter().step_by(n).map(|one| one.input_tokens).sum();
        let usage = Usage::new(prompt_tokens, done.iter().map(|one| one.times.n_tokens).sum());
        Ok((characters, Answers { n, done, usage }))
    }

    async fn stream(self) -> Result<Response, ApiError> {
        let mut count = RequestCount::begin(&self.serving.metrics);
        let drafts = self.drafts().inspect_err(|error| count.fail(error))?;
        match self.open_stream(drafts).await {
            Ok(choices) => {
                let chunks = self.request.chunks(&self.serving, &choices);
                Ok(stream::respond(&self.serving, choices, chunks, count))
            }
            Err(error) => {
                count.fail(&error);
                let as_event = self.serving.compat.streams_every_error();
                if as_event { Ok(stream::failed(&self.serving, &error)) } else { Err(error) }
            }
        }
    }

    async fn open_stream(&self, drafts: Drafts) -> Result<Choices, ApiError> {
        let mut choices = self.open(drafts).await?;
        stream::first_tokens(&mut choices.sequences).await?;
        Ok(choices)
    }

    fn drafts(&self) -> Result<Drafts, ApiError> {
        let n = self.serving.n_answers(self.request.n())?;
        Ok(Drafts { n, of_prompts: self.request.drafts(&self.serving, n)? })
    }

    async fn open(&self, Drafts { n, of_prompts }: Drafts) -> Result<Choices, ApiError> {
        let characters = of_prompts.iter().map(|draft| draft.input.characters()).sum();
        let style = self.request.style(self.serving.compat);
        let sequences = self.serving.open_all(repeat(&of_prompts, n), style, self.arrived).await?;
        Ok(Choices { n, sequences, characters })
    }

    /// Headers of a whole answer: times summed over its sequences.
    fn headers(&self, characters: usize, prompt_tokens: u32, done: &[Finished]) -> HeaderMap {
        let times = done.iter().fold(Times::default(), |sum, one| sum.plus(one.times));
        let mut headers = compute_headers(&self.serving.compute_type, characters);
        headers.extend(R::COMPUTE_TIME.then(|| compute_time(times.total)));
        headers.extend(times.headers(prompt_tokens));
        headers
    }
}

/// `n` answers to each prompt: copies of its draft, with seeds that differ.
fn repeat(drafts: &[Draft], n: usize) -> Vec<Draft> {
    let copy = |draft: &Draft, i: usize| {
        let mut draft = draft.clone();
        draft.random_seed = draft.random_seed.wrapping_add(i as u64);
        draft.choice.seed = draft.choice.seed.map(|seed| seed.wrapping_add(i as u64));
        draft
    };
    drafts.iter().flat_map(|draft| (0..n).map(move |i| copy(draft, i))).collect()
}
