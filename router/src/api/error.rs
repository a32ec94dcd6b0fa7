//! Every failure a client can see: status, `error_type`, text, and the two JSON bodies they come in.
//!
//! Handlers return `ApiError`; `render` writes the body once for the whole router, TGI's object on TGI's
//! routes and OpenAI's on `/v1/*`. Texts and types are TGI's where TGI has them: clients match on them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::places::Full;
use crate::request::GenerationError;
use crate::validation::Refusal;

/// A failed request; `Display` is the text that the client reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    #[error("Input validation error: {0}")]
    Validation(#[from] Refusal),
    #[error("Model is overloaded")]
    Overloaded(Full),
    /// The shard failed the request; the text is complete.
    #[error("{0}")]
    Generation(String),
    /// The request killed the shard repeatedly; the text is complete.
    #[error("Request failed during generation: Server error: {0}")]
    Quarantined(String),
    #[error("Request failed during generation: {0}")]
    DeadlinePassed(String),
    #[error("Incomplete generation")]
    Incomplete,
    #[error("Incomplete generation stream")]
    IncompleteStream,
    #[error("Template error: {0}")]
    Template(String),
    #[error("Tool error: {0}")]
    Tool(String),
    #[error("Suffix is not supported and can be achieved by preprocessing the prompt.")]
    Suffix,
    #[error("Number of prompts exceeds the maximum allowed batch size of {0}")]
    BatchSize(usize),
    #[error("unhealthy")]
    Unhealthy,
    /// Not serving yet, or no longer.
    #[error("{0}")]
    Unavailable(&'static str),
    #[error("Missing or wrong API key: send `Authorization: Bearer <key>`")]
    Unauthorized,
    /// A body that could not be read as the route's JSON.
    #[error("{1}")]
    Body(StatusCode, String),
    #[error("No such route")]
    NotFound,
    #[error("The model `{asked}` does not exist: this server has `{served}`")]
    NoModel { asked: String, served: String },
    #[error("Method not allowed on this route")]
    MethodNotAllowed,
    /// A defect of this server: the handler panicked.
    #[error("Internal error")]
    Internal,
}

impl From<GenerationError> for ApiError {
    fn from(error: GenerationError) -> Self {
        match error {
            GenerationError::Shard(_) | GenerationError::Constraint(_) => Self::Generation(error.to_string()),
            GenerationError::Quarantined => Self::Quarantined(error.to_string()),
            GenerationError::DeadlinePassed => Self::DeadlinePassed(error.to_string()),
            GenerationError::ShuttingDown => Self::STOPPING,
        }
    }
}

/// Which of the two error objects a route answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Tgi,
    OpenAi,
}

impl Style {
    pub fn of(path: &str) -> Self {
        if path.starts_with("/v1/") { Self::OpenAi } else { Self::Tgi }
    }
}

impl ApiError {
    /// No longer serving.
    pub const STOPPING: Self = Self::Unavailable("The server is shutting down");

    pub fn status(&self) -> StatusCode {
        match self {
            Self::Overloaded(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Generation(_) => StatusCode::FAILED_DEPENDENCY,
            Self::Incomplete | Self::IncompleteStream | Self::Internal | Self::Quarantined(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::DeadlinePassed(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Unhealthy | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Body(status, _) => *status,
            Self::NotFound | Self::NoModel { .. } => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Validation(_) | Self::Template(_) | Self::Tool(_) | Self::Suffix | Self::BatchSize(_) => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
        }
    }

    /// `error_type`; Python clients map generation, incomplete_generation, overloaded and validation.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Validation(_) | Self::Body(..) => "validation",
            Self::Overloaded(_) => "overloaded",
            Self::Generation(_) | Self::Quarantined(_) => "generation",
            Self::DeadlinePassed(_) => "timeout",
            Self::Incomplete => "incomplete_generation",
            Self::IncompleteStream => "incomplete_generation_stream",
            Self::Template(_) => "template_error",
            Self::Tool(_) => "tool_error",
            Self::Suffix => "suffix not supported",
            Self::BatchSize(_) => "batch size exceeded",
            Self::Unhealthy => "healthcheck",
            Self::Unavailable(_) => "unavailable",
            Self::Unauthorized => "unauthorized",
            Self::NotFound | Self::NoModel { .. } => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Internal => "internal",
        }
    }

    /// Label `err` of tgi_request_failure.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Overloaded(_) => "overloaded",
            Self::Generation(_) | Self::Quarantined(_) => "generation",
            Self::DeadlinePassed(_) => "timeout",
            Self::Incomplete | Self::IncompleteStream | Self::Internal => "incomplete",
            Self::Template(_) => "template",
            Self::Unhealthy | Self::Unavailable(_) => "unavailable",
            _ => "validation",
        }
    }

    /// The JSON body, also the `data:` of an error inside a stream.
    pub fn body(&self, style: Style) -> Value {
        match style {
            Style::Tgi => json!({"error": self.to_string(), "error_type": self.kind()}),
            Style::OpenAi => json!({
                "error": {
                    "message": self.to_string(),
                    "type": self.openai_type(),
                    "param": null,
                    "code": self.openai_code(),
                    "http_status_code": self.status().as_u16(),
                },
                "error_type": self.kind(),
            }),
        }
    }

    fn openai_type(&self) -> &'static str {
        match self.status() {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() || status == StatusCode::FAILED_DEPENDENCY => "server_error",
            _ => "invalid_request_error",
        }
    }

    fn openai_code(&self) -> Option<&'static str> {
        match self {
            Self::Unauthorized => Some("invalid_api_key"),
            Self::NoModel { .. } => Some("model_not_found"),
            Self::Validation(refusal) if refusal.is_about_length() => Some("context_length_exceeded"),
            _ => None,
        }
    }

    /// Seconds after which asking again makes sense.
    fn retry_after(&self) -> Option<HeaderValue> {
        match self {
            Self::Overloaded(full) => Some(full.retry_after.into()),
            Self::Unavailable(_) | Self::Unhealthy => Some(HeaderValue::from_static("1")),
            _ => None,
        }
    }
}

impl IntoResponse for ApiError {
    /// Status and the error itself; `render` adds the body once the route's style is known.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives an error response its JSON body, axum's own 405 included.
pub fn render(style: Style, mut response: Response) -> Response {
    let error = match response.extensions_mut().remove::<ApiError>() {
        Some(error) => error,
        None if response.status() == StatusCode::METHOD_NOT_ALLOWED => ApiError::MethodNotAllowed,
        None => return response,
    };
    let mut headers = std::mem::take(response.headers_mut());
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::CONTENT_TYPE);
    let mut rendered = (error.status(), Json(error.body(style))).into_response();
    rendered.headers_mut().extend(headers);
    rendered
}
