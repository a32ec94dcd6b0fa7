//! What every route shares: error bodies, key, limits, health, counting, places, CORS.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use axum::routing::get;
use futures::{StreamExt, stream};
use serde_json::json;
use tower::ServiceExt;

use super::harness::{Reply, Server, post, serve, server, settings};
use crate::api::keys::ApiKeys;
use crate::api::places::Places;
use crate::api::state::App;

/// Status, `error_type`, and text contained in the message, in the style of the path.
pub(super) fn check(reply: &Reply, path: &str, status: u16, kind: &str, text: &str) {
    let body = reply.json();
    assert_eq!(reply.status.as_u16(), status, "{path}: {body}");
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(body["error_type"], kind, "{path}: {body}");
    let message = if path.starts_with("/v1/") { &body["error"]["message"] } else { &body["error"] };
    assert!(message.as_str().unwrap().contains(text), "{path}: {body}");
}

const POSTS: [&str; 6] =
    ["/", "/generate", "/generate_stream", "/tokenize", "/v1/chat/completions", "/v1/completions"];

#[tokio::test]
async fn bodies_that_cannot_be_read() {
    let server = server();
    let deep = "[".repeat(5000);
    for path in POSTS {
        for body in ["", "{", "nonsense", &deep, r#"{"inputs": "a", "messages": [], "prompt": "a"} x"#] {
            check(
                &server.post(path, body).await,
                path,
                400,
                "validation",
                "Failed to parse the request body as JSON: ",
            );
        }
        for body in ["{}", "[]", "3", r#"{"inputs":3,"messages":3,"prompt":{}}"#] {
            let text = "Failed to deserialize the JSON body into the target type: ";
            check(&server.post(path, body).await, path, 422, "validation", text);
        }
        for content_type in [None, Some("text/plain")] {
            let mut request = post(path, "{}");
            request.headers_mut().remove("content-type");
            if let Some(value) = content_type {
                request.headers_mut().insert("content-type", value.parse().unwrap());
            }
            let text = "Expected request with `Content-Type: application/json`";
            check(&server.request(request).await, path, 415, "validation", text);
        }
        let large = format!(r#"{{"inputs":"{}"}}"#, "a".repeat(20_000));
        let text = "Failed to buffer the request body: length limit exceeded";
        check(&server.post(path, &large).await, path, 413, "validation", text);
    }
}

/// A client that sends half a body and no more.
#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let server = server();
    let half = stream::once(async { Ok::<_, Infallible>("{\"inputs\":") }).chain(stream::pending());
    let request = post("/generate", "").map(|_| Body::from_stream(half));
    check(&server.request(request).await, "/generate", 408, "validation", "did not arrive within");
}

#[tokio::test]
async fn wrong_paths_and_methods() {
    let server = server();
    check(&server.get("/nowhere").await, "/nowhere", 404, "not_found", "");
    check(&server.get("/v1/nowhere").await, "/v1/nowhere", 404, "not_found", "");
    for path in &POSTS[1..] {
        let reply = server.get(path).await;
        check(&reply, path, 405, "method_not_allowed", "");
        assert_eq!(reply.header("allow"), "POST");
    }
    for path in ["/health", "/info", "/metrics", "/v1/models"] {
        check(&server.post(path, "{}").await, path, 405, "method_not_allowed", "");
    }
}

fn with_key(key: &str) -> Server {
    let mut settings = settings();
    let keys = [key.to_string(), "second".to_string()];
    settings.api_keys = ApiKeys::new(&keys, None, Instant::now()).unwrap().map(Arc::new);
    serve(settings, |_| {})
}

