//! The API key: who may ask, and for what. A keyed path answers 401 before its method or body is looked
//! at, as in TGI. The key is never logged.

use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderMap, Method, header};

use super::compat::Compat;
use super::error::ApiError;
use super::state::EdgeSettings;

/// Paths that an orchestrator asks; `/` is one of them for a GET.
const HEALTH: [&str; 4] = ["/health", "/ping", "/livez", "/readyz"];
/// The only paths that TGI guards, besides `/` when it is not a GET.
const TGI_KEYED: [&str; 7] = [
    "/generate",
    "/generate_stream",
    "/v1/completions",
    "/v1/chat/completions",
    "/invocations",
    "/vertex",
    "/tokenize",
];

/// Lets a request through if its path needs no key or it brings a good one.
pub fn require_key(settings: &EdgeSettings, request: &Request) -> Result<(), ApiError> {
    match &settings.api_keys {
        Some(keys) if is_keyed(request.method(), request.uri().path(), settings.compat) => {
            let good = bearer(request.headers()).is_some_and(|key| keys.allow(key, Instant::now()));
            if good { Ok(()) } else { Err(ApiError::Unauthorized) }
        }
        _ => Ok(()),
    }
}

fn is_keyed(method: &Method, path: &str, compat: Compat) -> bool {
    if path == "/" {
        return method != Method::GET && method != Method::HEAD;
    }
    if compat.leaves_information_open() { TGI_KEYED.contains(&path) } else { !HEALTH.contains(&path) }
}

/// The key of `Authorization: Bearer <key>`; the scheme's case does not matter (RFC 7235), the key's does.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        for (value, expected) in [
            ("Bearer secret", Some("secret")),
            ("bearer SECRET", Some("SECRET")),
            ("Bearer ", Some("")),
            ("Bear", None),
            ("secret", None),
            ("Basic secret", None),
        ] {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            assert_eq!(bearer(&headers), expected.map(str::as_bytes), "{value}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn paths() {
        for (method, path, fixed, strict) in [
            (Method::POST, "/", true, true),
            (Method::GET, "/", false, false),
            (Method::HEAD, "/", false, false),
            (Method::GET, "/generate", true, true),
            (Method::POST, "/v1/chat/completions", true, true),
            (Method::POST, "/chat_tokenize", true, false),
            (Method::GET, "/info", true, false),
            (Method::GET, "/metrics", true, false),
            (Method::GET, "/v1/models", true, false),
            (Method::GET, "/nowhere", true, false),
            (Method::GET, "/health", false, false),
            (Method::GET, "/livez", false, false),
        ] {
            assert_eq!(is_keyed(&method, path, Compat::Fixed), fixed, "{method} {path}");
            assert_eq!(is_keyed(&method, path, Compat::Strict), strict, "{method} {path}");
        }
    }
}
