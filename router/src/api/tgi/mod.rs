//! TGI's own routes: POST /generate, /generate_stream and /.
//!
//! `types` has their JSON, `stream` the server-sent events; this file joins them to `Serving`.

mod stream;
pub mod types;

use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::extract::Json;
use super::pieces::TextStyle;
use super::record::{RequestCount, compute_headers, compute_time};
use super::sequence::{Finished, Sequence};
use super::state::{App, Serving};
use crate::validation::{Input, rules};
use types::{Details, GenerateRequest, Generated};

/// POST /generate
pub async fn generate(
    State(app): State<App>,
    Json(request): Json<GenerateRequest>,
) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    let full_text = request.parameters.return_full_text.unwrap_or(false);
    let (headers, generated) = answer(&serving, request, full_text).await?;
    Ok((headers, axum::Json(generated)).into_response())
}

/// POST /generate_stream
pub async fn generate_stream(
    State(app): State<App>,
    Json(request): Json<GenerateRequest>,
) -> Result<Response, ApiError> {
    let full_text = request.parameters.return_full_text.unwrap_or(false);
    stream::respond(&app.serving()?, request, full_text).await
}

/// POST /: a stream when asked, else /generate's answer as the one element of a list. Returns the
/// prompt too by default, as TGI does for text-generation models and local folders.
pub async fn compat(
    State(app): State<App>,
    Json(request): Json<GenerateRequest>,
) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    let full_text = request.parameters.return_full_text.unwrap_or(serving.compat_full_text);
    if request.stream {
        return stream::respond(&serving, request, full_text).await;
    }
    let (headers, generated) = answer(&serving, request, full_text).await?;
    Ok((headers, axum::Json([generated])).into_response())
}

/// A whole answer and its headers.
async fn answer(
    serving: &Serving,
    request: GenerateRequest,
    full_text: bool,
) -> Result<(axum::http::HeaderMap, Generated), ApiError> {
    let arrived = Instant::now();
    RequestCount::over(&serving.metrics, async {
        rules::check_best_of(request.parameters.best_of, serving.validator.rules())?;
        let details = request.parameters.wants_details();
        let characters = request.inputs.chars().count();
        let prompt = if full_text { request.inputs.clone() } else { String::new() };
        let sequence = open(serving, request, arrived).await?;
        let done = sequence.collect(details).await?;
        let mut headers = compute_headers(&serving.compute_type, characters);
        headers.extend([compute_time(done.times.total)]);
        headers.extend(done.times.headers(done.input_tokens));
        Ok((headers, generated(serving, prompt, details, &done)))
    })
    .await
}

async fn open(serving: &Serving, request: GenerateRequest, arrived: Instant) -> Result<Sequence, ApiError> {
    let draft = request.parameters.draft(Input::Text(request.inputs), super::random::seed());
    serving.open(draft, TextStyle::Tgi, arrived).await
}

fn generated(serving: &Serving, mut text: String, details: bool, done: &Finished) -> Generated {
    text += &done.answer;
    let details = details.then(|| Details::new(&serving.tokenizer, done));
    Generated { generated_text: text, details }
}
