//! JSON bodies: axum's extraction with every failure as a JSON error. Used by all POST routes.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, JsonRejection};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::time::timeout;

use super::error::ApiError;

/// From a request's head to the end of its body. A client that sends a byte now and then must not hold its
/// connection, and the server's drain, for ever.
const LONGEST_BODY: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 120_000 });

/// A request body of type `T`. 408 too slow, 413 too long, 415 not JSON by its type, 400 no JSON, 422 JSON of another shape.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        RawJson::from_request(request, state).await?.parse().map(Self)
    }
}

/// A request body that is JSON, for routes that take several shapes.
pub struct RawJson(Bytes);

impl<S: Send + Sync> FromRequest<S> for RawJson {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        // Its type is looked at before its length: this is what axum does for typed bodies.
        let mut probe = Request::new(Body::from("0"));
        if let Some(content_type) = request.headers().get(header::CONTENT_TYPE) {
            probe.headers_mut().insert(header::CONTENT_TYPE, content_type.clone());
        }
        require_plain(request.headers())?;
        let axum::Json(IgnoredAny) = axum::Json::from_request(probe, state).await.map_err(refuse)?;
        let bytes =
            timeout(LONGEST_BODY, Bytes::from_request(request, state)).await.map_err(|_| too_slow())?;
        let refuse = |rejection: BytesRejection| ApiError::Body(rejection.status(), rejection.body_text());
        bytes.map(Self).map_err(refuse)
    }
}

/// Refuses a compressed body: its first bytes are no JSON, and the client would be told only that.
fn require_plain(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => Ok(()),
        Some(encoding) => {
            let encoding = String::from_utf8_lossy(encoding);
            let text = format!("Expected a request body without `Content-Encoding`. Given: {encoding}");
            Err(ApiError::Body(StatusCode::UNSUPPORTED_MEDIA_TYPE, text))
        }
    }
}

impl RawJson {
    #[cfg(test)]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    /// Which of `keys` the body has, if it is an object.
    pub fn first_of<'a>(&self, keys: &[&'a str]) -> Option<&'a str> {
        let found = serde_json::from_slice::<Keys>(&self.0).ok()?.0;
        keys.iter().copied().find(|key| found.iter().any(|found| found == key))
    }

    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        match axum::Json::<T>::from_bytes(&self.0) {
            Ok(axum::Json(value)) => Ok(value),
            // serde reports a wrong type before it has seen the syntax error behind it: no JSON at all is a 400.
            Err(rejection @ JsonRejection::JsonDataError(_)) => match self.syntax_error() {
                Some(error) => Err(error),
                None => Err(refuse(rejection)),
            },
            Err(rejection) => Err(refuse(rejection)),
        }
    }

    fn syntax_error(&self) -> Option<ApiError> {
        let error = serde_json::from_slice::<IgnoredAny>(&self.0).err()?;
        let text = format!("Failed to parse the request body as JSON: {error}");
        Some(ApiError::Body(StatusCode::BAD_REQUEST, text))
    }
}

fn too_slow() -> ApiError {
    let text = format!("The request body did not arrive within {} s", LONGEST_BODY.as_secs());
    ApiError::Body(StatusCode::REQUEST_TIMEOUT, text)
}

fn refuse(rejection: JsonRejection) -> ApiError {
    ApiError::Body(rejection.status(), rejection.body_text())
}

/// The keys of an object, its values unread.
struct Keys(Vec<String>);

impl<'de> serde::Deserialize<'de> for Keys {
    fn deserialize<D: serde::Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Keys;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        de.deserialize_map(Visitor)
    }
}
