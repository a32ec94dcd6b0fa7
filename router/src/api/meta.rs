//! Routes about the server itself: health, info, models, metrics.

use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use super::error::ApiError;
use super::state::App;

/// The body of /info: TGI 3's fields and those that older clients still read.
#[derive(Debug, Clone, Serialize)]
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
}

impl Info {
    /// `system_fingerprint` of OpenAI's routes.
    pub fn fingerprint(&self) -> String {
        format!("{}-{}", self.version, self.docker_label.unwrap_or("native"))
    }
}

/// GET /info
pub async fn info(State(app): State<App>) -> Result<Response, ApiError> {
    Ok(axum::Json(&app.serving()?.info).into_response())
}

/// GET /, /health, /ping, /readyz: 200 when a generation would be served now.
pub async fn health(State(app): State<App>) -> Result<(), ApiError> {
    let ready = app.serving().is_ok_and(|serving| serving.engine.status().shard_ready);
    if ready { Ok(()) } else { Err(ApiError::Unhealthy) }
}

/// GET /livez: 503 only when a restart would help, so not while the model loads.
pub async fn live(State(app): State<App>) -> Result<(), ApiError> {
    let lost = app.serving().is_ok_and(|serving| !serving.engine.status().shard_ready);
    if lost { Err(ApiError::Unhealthy) } else { Ok(()) }
}

/// GET /metrics
pub async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let text = app.serving()?.metrics.render();
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// The model, as OpenAI's clients list it.
#[derive(Debug, Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
}

impl<'a> Model<'a> {
    fn new(id: &'a str) -> Self {
        Self { id, object: "model", created: 0, owned_by: id }
    }
}

/// GET /v1/models
pub async fn models(State(app): State<App>) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    let model = Model::new(&serving.info.model_id);
    Ok(axum::Json(json!({"object": "list", "data": [model]})).into_response())
}

/// GET /v1/models/{id}: 404 for any other name than the one of /v1/models.
pub async fn model(State(app): State<App>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    match &serving.info.model_id {
        served if *served == id => Ok(axum::Json(Model::new(served)).into_response()),
        served => Err(ApiError::NoModel { asked: id, served: served.clone() }),
    }
}
