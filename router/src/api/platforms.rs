//! Routes of serving platforms: SageMaker's POST /invocations and Vertex AI's POST /vertex. Each only hands
//! the body to the route that it belongs to.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ApiError;
use super::extract::{Json, RawJson};
use super::openai::{self, ChatRequest, CompletionRequest};
use super::sse::ServerSentEvent;
use super::state::{App, Serving};
use super::tgi;
use super::tgi::request::GenerateRequest;
use crate::validation::Refusal;

/// What /invocations takes: the body of POST / (it has `inputs`), of a chat (`messages`) or of a completion (`prompt`).
#[derive(Debug, ToSchema)]
#[serde(untagged)]
pub enum Invocation {
    Generate(Box<GenerateRequest>),
    Chat(Box<ChatRequest>),
    Completion(Box<CompletionRequest>),
}

impl Invocation {
    fn read(body: &RawJson) -> Result<Self, ApiError> {
        match body.first_of(&["inputs", "messages", "prompt"]) {
            Some("inputs") => Ok(Self::Generate(body.parse()?)),
            Some("messages") => Ok(Self::Chat(body.parse()?)),
            Some(_) => Ok(Self::Completion(body.parse()?)),
            None => match body.parse::<GenerateRequest>() {
                Err(error @ ApiError::Body(StatusCode::BAD_REQUEST, _)) => Err(error),
                _ => Err(ApiError::Body(StatusCode::UNPROCESSABLE_ENTITY, NO_INVOCATION.into())),
            },
        }
    }
}

const NO_INVOCATION: &str =
    "Failed to deserialize the JSON body into the target type: expected `inputs`, `messages` or `prompt`";

/// SageMaker's route: answers as the route that the body belongs to.
#[utoipa::path(post, path = "/invocations", tag = "Platforms", request_body = Invocation,
    responses((status = 200, description = "That route's answer",
        content((Value = "application/json"), (ServerSentEvent = "text/event-stream")))))]
pub async fn invocations(state: State<App>, body: RawJson) -> Result<Response, ApiError> {
    match Invocation::read(&body)? {
        Invocation::Generate(request) => tgi::compat(state, Json(*request)).await,
        Invocation::Chat(request) => openai::chat::respond(state, Json(*request)).await,
        Invocation::Completion(request) => openai::completions::respond(state, Json(*request)).await,
    }
}

/// Body of /vertex.
#[derive(Debug, Deserialize, ToSchema)]
pub struct VertexRequest {
    #[schema(min_items = 1)]
    instances: Vec<Instance>,
}

/// One thing to answer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "an object with `inputs` or a chat request")]
enum Instance {
    Generate(Box<GenerateRequest>),
    Chat(Box<ChatRequest>),
}

/// Answer of /vertex: a text for each instance.
#[derive(Debug, Serialize, ToSchema)]
pub struct VertexResponse {
    predictions: Vec<String>,
}

/// Vertex AI's route: answers all instances at once; any failure fails all.
#[utoipa::path(post, path = "/vertex", tag = "Platforms", request_body = VertexRequest,
    responses((status = 200, description = "A text for each instance", body = VertexResponse)))]
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
            Self::Generate(request) => tgi::text(serving, *request).await,
            Self::Chat(request) => openai::text(serving, *request).await,
        }
    }
}
