//! Request ids and spans: every response carries `x-request-id`, every POST has one span that ends with its
//! last token, whether or not anybody collects spans. Never holds a prompt, an answer or a key. Used by `passage`.

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::response::Response;
use opentelemetry::global;
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::{Status, TraceContextExt};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::random;

/// Name of a request's span; no other span is exported.
pub const REQUEST_SPAN: &str = "request";
const ID: HeaderName = HeaderName::from_static("x-request-id");
/// A client's id longer than this is replaced.
const MAX_ID_BYTES: usize = 128;

/// A request's name and span.
pub struct Trace {
    id: HeaderValue,
    /// None but of a POST.
    span: Span,
}

impl Trace {
    /// Names the request, opens its span under the client's `traceparent`.
    pub fn open(request: &Request) -> Self {
        let id = request_id(request.headers());
        let span = if request.method() == Method::POST { open(request, &id) } else { Span::none() };
        Self { id, span }
    }

    pub fn span(&self) -> &Span {
        &self.span
    }

    /// The span itself ends with the last token: a stream's count holds it (see `record::RequestCount`).
    pub fn close(self, mut response: Response) -> Response {
        let status = response.status();
        self.span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            self.span.set_status(Status::error(status.canonical_reason().unwrap_or_default()));
        }
        response.headers_mut().insert(ID, self.id);
        response
    }
}

/// The client's id if it is printable and short, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let usable = |id: &&HeaderValue| id.to_str().is_ok_and(|id| !id.is_empty() && id.len() <= MAX_ID_BYTES);
    let given = headers.get(ID).filter(usable).cloned();
    given.unwrap_or_else(|| {
        HeaderValue::from_str(&random::hex()).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

fn open(request: &Request, id: &HeaderValue) -> Span {
    // Of the routes, not of what clients ask for: a collector keeps each name.
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let span = tracing::info_span!(
        REQUEST_SPAN,
        otel.name = route.map_or_else(|| "POST".to_owned(), |route| format!("POST {route}")),
        otel.kind = "server",
        request_id = id.to_str().unwrap_or_default()
    );
    let parent =
        global::get_text_map_propagator(|propagator| propagator.extract(&Headers(request.headers())));
    if parent.has_active_span() {
        let _ = span.set_parent(parent); // fails when nobody collects spans
    }
    span.set_attribute("http.request.method", "POST");
    span.set_attribute("url.path", request.uri().path().to_owned());
    if let Some(route) = route {
        span.set_attribute("http.route", route.to_owned());
    }
    span
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let long = "a".repeat(MAX_ID_BYTES + 1);
        for (given, kept) in [("abc-1", true), ("", false), (&long, false), ("a\u{e4}", false)] {
            let value = HeaderValue::from_bytes(given.as_bytes()).unwrap();
            let id = request_id(&HeaderMap::from_iter([(ID, value.clone())]));
            assert_eq!(id == value, kept, "{given}");
            assert!(kept || id.len() == 32, "{id:?}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
