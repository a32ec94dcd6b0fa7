//! Server-sent events: framing `data: {json}\n\n`, a comment after a silence, headers against buffering.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde::Serialize;
use utoipa::ToSchema;

/// An event as /openapi.json describes it: a stream of these is what a client reads.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "a schema; events are written by axum")]
pub struct ServerSentEvent {
    /// JSON: the route's own event, or an error object; `[DONE]` at the end of OpenAI's streams.
    data: String,
}

/// After so long without an event a stream of this server sends a comment, as TGI's do.
pub const LONGEST_SILENCE: Duration = Duration::from_secs(15);

/// A 200 that sends each event as it comes, and a comment after each `silence`; `headers` are the route's own.
pub fn response(
    mut headers: HeaderMap,
    silence: Duration,
    events: impl Stream<Item = Event> + Send + 'static,
) -> Response {
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    let keep_alive = KeepAlive::new().interval(silence);
    let stream = Sse::new(events.map(Ok::<_, Infallible>)).keep_alive(keep_alive);
    (headers, stream).into_response()
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
