//! TGI's own routes: POST /generate, /generate_stream and /.
//!
//! `request` and `reply` have their JSON, `stream` the server-sent events; this file joins them to `Serving`.

pub mod reply;
pub mod request;
mod stream;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use super::extract::{Json, RawJson};
use super::random;
use super::record::{RequestCount, compute_headers, compute_time};
use super::sequence::Finished;
use super::sse::ServerSentEvent;
use super::state::{App, Serving};
use super::vllm::{self, VllmRequest, VllmTexts};
use crate::validation::{Draft, Input, Refusal, rules};
use reply::Generated;
use request::{GenerateRequest, Parameters};

/// What POST /generate takes: TGI's body, or vLLM's with `prompt` instead of `inputs`.
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum GenerateBody {
    Tgi(Box<GenerateRequest>),
    Vllm(Box<VllmRequest>),
}

impl GenerateBody {
    fn read(body: &RawJson) -> Result<Self, ApiError> {
        match body.first_of(&["inputs", "prompt"]) {
            Some("prompt") => Ok(Self::Vllm(body.parse()?)),
            _ => Ok(Self::Tgi(body.parse()?)),
        }
    }
}

/// What POST /generate answers, in the shape of its body.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum GenerateReply {
    Tgi(Generated),
    Vllm(VllmTexts),
}

/// Continue a text.
#[utoipa::path(post, path = "/generate", tag = "TGI", request_body = GenerateBody,
    responses((status = 200, description = "The answer; a line of it a token where vLLM's body asks for a stream",
        content((GenerateReply = "application/json"), (String = "application/x-ndjson")))))]
pub async fn generate(State(app): State<App>, body: RawJson) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    let request = match GenerateBody::read(&body)? {
        GenerateBody::Tgi(request) => *request,
        GenerateBody::Vllm(request) => return vllm::generate(serving, *request).await,
    };
    let (headers, generated) = Job::new(serving, request, false).answer().await?;
    Ok((headers, axum::Json(GenerateReply::Tgi(generated))).into_response())
}

/// Continue a text, token by token, as server-sent events.
#[utoipa::path(post, path = "/generate_stream", tag = "TGI", request_body = GenerateRequest,
    responses((status = 200, description = "An event a token; its data is a StreamEvent", body = ServerSentEvent, content_type = "text/event-stream")))]
pub async fn generate_stream(
    State(app): State<App>,
    Json(request): Json<GenerateRequest>,
) -> Result<Response, ApiError> {
    stream::respond(Job::new(app.serving()?, request, false)).await
}

/// Continue a text: a stream when asked for, else a list with one answer.
///
/// `generated_text` begins with the inputs unless `return_full_text` is false, as TGI has it for
/// text-generation models and local folders.
#[utoipa::path(post, path = "/", tag = "TGI", request_body = GenerateRequest,
    responses((status = 200, description = "The answer",
        content((Vec<Generated> = "application/json"), (ServerSentEvent = "text/event-stream")))))]
pub async fn compat(
    State(app): State<App>,
    Json(request): Json<GenerateRequest>,
) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    let (is_stream, full_text) = (request.stream, serving.compat_full_text);
    let job = Job::new(serving, request, full_text);
    if is_stream {
        return stream::respond(job).await;
    }
    let (headers, generated) = job.answer().await?;
    Ok((headers, axum::Json([generated])).into_response())
}

/// The text of /generate's answer.
pub async fn text(serving: Arc<Serving>, request: GenerateRequest) -> Result<String, ApiError> {
    let (_, generated) = Job::new(serving, request, false).answer().await?;
    Ok(generated.generated_text)
}

/// One request to one of these routes.
struct Job {
    serving: Arc<Serving>,
    arrived: Instant,
    inputs: String,
    parameters: Parameters,
    /// What `generated_text` begins with: the inputs, or "".
    prompt: String,
    details: bool,
}

impl Job {
    /// `full_text`: whether to return the prompt when the request does not say.
    fn new(serving: Arc<Serving>, mut request: GenerateRequest, full_text: bool) -> Self {
        let parameters = request.take_parameters(serving.compat);
        let wants_prompt = parameters.return_full_text.unwrap_or(full_text);
        Self {
            serving,
            arrived: Instant::now(),
            prompt: if wants_prompt { request.inputs.clone() } else { String::new() },
            inputs: request.inputs,
            details: parameters.wants_details(),
            parameters,
        }
    }

    /// Headers that need no result.
    fn headers(&self) -> HeaderMap {
        compute_headers(&self.serving.compute_type, self.inputs.chars().count())
    }

    /// What validation sees; the job is of no use for another one.
    fn draft(&mut self) -> Result<Draft, Refusal> {
        let inputs = Input::Text(std::mem::take(&mut self.inputs));
        let parameters = std::mem::take(&mut self.parameters);
        parameters.draft(inputs, random::seed(), self.serving.computes_prefill())
    }

    /// A whole answer and its headers.
    async fn answer(mut self) -> Result<(HeaderMap, Generated), ApiError> {
        let metrics = self.serving.metrics.clone();
        RequestCount::over(&metrics, async {
            let mut headers = self.headers();
            let done = self.generate().await?;
            let best = best(&done).ok_or(ApiError::Incomplete)?;
            headers.extend([compute_time(best.times.total)]);
            headers.extend(best.times.headers(best.input_tokens));
            let others: Vec<_> = done.iter().filter(|one| !std::ptr::eq(*one, best)).collect();
            let others = self.details.then_some(&others[..]);
            Ok((headers, Generated::new(&self.serving.tokenizer, &self.prompt, best, others)))
        })
        .await
    }

    /// All `best_of` answers.
    async fn generate(&mut self) -> Result<Vec<Finished>, ApiError> {
        let best_of = self.parameters.best_of;
        rules::check_best_of(best_of, self.serving.validator.rules())?;
        let draft = self.draft()?;
        let first = draft.choice.seed.unwrap_or(draft.random_seed);
        let seeds: Vec<u64> =
            [first].into_iter().chain((1..best_of.unwrap_or(1)).map(|_| random::seed())).collect();
        let sequences = self.serving.open_seeds(draft, &seeds, self.arrived).await?;
        try_join_all(sequences.into_iter().map(|one| one.collect(self.details))).await
    }
}

/// The answer with the highest mean log-probability.
fn best(done: &[Finished]) -> Option<&Finished> {
    done.iter().max_by(|a, b| a.mean_logprob.total_cmp(&b.mean_logprob))
}
