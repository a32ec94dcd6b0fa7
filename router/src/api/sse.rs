//! Server-sent events: framing `data: {json}\n\n`, a comment after a silence, headers against buffering.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, Style};

/// After so long without an event a stream of this server sends a comment, as TGI's do.
pub const LONGEST_SILENCE: Duration = Duration::from_secs(15);

/// An event as /openapi.json describes it: a stream of these is what a client reads.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "a schema; events are written by axum")]
pub struct ServerSentEvent {
    /// JSON: the route's own event, or an error object; `[DONE]` at the end of OpenAI's streams.
    data: String,
}

/// A 200 that sends each event as it comes, and a comment after each `silence`; `headers` are the route's own.
pub fn response(
    mut headers: HeaderMap,
    silence: Duration,
    style: Style,
    events: impl Stream<Item = Event> + Send + 'static,
) -> Response {
    let events = until_panic(events, move || json(&ApiError::Internal.body(style)));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    let keep_alive = KeepAlive::new().interval(silence);
    let stream = Sse::new(events.map(Ok::<_, Infallible>)).keep_alive(keep_alive);
    (headers, stream).into_response()
}

/// A panic on the way is this stream's last item, and nobody else's concern.
pub fn until_panic<T>(
    items: impl Stream<Item = T> + Send + 'static,
    last: impl Fn() -> T + Send + 'static,
) -> impl Stream<Item = T> + Send + 'static {
    AssertUnwindSafe(items).catch_unwind().map(move |item| item.unwrap_or_else(|_panic| last()))
}

/// An event whose data is one line of JSON.
pub fn json(value: &impl Serialize) -> Event {
    Event::default().json_data(value).unwrap_or_else(|error| {
        tracing::error!("an event cannot be written: {error}");
        let text =
            r#"{"error":"Stream event serialization error","error_type":"stream_serialization_error"}"#;
        Event::default().data(text)
    })
}

/// The end marker of OpenAI's streams.
pub fn done() -> Event {
    Event::default().data("[DONE]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_the_last_event() {
        let events = futures::stream::iter([1, 2, 0, 4]).map(|n| match 4_u32.checked_div(n) {
            Some(n) => Event::default().data(n.to_string()),
            None => panic!("a bug"),
        });
        let response = response(HeaderMap::new(), LONGEST_SILENCE, Style::Tgi, events);
        let body = axum::body::to_bytes(response.into_body(), 9999).await.unwrap();
        let expected =
            "data: 4\n\ndata: 2\n\ndata: {\"error\":\"Internal error\",\"error_type\":\"internal\"}\n\n";
        assert_eq!(String::from_utf8_lossy(&body), expected);
    }
}
