//! Routes of serving platforms: SageMaker's POST /invocations and Vertex AI's POST /vertex. Each only hands
//! the body to the route that it belongs to.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::extract::{Json, RawJson};
use super::openai::{self, ChatRequest};
use super::state::{App, Serving};
use super::tgi;
use super::tgi::request::GenerateRequest;
use crate::validation::Refusal;

/// POST /invocations: a body with `inputs` is POST /'s, one with `messages` a chat, one with `prompt` a completion.
pub async fn invocations(state: State<App>, body: RawJson) -> Result<Response, ApiError> {
    match body.first_of(&["inputs", "messages", "prompt"]) {
        Some("inputs") => tgi::compat(state, Json(body.parse()?)).await,
        Some("messages") => openai::chat::respond(state, Json(body.parse()?)).await,
        Some(_) => openai::completions::respond(state, Json(body.parse()?)).await,
        // Says which field is missing; an empty body is no JSON at all.
        None => match body.parse::<GenerateRequest>() {
            Err(error @ ApiError::Body(StatusCode::BAD_REQUEST, _)) => Err(error),
            _ => Err(ApiError::Body(
                StatusCode::UNPROCESSABLE_ENTITY,
                "Failed to deserialize the JSON body into the target type: expected `inputs`, `messages` or `prompt`"
                    .into(),
            )),
        },
    }
}

/// Body of /vertex.
#[derive(Debug, Deserialize)]
pub struct VertexRequest {
    instances: Vec<Instance>,
}

/// One thing to answer.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "an object with `inputs` or a chat request")]
enum Instance {
    Generate(GenerateRequest),
    Chat(Box<ChatRequest>),
}

/// Answer of /vertex: a text for each instance.
#[derive(Debug, Serialize)]
struct VertexResponse {
    predictions: Vec<String>,
}

/// POST /vertex: all instances at once; any failure fails all.
pub async fn vertex(
    State(app): State<App>,
    Json(request): Json<VertexRequest>,
) -> Result<Response, ApiError> {
    let serving = app.serving()?;
    if request.instances.is_empty() {
        return Err(Refusal("`instances` cannot be empty".into()).into());
    }
    let predictions = request.instances.into_iter().map(|instance| instance.text(serving.clone()));
    match try_join_all(predictions).await {
        Ok(predictions) => Ok(axum::Json(VertexResponse { predictions }).into_response()),
        Err(_) if serving.compat.hides_vertex_errors() => Err(ApiError::Incomplete),
        Err(error) => Err(error),
    }
}

impl Instance {
    async fn text(self, serving: Arc<Serving>) -> Result<String, ApiError> {
        match self {
            Self::Generate(request) => tgi::text(serving, request).await,
            Self::Chat(request) => openai::text(serving, *request).await,
        }
    }
}
