//! The API key. A keyed path answers 401 before its method or body is looked at, as in TGI.
//!
//! The key is compared in constant time and never logged.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::error::ApiError;
use super::state::App;

/// Paths that need the key; `/` only when it is not a GET, which is a health check.
const KEYED: [&str; 5] =
    ["/generate", "/generate_stream", "/v1/completions", "/v1/chat/completions", "/tokenize"];

/// Middleware: lets a request through if its path needs no key or it brings the right one.
pub async fn require_key(State(app): State<App>, request: Request, next: Next) -> Response {
    match app.api_key() {
        Some(key) if is_keyed(request.method(), request.uri().path()) && !has_key(request.headers(), key) => {
            ApiError::Unauthorized.into_response()
        }
        _ => next.run(request).await,
    }
}

fn is_keyed(method: &Method, path: &str) -> bool {
    KEYED.contains(&path) || (path == "/" && method != Method::GET && method != Method::HEAD)
}

/// `Authorization: Bearer <key>`; the scheme's case does not matter (RFC 7235), the key's does.
fn has_key(headers: &HeaderMap, key: &str) -> bool {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return false };
    let value = value.as_bytes();
    let Some((scheme, given)) = value.split_at_checked("Bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(given.ct_eq(key.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for (value, expected) in [
            ("Bearer secret", true),
            ("bearer secret", true),
            ("Bearer SECRET", false),
            ("Bearer secret2", false),
            ("Bearer secre", false),
            ("Bearer ", false),
            ("Bear", false),
            ("secret", false),
            ("Basic secret", false),
        ] {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            assert_eq!(has_key(&headers, "secret"), expected, "{value}");
        }
        assert!(!has_key(&HeaderMap::new(), "secret"));
    }

    #[test]
    fn paths() {
        for (method, path, expected) in [
            (Method::POST, "/", true),
            (Method::GET, "/", false),
            (Method::HEAD, "/", false),
            (Method::GET, "/generate", true),
            (Method::POST, "/v1/chat/completions", true),
            (Method::GET, "/info", false),
            (Method::GET, "/health", false),
            (Method::GET, "/metrics", false),
            (Method::GET, "/v1/models", false),
        ] {
            assert_eq!(is_keyed(&method, path), expected, "{method} {path}");
        }
    }
}
