//! JSON bodies: axum's extraction with every failure as a JSON error. Used by all POST routes.

use axum::body::{Body, Bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::error::ApiError;

/// A request body of type `T`. 413 too long, 415 not JSON by its type, 400 no JSON, 422 JSON of another shape.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let limited = Request::from_parts(parts.clone(), body);
        let bytes = Bytes::from_request(limited, state)
            .await
            .map_err(|rejection| ApiError::Body(rejection.status(), rejection.body_text()))?;
        let request = Request::from_parts(parts, Body::from(bytes.clone()));
        match axum::Json::<T>::from_request(request, state).await {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(refuse(rejection, &bytes)),
        }
    }
}

/// serde reports a wrong type before it has seen the syntax error behind it: no JSON at all is a 400.
fn refuse(rejection: JsonRejection, bytes: &[u8]) -> ApiError {
    if let JsonRejection::JsonDataError(_) = rejection
        && let Err(error) = serde_json::from_slice::<IgnoredAny>(bytes)
    {
        let text = format!("Failed to parse the request body as JSON: {error}");
        return ApiError::Body(StatusCode::BAD_REQUEST, text);
    }
    ApiError::Body(rejection.status(), rejection.body_text())
}
