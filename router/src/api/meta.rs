//! Routes about the server itself: health, info, models, metrics.

use std::collections::BTreeMap;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use super::state::App;

/// The body of /info: TGI 3's fields, those that older clients still read, and ours.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Info {
    pub model_id: String,
    pub model_sha: Option<String>,
    pub model_dtype: String,
    pub model_device_type: String,
    pub model_pipeline_tag: Option<String>,
    pub max_concurrent_requests: usize,
    pub max_best_of: usize,
    pub max_stop_sequences: usize,
    pub max_input_tokens: u32,
    pub max_input_length: u32,
    pub max_total_tokens: u32,
    pub waiting_served_ratio: f32,
    pub max_batch_total_tokens: u64,
    pub max_waiting_tokens: usize,
    pub max_batch_size: Option<u32>,
    pub validation_workers: usize,
    pub max_client_batch_size: usize,
    pub router: &'static str,
    pub version: &'static str,
    pub sha: Option<&'static str>,
    pub docker_label: Option<&'static str>,
    /// Where the start spent its time, in seconds: the shard's phases, and `ready` since the router started.
    pub startup_seconds: BTreeMap<String, f64>,
}

impl Info {
    /// `system_fingerprint` of OpenAI's routes.
    pub fn fingerprint(&self) -> String {
        format!("{}-{}", self.version, self.docker_label.unwrap_or("native"))
    }
}

/// What this server serves, and its limits.
#[utoipa::path(get, path = "/info", tag = "Server",
    responses((status = 200, description = "Model and limits", body = Info)))]
pub async fn info(State(app): State<App>) -> Result<Response, ApiError> {
    Ok(axum::Json(&app.serving()?.info).into_response())
}

/// Whether a generation would be served now. The same at /, /ping and /readyz.
#[utoipa::path(get, path = "/health", tag = "Server",
    responses((status = 200, description = "Yes")))]
pub async fn health(State(app): State<App>) -> Result<(), ApiError> {
    let healthy = app.serving().is_ok_and(|serving| serving.engine.status().healthy);
    if healthy && !app.admission().is_closed() { Ok(()) } else { Err(ApiError::Unhealthy) }
}

/// The same as /health.
#[utoipa::path(get, path = "/", tag = "Server", responses((status = 200, description = "Yes")))]
pub async fn root(state: State<App>) -> Result<(), ApiError> {
    health(state).await
}

/// Whether the process is of use: 503 only when a restart would help, so not while the model loads or a
/// shard is replaced.
#[utoipa::path(get, path = "/livez", tag = "Server",
    responses((status = 200, description = "Yes")))]
pub async fn live(State(app): State<App>) -> Result<(), ApiError> {
    let stopped = app.serving().is_ok_and(|serving| serving.engine.status().stopped);
    if stopped { Err(ApiError::Unhealthy) } else { Ok(()) }
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "Server",
    responses((status = 200, description = "All series", body = String, content_type = "text/plain")))]
pub async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let text = app.serving()?.metrics.render();
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// The model, as OpenAI's clients list it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
    /// vLLM's: the most tokens of prompt and answer.
    max_model_len: u32,
}

/// All models: one.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList<'a> {
    object: &'static str,
    data: [Model<'a>; 1],
}

impl<'a> Model<'a> {
    fn new(info: &'a Info) -> Self {
        let id = &info.model_id;
        Self { id, object: "model", created: 0, owned_by: id, max_model_len: info.max_total_tokens }
    }
}

/// The models that can be asked: one.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI",
    responses((status = 200, description = "The list", body = ModelList)))]
pub async fn models(State(app): State<App>) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    let data = [Model::new(&serving.info)];
    Ok(axum::Json(ModelList { object: "list", data }).into_response())
}

/// One model: 404 for any other name than the one of /v1/models.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "OpenAI", params(("id" = String, Path, description = "Its name")),
    responses((status = 200, description = "The model", body = Model)))]
pub async fn model(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    // A path that is no UTF-8 names nothing.
    let Path(id) = id.map_err(|_| ApiError::NotFound)?;
    match &serving.info.model_id {
        served if *served == id => Ok(axum::Json(Model::new(&serving.info)).into_response()),
        served => Err(ApiError::NoModel { asked: id, served: served.clone() }),
    }
}
