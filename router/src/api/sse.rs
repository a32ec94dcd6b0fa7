//! Server-sent events: framing `data: {json}\n\n`, a comment after 15 s of silence, headers against buffering.

use std::convert::Infallible;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde::Serialize;

/// A 200 that sends each event as it comes; `headers` are the route's own.
pub fn response(mut headers: HeaderMap, events: impl Stream<Item = Event> + Send + 'static) -> Response {
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    let stream = Sse::new(events.map(Ok::<_, Infallible>)).keep_alive(KeepAlive::default());
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