#[tokio::test]
async fn the_api_key() {
    let server = with_key("secret");
    for path in POSTS {
        for body in ["{}", "{", "{\"inputs\":\"a\"}"] {
            check(&server.post(path, body).await, path, 401, "unauthorized", "API key");
        }
        let mut request = post(path, "{");
        request.headers_mut().insert("authorization", "Bearer secret".parse().unwrap());
        assert_eq!(server.request(request).await.status, StatusCode::BAD_REQUEST, "{path}");
    }
    // The key comes before the method.
    check(&server.get("/generate").await, "/generate", 401, "unauthorized", "");
    let openai = server.post("/v1/completions", "{}").await.json();
    assert_eq!(
        (&openai["error"]["code"], &openai["error"]["type"]),
        (&json!("invalid_api_key"), &json!("authentication_error"))
    );
    for path in ["/", "/health", "/ping", "/livez", "/readyz"] {
        assert_eq!(server.get(path).await.status, StatusCode::OK, "{path}");
    }
    for path in ["/info", "/metrics", "/v1/models", "/nowhere"] {
        check(&server.get(path).await, path, 401, "unauthorized", "");
    }
    let mut request = post("/generate", r#"{"inputs":"2+2="}"#);
    request.headers_mut().insert("authorization", "Bearer second".parse().unwrap());
    assert_eq!(server.request(request).await.status, StatusCode::OK);
}

#[tokio::test]
async fn while_loading() {
    let app = App::loading(settings());
    let loading = Server { router: crate::api::router(app), metrics: server().metrics };
    let body = r#"{"inputs":"a","messages":[],"prompt":"a"}"#;
    for path in POSTS {
        let reply = loading.post(path, body).await;
        check(&reply, path, 503, "unavailable", "The model is still loading");
        assert_eq!(reply.header("retry-after"), "1");
    }
    for path in ["/", "/health", "/ping", "/readyz"] {
        check(&loading.get(path).await, path, 503, "healthcheck", "unhealthy");
    }
    for path in ["/info", "/metrics", "/v1/models"] {
        check(&loading.get(path).await, path, 503, "unavailable", "");
    }
    assert_eq!(loading.get("/livez").await.status, StatusCode::OK);
}

#[tokio::test]
async fn while_stopping() {
    let mut engine = None;
    let server = serve(settings(), |serving| engine = Some(serving.engine.clone()));
    engine.unwrap().drain().await;
    let reply = server.post("/generate", r#"{"inputs":"a"}"#).await;
    check(&reply, "/generate", 503, "unavailable", "The server is shutting down");
    for path in ["/health", "/livez"] {
        check(&server.get(path).await, path, 503, "healthcheck", "unhealthy");
    }
}

#[tokio::test]
async fn about_the_server() {
    let server = server();
    for path in ["/", "/health", "/ping", "/readyz", "/livez"] {
        let reply = server.get(path).await;
        assert_eq!((reply.status, reply.body.as_str()), (StatusCode::OK, ""), "{path}");
    }
    let head = Request::builder().method(Method::HEAD).uri("/health").body(Body::empty()).unwrap();
    assert_eq!(server.request(head).await.status, StatusCode::OK);
    assert_eq!(
        server.get("/v1/models").await.body,
        r#"{"object":"list","data":[{"id":"M","object":"model","created":0,"owned_by":"M","max_model_len":120}]}"#
    );
    assert_eq!(
        server.get("/info").await.body,
        r#"{"model_id":"M","model_sha":null,"model_dtype":"float32","model_device_type":"cpu","model_pipeline_tag":null,"max_concurrent_requests":8,"max_best_of":2,"max_stop_sequences":4,"max_input_tokens":100,"max_input_length":100,"max_total_tokens":120,"waiting_served_ratio":0.3,"max_batch_total_tokens":4096,"max_waiting_tokens":20,"max_batch_size":null,"validation_workers":2,"max_client_batch_size":4,"router":"text-generation-router","version":"1.2.3","sha":null,"docker_label":null,"startup_seconds":{"read":0.5}}"#
    );
    let metrics = server.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4");
    assert!(metrics.body.contains("tgi_request_count 0\n"));
}

#[tokio::test]
async fn tokenize() {
    let server = server();
    let reply =
        server.post("/tokenize", r#"{"inputs":"hello é<|im_end|>","parameters":{"truncate":1}}"#).await;
    let end = super::harness::end();
    assert_eq!(
        reply.body,
        format!(
            r#"[{{"id":259,"text":"hello","start":0,"stop":5}},{{"id":32,"text":" ","start":5,"stop":6}},{{"id":264,"text":"é","start":6,"stop":8}},{{"id":{end},"text":"<|im_end|>","start":8,"stop":18}}]"#
        )
    );
    assert_eq!(server.post("/tokenize", r#"{"inputs":""}"#).await.body, "[]");
    // Long texts take the blocking path.
    let long = format!(r#"{{"inputs":"{}"}}"#, "hello".repeat(1500));
    assert_eq!(server.post("/tokenize", &long).await.json().as_array().unwrap().len(), 1500);
    assert_eq!(server.metric("tgi_request_count"), 0.0);
}

#[tokio::test]
async fn cors() {
    let preflight = |origin: &str| {
        Request::builder()
            .method(Method::OPTIONS)
            .uri("/generate")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            // As the openai package sends in a browser.
            .header("access-control-request-headers", "authorization,x-stainless-os")
            .body(Body::empty())
            .unwrap()
    };
    let reply = with_key("k").request(preflight("http://a")).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("access-control-allow-origin"), "*");
    assert_eq!(reply.header("access-control-allow-methods"), "GET,POST");
    assert_eq!(reply.header("access-control-allow-headers"), "authorization,x-stainless-os");
    assert_eq!(server().get("/info").await.header("access-control-expose-headers"), "*");
    assert_eq!(
        server().get("/info").await.header("vary"),
        "origin, access-control-request-method, access-control-request-headers"
    );
    for (allowed, origin, expected) in [
        (vec!["http://a"], "http://a", "http://a"),
        (vec!["http://a"], "http://b", ""),
        (vec!["http://a", "*"], "http://b", "*"),
        (vec![""], "http://b", "*"),
    ] {
        let mut settings = settings();
        settings.cors_allow_origin = allowed.iter().map(|origin| origin.to_string()).collect();
        let reply = serve(settings, |_| {}).request(preflight(origin)).await;
        assert_eq!(reply.header("access-control-allow-origin"), expected, "{origin} of {allowed:?}");
    }
}

#[tokio::test]
async fn a_panic_answers_500() {
    async fn defect() {
        panic!("a defect");
    }
    let routes = Router::new().route("/v1/defect", get(defect)).route("/defect", get(defect));
    let router = crate::api::layers(routes, App::loading(settings()));
    let server = Server { router, metrics: server().metrics };
    check(&server.get("/defect").await, "/defect", 500, "internal", "Internal error");
    check(&server.get("/v1/defect").await, "/v1/defect", 500, "internal", "Internal error");
}

#[tokio::test]
async fn overload_and_dropped_clients() {
    let server = serve(settings(), |serving| serving.places = Places::new(1));
    let response =
        server.router.clone().oneshot(post("/generate_stream", r#"{"inputs":"x"}"#)).await.unwrap();
    let mut events = response.into_body().into_data_stream();
    assert!(events.next().await.unwrap().unwrap().starts_with(b"data: {\"index\":1,"));
    let reply = server.post("/generate", r#"{"inputs":"2+2="}"#).await;
    assert_eq!(reply.body, r#"{"error":"Model is overloaded","error_type":"overloaded"}"#);
    assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, "1"));
    let reply = server.post("/v1/completions", r#"{"prompt":"a"}"#).await;
    check(&reply, "/v1/completions", 429, "overloaded", "Model is overloaded");
    // The client leaves: its place is free at once.
    drop(events);
    assert_eq!(server.post("/generate", r#"{"inputs":"2+2="}"#).await.status, StatusCode::OK);
    for (series, expected) in [
        ("tgi_request_count", 4.0),
        ("tgi_request_success", 1.0),
        ("tgi_request_failure{err=\"overloaded\"}", 2.0),
        ("tgi_request_failure{err=\"dropped\"}", 1.0),
    ] {
        assert_eq!(server.metric(series), expected, "{series}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_token_frees_its_place() {
    let server = serve(settings(), |serving| serving.places = Places::new(1));
    let waiting = server.router.clone().oneshot(post("/generate", r#"{"inputs":"hang"}"#));
    let mut waiting = Box::pin(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    assert_eq!(server.post("/generate", r#"{"inputs":"x"}"#).await.status, StatusCode::TOO_MANY_REQUESTS);
    drop(waiting);
    // A place is free again: this one gets past the permit, to validation.
    assert_eq!(server.post("/generate", r#"{"inputs":""}"#).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(server.metric("tgi_request_failure{err=\"dropped\"}"), 1.0);
}

#[tokio::test]
async fn requests_are_counted_once() {
    let server = server();
    server.post("/generate", r#"{"inputs":"2+2="}"#).await;
    server.post("/generate_stream", r#"{"inputs":"ab"}"#).await;
    server.post("/v1/completions", r#"{"prompt":["ab","2+2="]}"#).await;
    server.post("/generate", r#"{"inputs":""}"#).await;
    for (series, expected) in [
        ("tgi_request_count", 4.0),
        ("tgi_request_success", 3.0),
        ("tgi_request_failure{err=\"validation\"}", 1.0),
        ("tgi_request_failure{err=\"dropped\"}", 0.0),
        ("tgi_request_finish{reason=\"eos_token\"}", 4.0),
        ("tgi_request_generated_tokens_sum", 10.0),
        ("tgi_generation_tokens", 10.0),
        ("tgi_prompt_tokens", 12.0),
        ("tgi_request_input_length_count", 4.0),
        ("tgi_request_duration_count", 4.0),
        ("tgi_request_mean_time_per_token_duration_count", 4.0),
        ("tgi_request_time_to_first_token_duration_count", 4.0),
        ("tgi_request_inter_token_duration_count", 6.0),
    ] {
        assert_eq!(server.metric(series), expected, "{series}");
    }
}

/// Every field of every route with values of every kind: an answer or a clear refusal, never a defect.
#[tokio::test]
async fn no_value_of_any_field_is_a_defect() {
    let tgi = "best_of temperature repetition_penalty frequency_penalty top_k top_p typical_p do_sample max_new_tokens \
               return_full_text stop truncate watermark details decoder_input_details seed top_n_tokens grammar adapter_id";
    let openai = "model frequency_penalty presence_penalty repetition_penalty logit_bias logprobs top_logprobs max_tokens \
                  max_completion_tokens n stop stream stream_options seed temperature top_p tools tool_choice \
                  response_format best_of echo suffix";
    let values = [
        "null",
        "true",
        "-1",
        "0",
        "1",
        "0.5",
        "1e-50",
        "1e39",
        "4294967296",
        "18446744073709551616",
        "\"x\"",
        "\"\"",
        "[]",
        "[\"\"]",
        "[1]",
        "{}",
        "{\"type\":\"json\",\"value\":{}}",
        "{\"include_usage\":null}",
    ]; // fmt: skip
    let server = server();
    for (path, head, fields, tail) in [
        ("/generate", r#"{"inputs":"2+2=","parameters":{"#, tgi, "}}"),
        ("/generate_stream", r#"{"inputs":"2+2=","parameters":{"#, tgi, "}}"),
        ("/v1/chat/completions", r#"{"messages":[{"role":"user","content":"2+2="}],"#, openai, "}"),
        ("/v1/completions", r#"{"prompt":"2+2=","#, openai, "}"),
    ] {
        for field in fields.split_whitespace() {
            for value in values {
                let body = format!("{head}\"{field}\":{value}{tail}");
                let reply = server.post(path, &body).await;
                let answered = reply.status == StatusCode::OK;
                let refused = reply.status == StatusCode::UNPROCESSABLE_ENTITY
                    && reply.json()["error_type"].is_string();
                assert!(answered || refused, "{path} {body}: {} {}", reply.status, reply.body);
                assert!(value != "null" || answered, "null is the default: {path} {body}: {}", reply.body);
            }
        }
    }
}
