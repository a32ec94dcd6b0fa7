//! Request ids, and the span of a request: its parent, its length, what it says.

use std::collections::HashMap;

use axum::http::StatusCode;
use opentelemetry::trace::{SpanKind, TracerProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use tower::ServiceExt;
use tracing_subscriber::layer::SubscriberExt;

use super::harness::{post, server};

#[tokio::test]
async fn request_ids_are_echoed_or_made() {
    let server = server();
    for path in ["/generate", "/nowhere", "/health", "/v1/completions"] {
        let mut request = post(path, "{}");
        request.headers_mut().insert("x-request-id", "abc-1".parse().unwrap());
        assert_eq!(server.request(request).await.header("x-request-id"), "abc-1", "{path}");
        assert_eq!(server.post(path, "{}").await.header("x-request-id").len(), 32, "{path}");
    }
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn one_span_a_request_to_its_last_token() {
    // Tests beside this one have no subscriber, and who asks first decides whether a span is ever made: a global one
    // that takes everything keeps the answer open.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let only_requests =
        tracing_subscriber::filter::filter_fn(|metadata| metadata.name() == crate::api::trace::REQUEST_SPAN);
    let layer = tracing_subscriber::Layer::with_filter(layer, only_requests);
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));

    let server = server();
    let mut request = post("/generate_stream", r#"{"inputs":"2+2="}"#);
    request.headers_mut().insert("traceparent", PARENT.parse().unwrap());
    request.headers_mut().insert("x-request-id", "abc-1".parse().unwrap());
    let response = server.router.clone().oneshot(request).await.unwrap();
    assert!(exporter.get_finished_spans().unwrap().is_empty(), "the stream is not read yet");
    axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    assert_eq!(server.get("/health").await.status, StatusCode::OK);
    assert_eq!(server.post("/generate", r#"{"inputs":""}"#).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(server.post("/of/the/client", "{}").await.status, StatusCode::NOT_FOUND);

    let spans = exporter.get_finished_spans().unwrap();
    let [streamed, refused, unknown] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((streamed.name.as_ref(), &streamed.span_kind), ("POST /generate_stream", &SpanKind::Server));
    assert_eq!(streamed.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(streamed.parent_span_id.to_string(), "b7ad6b7169203331");
    let attributes: HashMap<_, _> =
        streamed.attributes.iter().map(|one| (one.key.as_str(), one.value.to_string())).collect();
    for (name, value) in [
        ("request_id", "abc-1"),
        ("http.route", "/generate_stream"),
        ("http.response.status_code", "200"),
        ("gen_ai.usage.input_tokens", "4"),
        ("gen_ai.usage.output_tokens", "2"),
        ("gen_ai.response.finish_reasons", "eos_token"),
    ] {
        assert_eq!(attributes.get(name).map(String::as_str), Some(value), "{attributes:?}");
    }
    assert!(attributes["gen_ai.latency.time_to_first_token"].parse::<f64>().unwrap() > 0.0);
    assert!(!format!("{spans:?}").contains("2+2="), "prompts are not traced");
    let error = refused.attributes.iter().find(|one| one.key.as_str() == "error.type");
    assert_eq!(error.map(|one| one.value.to_string()), Some("validation".into()));
    assert!(!refused.parent_span_is_remote);
    assert_eq!(unknown.name, "POST", "names are not the client's");
}
