//! Requests that wait: silent streams, floods of one tenant, deadlines.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures::StreamExt;
use tower::ServiceExt;

use super::edge::check;
use super::harness::{Server, post, serve, server, settings};
use crate::api::places::Places;

/// A stream whose first token takes long opens without it, and says by comments that it lives.
#[tokio::test]
async fn silence_before_the_first_token() {
    let server = serve(settings(), |serving| serving.longest_silence = Duration::from_millis(20));
    for (path, body) in [
        ("/generate_stream", r#"{"inputs":"hang"}"#),
        ("/v1/chat/completions", r#"{"messages":[{"role":"user","content":"hang"}],"stream":true,"n":2}"#),
        ("/v1/completions", r#"{"prompt":["ab","hang"],"stream":true}"#),
    ] {
        let response = server.router.clone().oneshot(post(path, body)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let mut events = response.into_body().into_data_stream();
        while events.next().await.unwrap().unwrap() != b":\n\n"[..] {}
    }
}

fn from(tenant: &str, mut request: Request<Body>) -> Request<Body> {
    request.headers_mut().insert("x-tenant", tenant.parse().unwrap());
    request
}

#[tokio::test]
async fn a_flood_of_one_tenant_keeps_no_other_out() {
    let server = serve(settings(), |serving| serving.places = Places::new(2));
    let hang =
        |tenant| server.router.clone().oneshot(from(tenant, post("/generate", r#"{"inputs":"hang"}"#)));
    let mut flood = [hang("a"), hang("a")].map(Box::pin);
    for request in &mut flood {
        assert!(futures::poll!(request).is_pending());
    }
    let status = async |tenant| {
        // Past the places, to validation.
        let request = from(tenant, post("/generate", r#"{"inputs":""}"#));
        server.request(request).await.status
    };
    assert_eq!(status("a").await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(status("b").await, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_deadline_ends_a_request_with_an_error() {
    let (hanging, server) = (server(), server());
    let send = async |server: &Server, path: &str, body: &str, timeout: &str| {
        let mut request = post(path, body);
        request.headers_mut().insert("x-request-timeout-ms", timeout.parse().unwrap());
        server.request(request).await
    };
    let text = "Request failed during generation: the time given by x-request-timeout-ms has passed";
    for (path, body) in [
        ("/generate", r#"{"inputs":"hang"}"#),
        ("/generate_stream", r#"{"inputs":"hang"}"#),
        ("/v1/completions", r#"{"prompt":"hang"}"#),
    ] {
        check(&send(&hanging, path, body, "20").await, path, 504, "timeout", text);
    }
    assert_eq!(hanging.metric("tgi_request_failure{err=\"timeout\"}"), 3.0);
    let reply = send(&server, "/generate", r#"{"inputs":"2+2="}"#, "soon").await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(send(&server, "/generate", r#"{"inputs":"2+2="}"#, "60000").await.status, StatusCode::OK);
}

#[test]
fn a_deadline_also_ends_the_wait_for_validation() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    runtime.spawn_blocking(move || held.recv()); // the one thread that could tokenize
    runtime.block_on(async {
        let server = server();
        let mut request = post("/generate", &format!(r#"{{"inputs":"{}"}}"#, "x".repeat(5000)));
        request.headers_mut().insert("x-request-timeout-ms", "20".parse().unwrap());
        let text = "Request failed during generation: the time given by x-request-timeout-ms has passed";
        let reply = tokio::time::timeout(Duration::from_secs(300), server.request(request)).await.unwrap();
        check(&reply, "/generate", 504, "timeout", text);
    });
    drop(release);
}
