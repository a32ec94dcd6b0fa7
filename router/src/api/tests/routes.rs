//! /tokenize in vLLM's shape, /chat_tokenize, /detokenize, /invocations, /vertex, /v1/models/{id}, and vLLM's
//! /generate.

use std::sync::Arc;
use std::time::Instant;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::harness::{Server, end, serve, server, settings};
use crate::api::aip::AipRoutes;
use crate::api::compat::Compat;
use crate::api::keys::ApiKeys;
use crate::api::state::EdgeSettings;

async fn ok(server: &Server, path: &str, body: Value) -> Value {
    let reply = server.post(path, &body.to_string()).await;
    assert_eq!(reply.status, StatusCode::OK, "{path} {body}: {}", reply.body);
    reply.json()
}

/// The status and the message.
async fn refused(server: &Server, path: &str, body: Value) -> (u16, String) {
    let reply = server.post(path, &body.to_string()).await;
    let error = &reply.json()["error"];
    let message = error.as_str().or(error["message"].as_str()).unwrap_or_default().to_string();
    (reply.status.as_u16(), message)
}

const CHATML: &str = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n";

/// Vertex AI's names, one of them another route's, are /vertex and /health in all that they do.
#[tokio::test]
async fn aip_routes() {
    let aip_routes = AipRoutes { predict: Some("/generate".into()), health: Some("/v1/ok".into()) };
    let keys = ApiKeys::new(&["k".into()], None, Instant::now()).unwrap().map(Arc::new);
    let server = serve(EdgeSettings { aip_routes: aip_routes.clone(), ..settings() }, |_| {});
    let body = r#"{"instances":[{"inputs":"2+2="}]}"#;
    assert_eq!(server.post("/generate", body).await.json()["predictions"][0], "4");
    assert_eq!(server.post("/vertex", body).await.json()["predictions"][0], "4");
    assert_eq!(server.get("/v1/ok").await.status, StatusCode::OK);
    assert_eq!(server.get("/info").await.status, StatusCode::OK);
    assert_eq!(server.get("/generate").await.status, StatusCode::METHOD_NOT_ALLOWED);
    let keyed = serve(EdgeSettings { aip_routes, api_keys: keys, ..settings() }, |_| {});
    assert_eq!(keyed.get("/v1/ok").await.status, StatusCode::OK);
    assert_eq!(keyed.post("/generate", body).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn tokens_of_chats_and_in_vllms_shape() {
    let server = server();
    let messages = json!([{"role": "user", "content": "hello"}]);
    let chat = ok(&server, "/chat_tokenize", json!({"messages": messages})).await;
    assert_eq!(chat["templated_text"], CHATML);
    let tokens = chat["tokenize_response"].as_array().unwrap();
    for token in tokens {
        let [start, stop] = ["start", "stop"].map(|key| token[key].as_u64().unwrap() as usize);
        assert_eq!(token["text"], CHATML[start..stop], "{token}");
    }
    assert_eq!(tokens.iter().map(|t| t["text"].as_str().unwrap()).collect::<String>(), CHATML);
    assert_eq!((&tokens[0]["start"], &tokens[0]["stop"]), (&json!(0), &json!(12)));
    assert_eq!(server.metric("tgi_request_count"), 1.0);

    let ids: Vec<&Value> = tokens.iter().map(|token| &token["id"]).collect();
    let vllm = ok(&server, "/tokenize", json!({"model": "M", "messages": messages})).await;
    assert_eq!(vllm, json!({"count": ids.len(), "max_model_len": 120, "tokens": ids, "token_strs": null}));
    let text = ok(&server, "/tokenize", json!({"prompt": "hello<|im_end|>"})).await;
    assert_eq!(text["tokens"], json!([259, end()]));
    let back = ok(&server, "/detokenize", json!({"model": "M", "tokens": text["tokens"]})).await;
    assert_eq!(back, json!({"prompt": "hello<|im_end|>"}));
    let (status, message) = refused(&server, "/detokenize", json!({"tokens": [9999]})).await;
    assert_eq!((status, message.contains("Given: 9999")), (422, true), "{message}");
    let (status, message) = refused(&server, "/chat_tokenize", json!({"messages": [{"role": "user"}]})).await;
    assert_eq!((status, message.contains("`messages[0]`")), (422, true), "{message}");
}

#[tokio::test]
async fn one_model_by_name() {
    let server = serve(settings(), |serving| serving.info.model_id = "owner/name".into());
    let expected = json!({"id": "owner/name", "object": "model", "created": 0, "owned_by": "owner/name", "max_model_len": 120});
    assert_eq!(server.get("/v1/models/owner/name").await.json(), expected);
    let reply = server.get("/v1/models/%ff").await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error_type"]), (404, &json!("not_found")));
    let reply = server.get("/v1/models/other").await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn sagemaker() {
    let server = server();
    for (body, expected) in [
        (json!({"inputs": "2+2="}), json!([{"generated_text": "2+2=4"}])),
        (
            json!({"inputs": "2+2=", "messages": 3, "parameters": {"return_full_text": false}}),
            json!([{"generated_text": "4"}]),
        ),
    ] {
        assert_eq!(ok(&server, "/invocations", body).await, expected);
    }
    let chat = json!({"messages": [{"role": "user", "content": "2+2="}]});
    assert_eq!(ok(&server, "/invocations", chat).await["choices"][0]["message"]["content"], "4");
    let completion = ok(&server, "/invocations", json!({"prompt": "2+2="})).await;
    assert_eq!(completion["choices"][0]["text"], "4");
    let stream = server.post("/invocations", r#"{"inputs":"2+2=","stream":true}"#).await;
    assert!(stream.body.starts_with("data: {\"index\":1,"), "{}", stream.body);
    for body in [json!({}), json!([]), json!({"input": "x"})] {
        let (status, message) = refused(&server, "/invocations", body).await;
        assert_eq!((status, message.contains("expected `inputs`, `messages` or `prompt`")), (422, true));
    }
    let reply = server.post("/invocations", "").await;
    assert_eq!((reply.status.as_u16(), reply.json()["error_type"].clone()), (400, json!("validation")));
}

#[tokio::test]
async fn vertex() {
    let server = server();
    let instances = json!([
        {"inputs": "2+2="},
        {"inputs": "x", "parameters": {"max_new_tokens": 2, "return_full_text": true}},
        {"messages": [{"role": "user", "content": "ab"}], "max_tokens": 1},
    ]);
    let answer = ok(&server, "/vertex", json!({"instances": instances})).await;
    assert_eq!(answer, json!({"predictions": ["4", "xhellohello", "a"]}));
    let empty = refused(&server, "/vertex", json!({"instances": []})).await;
    assert_eq!(empty, (422, "Input validation error: `instances` cannot be empty".into()));
    let (status, message) = refused(&server, "/vertex", json!({"instances": [{"input": "x"}]})).await;
    assert_eq!(
        (status, message.contains("an object with `inputs` or a chat request")),
        (422, true),
        "{message}"
    );
    let bad = json!({"instances": [{"inputs": "x"}, {"inputs": ""}]});
    let expected = (422, "Input validation error: `inputs` cannot be empty".to_string());
    assert_eq!(refused(&server, "/vertex", bad.clone()).await, expected);
    let strict = serve(EdgeSettings { compat: Compat::Strict, ..settings() }, |_| {});
    assert_eq!(refused(&strict, "/vertex", bad).await, (500, "Incomplete generation".into()));
}

#[tokio::test]
async fn vllms_generate() {
    let server = server();
    for (body, expected) in [
        (json!({"prompt": "2+2=", "max_tokens": 10}), json!(["2+2=4"])),
        (
            json!({"prompt": "2+2=", "n": 2, "temperature": 0.8, "top_p": 0.95, "top_k": -1}),
            json!(["2+2=4", "2+2=4"]),
        ),
        (json!({"prompt": "x", "stop": "ohe"}), json!(["xhell"])),
        // vLLM's default length.
        (json!({"prompt": "x"}), json!([format!("x{}", "hello".repeat(16))])),
        (
            json!({"prompt": "ab", "max_tokens": 2, "temperature": 0, "min_p": 0.0, "best_of": 1}),
            json!(["abab"]),
        ),
    ] {
        assert_eq!(ok(&server, "/generate", body).await, json!({"text": expected}));
    }
    let reply = server.post("/generate", r#"{"prompt":"2+2=","stream":true}"#).await;
    assert_eq!(reply.body, "{\"text\":[\"2+2=4\"]}\n{\"text\":[\"2+2=4\"]}\n");
    assert_eq!(reply.header("content-type"), "application/x-ndjson");
    let reply = server.post("/generate", r#"{"prompt":"fail later","stream":true}"#).await;
    assert!(reply.body.ends_with("\"error_type\":\"generation\"}\n"), "{}", reply.body);
    for (field, value) in [
        ("use_beam_search", json!(true)),
        ("min_p", json!(0.1)),
        ("allowed_token_ids", json!([1])),
        ("best_of", json!(3)),
    ] {
        let (status, message) = refused(&server, "/generate", json!({"prompt": "x", field: value})).await;
        assert_eq!(
            (status, message.contains(&format!("`{field}` is not supported"))),
            (422, true),
            "{message}"
        );
    }
    for (body, text) in [
        (json!({"prompt": "x", "n": 5}), "`n` must be > 0 and <= 4. Given: 5"),
        (json!({"prompt": "x", "temperature": -1}), "`temperature` must be strictly positive"),
        (json!({"prompt": ""}), "`inputs` cannot be empty"),
        (
            json!({"prompt": "x", "guided_decoding": {"choice": []}}),
            "grammar is not valid: a choice has 1 to 10000 texts. Given: 0",
        ),
    ] {
        let expected = (422, format!("Input validation error: {text}"));
        assert_eq!(refused(&server, "/generate", body).await, expected);
    }
    let long = json!({"prompt": "2+2=", "ignore_eos": true, "max_tokens": 3});
    assert_eq!(
        refused(&server, "/generate", long).await.0,
        424,
        "the script has nothing after its end token"
    );
}

/// OpenAI's routes as TGI has them.
#[tokio::test]
async fn strict_openai() {
    let server = serve(EdgeSettings { compat: Compat::Strict, ..settings() }, |_| {});
    let chat = |fields: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "x"}]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    for (path, body) in [
        ("/v1/chat/completions", chat(json!({"stop": ["lo"]}))),
        ("/v1/completions", json!({"prompt": "x", "stop": ["lo"]})),
    ] {
        let reply = ok(&server, path, body.clone()).await;
        let choice = &reply["choices"][0];
        let text = choice["text"].as_str().or(choice["message"]["content"].as_str());
        assert_eq!(
            (text, &choice["finish_reason"], &reply["id"]),
            (Some("hello"), &json!("stop_sequence"), &json!(""))
        );
        let mut streamed = body;
        streamed["stream"] = json!(true);
        let events = server.post(path, &streamed.to_string()).await.events();
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "stop_sequence");
        // A failure of a stream is an event.
        streamed["temperature"] = json!(-1);
        let reply = server.post(path, &streamed.to_string()).await;
        assert_eq!((reply.status, reply.events().len()), (StatusCode::OK, 1), "{}", reply.body);
        assert!(reply.body.ends_with("\n\ndata: [DONE]\n\n"));
        assert_eq!(reply.events()[0]["error"]["http_status_code"], 422);
    }
    // But not one of the template.
    let reply = server.post("/v1/chat/completions", r#"{"messages":[{"role":"user"}],"stream":true}"#).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
}

/// The document names only routes that exist, refers only to schemas that it has, and says how each can fail.
#[tokio::test]
async fn openapi() {
    let server = server();
    let document = server.get("/openapi.json").await.json();
    assert_eq!(document, server.get("/api-doc/openapi.json").await.json());
    let text = document.to_string();
    for part in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = &part[..part.find('"').unwrap()];
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 16, "{:?}", paths.keys());
    for (path, methods) in paths {
        let wrong_method = if methods.get("get").is_some() { "DELETE" } else { "GET" };
        let request = axum::http::Request::builder().method(wrong_method).uri(path.replace("{id}", "M"));
        let reply = server.request(request.body(axum::body::Body::empty()).unwrap()).await;
        let is_root = path == "/";
        assert!(reply.status == StatusCode::METHOD_NOT_ALLOWED || is_root, "{path}: {}", reply.status);
        for (method, operation) in methods.as_object().unwrap() {
            let statuses = operation["responses"].as_object().unwrap();
            for status in ["200", "500", "503"] {
                assert!(statuses.contains_key(status), "{method} {path} {status}");
            }
            assert_eq!(statuses.contains_key("422"), method == "post", "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path}");
        }
    }
    let page = server.get("/docs/").await;
    assert_eq!((page.status, page.header("content-type")), (StatusCode::OK, "text/html; charset=utf-8"));
    assert!(
        !page.body.contains("http://") && !page.body.contains("https://"),
        "nothing is fetched from elsewhere"
    );
    assert_eq!(server.get("/docs").await.header("location"), "/docs/");
}
