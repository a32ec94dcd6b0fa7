//! /v1/chat/completions: exact bodies and chunks, OpenAI's fields, refusals.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::harness::{end, server};

fn chat(content: &str, fields: &str) -> String {
    let comma = if fields.is_empty() { "" } else { "," };
    format!(r#"{{"messages":[{{"role":"user","content":"{content}"}}]{comma}{fields}}}"#)
}

const PATH: &str = "/v1/chat/completions";

#[tokio::test]
async fn whole_body() {
    let reply = server().post(PATH, &chat("2+2=", r#""model":"any","temperature":0"#)).await;
    let prompt = reply.json()["usage"]["prompt_tokens"].as_u64().unwrap();
    let total = prompt + 2;
    assert_eq!(
        reply.normalized(),
        format!(
            r#"{{"object":"chat.completion","id":"X","created":0,"model":"any","system_fingerprint":"1.2.3-native","choices":[{{"index":0,"message":{{"role":"assistant","content":"4"}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":{prompt},"completion_tokens":2,"total_tokens":{total}}}}}"#
        )
    );
    let id = reply.json()["id"].as_str().unwrap().to_string();
    assert!(id.len() == "chatcmpl-".len() + 32 && id[9..].bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    assert_eq!(reply.header("x-prompt-tokens"), prompt.to_string());
    assert_eq!(reply.header("x-generated-tokens"), "2");
    assert!(reply.header("x-compute-time").parse::<f64>().unwrap() > 0.0);
}

#[tokio::test]
async fn stream_bytes() {
    let fields = r#""stream":true,"stream_options":{"include_usage":true}"#;
    let reply = server().post(PATH, &chat("2+2=", fields)).await;
    let prompt = reply.events().last().unwrap()["usage"]["prompt_tokens"].as_u64().unwrap();
    let total = prompt + 2;
    let head = r#"data: {"object":"chat.completion.chunk","id":"X","created":0,"model":"M","system_fingerprint":"1.2.3-native","choices":["#;
    assert_eq!(
        reply.normalized(),
        format!(
            "{head}{{\"index\":0,\"delta\":{{\"role\":\"assistant\",\"content\":\"4\"}},\"logprobs\":null,\"finish_reason\":null}}],\"usage\":null}}\n\n\
             {head}{{\"index\":0,\"delta\":{{\"content\":\"\"}},\"logprobs\":null,\"finish_reason\":\"stop\"}}],\"usage\":null}}\n\n\
             {head}],\"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":2,\"total_tokens\":{total}}}}}\n\n\
             data: [DONE]\n\n"
        )
    );
    assert_eq!(reply.header("content-type"), "text/event-stream");
    let without = server().post(PATH, &chat("2+2=", r#""stream":true,"stream_options":null"#)).await;
    assert!(without.events().iter().all(|event| event["usage"].is_null() && event["choices"][0].is_object()));
}

#[tokio::test]
async fn the_model_name() {
    for (fields, expected) in
        [("", "M"), (r#""model":null"#, "M"), (r#""model":"tgi""#, "M"), (r#""model":"gpt""#, "gpt")]
    {
        let reply = server().post(PATH, &chat("2+2=", fields)).await;
        assert_eq!(reply.json()["model"], expected);
    }
}

/// Fields, the content and the finish reason.
#[tokio::test]
async fn answers() {
    let server = server();
    for (fields, content, finish) in [
        (r#""max_tokens":2"#, "hellohello", "length"),
        (r#""max_completion_tokens":1,"max_tokens":9"#, "hello", "length"),
        (r#""stop":"ohe""#, "hell", "stop"),
        (r#""stop":["x","lo"]"#, "hel", "stop"),
        (r#""max_tokens":1,"stop":["ello"]"#, "h", "stop"),
        (
            r#""max_tokens":1,"stop":null,"seed":3,"top_p":1,"presence_penalty":0.5,"frequency_penalty":-2"#,
            "hello",
            "length",
        ),
        (
            r#""max_tokens":1,"logit_bias":{"5":1},"user":"u","response_format":{"type":"text"}"#,
            "hello",
            "length",
        ),
        (r#""max_tokens":1,"tools":[],"tool_choice":"auto""#, "hello", "length"),
        (r#""max_tokens":1,"tools":[{"type":"function"}],"tool_choice":"none""#, "hello", "length"),
        (r#""max_tokens":1,"top_p":0,"temperature":2"#, "hello", "length"),
    ] {
        let reply = server.post(PATH, &chat("x", fields)).await;
        let choice = &reply.json()["choices"][0];
        assert_eq!(
            (&choice["message"]["content"], &choice["finish_reason"]),
            (&content.into(), &finish.into()),
            "{fields}"
        );
        // A stream says the same.
        let events = server.post(PATH, &chat("x", &format!("{fields},\"stream\":true"))).await.events();
        let streamed: String =
            events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(streamed, content, "{fields}");
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], finish, "{fields}");
    }
}

#[tokio::test]
async fn content_parts_and_other_roles() {
    let server = server();
    for messages in [
        json!([{"role": "user", "content": [{"type": "text", "text": "2+"}, {"type": "text", "text": "2="}]}]),
        json!([{"role": "system", "content": "s"}, {"role": "user", "content": "2+2=", "name": "n"}]),
        json!([
            {"role": "developer", "content": "d"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "r"}]},
            {"role": "user", "content": "2+2="}
        ]),
    ] {
        let reply = server.post(PATH, &json!({"messages": messages}).to_string()).await;
        assert_eq!(reply.json()["choices"][0]["message"]["content"], "4", "{messages} {}", reply.body);
    }
}

#[tokio::test]
async fn logprobs() {
    let server = server();
    let content = |reply: Value| reply["choices"][0]["logprobs"]["content"].clone();
    let reply = server.post(PATH, &chat("euro", r#""logprobs":true,"top_logprobs":2,"max_tokens":1"#)).await;
    let expected = json!([{
        "token": "\u{fffd}", "logprob": -0.5, "bytes": [0xe2],
        "top_logprobs": [
            {"token": "\u{fffd}", "logprob": -0.5, "bytes": [0xe2]},
            {"token": "\u{fffd}", "logprob": -1.5, "bytes": [0xe3]},
        ],
    }]);
    assert_eq!(content(reply.json()), expected);
    let streamed = chat("euro", r#""logprobs":true,"top_logprobs":2,"max_tokens":1,"stream":true"#);
    assert_eq!(content(server.post(PATH, &streamed).await.events()[0].clone()), expected);
    // Counted in range even when not shown.
    let reply = server.post(PATH, &chat("2+2=", r#""top_logprobs":2"#)).await;
    assert!(reply.json()["choices"][0]["logprobs"].is_null());
    // The end token is part of the list, as it is of the usage.
    let reply = server.post(PATH, &chat("2+2=", r#""logprobs":true"#)).await;
    let tokens = content(reply.json());
    assert_eq!(tokens[1]["token"], testing_text(end()));
    assert_eq!(tokens.as_array().unwrap().len(), 2);
}

fn testing_text(id: u32) -> String {
    String::from_utf8(crate::text::testing::tiktoken().token_bytes(id).to_vec()).unwrap()
}

#[tokio::test]
async fn several_choices() {
    let server = server();
    let reply = server.post(PATH, &chat("2+2=", r#""n":3"#)).await.json();
    let indices: Vec<_> = reply["choices"].as_array().unwrap().iter().map(|c| c["index"].clone()).collect();
    assert_eq!(indices, [0, 1, 2]);
    assert_eq!(reply["usage"]["completion_tokens"], 6);
    let one = server.post(PATH, &chat("2+2=", "")).await.json();
    assert_eq!(reply["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"]);
    let fields = r#""n":2,"stream":true,"stream_options":{"include_usage":true}"#;
    let events = server.post(PATH, &chat("2+2=", fields)).await.events();
    for index in 0..2 {
        let mine = events.iter().filter(|e| e["choices"][0]["index"] == index);
        let text: String = mine.filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(text, "4");
    }
    assert_eq!(events.last().unwrap()["usage"]["completion_tokens"], 4);
    assert_eq!(server.metric("tgi_request_count"), 3.0);
    assert_eq!(server.metric("tgi_request_success"), 3.0);
}

/// Fields, the error's type and its message; the same whether streaming or not.
#[tokio::test]
async fn refusals() {
    let server = server();
    let tool = r#""tools":[{"type":"function","function":{"name":"f"}}]"#;
    for (fields, kind, message) in [
        (
            r#""temperature":-1"#,
            "validation",
            "Input validation error: `temperature` must be strictly positive",
        ),
        (r#""top_p":1.5"#, "validation", "Input validation error: `top_p` must be > 0.0 and < 1.0"),
        (
            r#""presence_penalty":3"#,
            "validation",
            "Input validation error: `presence_penalty` must be >= -2.0 and <= 2.0",
        ),
        (
            r#""top_logprobs":21"#,
            "validation",
            "Input validation error: `top_logprobs` must be >= 0 and <= 20. Given: 21",
        ),
        (r#""n":9"#, "validation", "Input validation error: `n` must be > 0 and <= 4. Given: 9"),
        (r#""n":0"#, "validation", "Input validation error: `n` must be > 0 and <= 4. Given: 0"),
        (
            r#""response_format":{"type":"json_schema"}"#,
            "validation",
            "Input validation error: `response_format` of type `json_schema` must have `json_schema`",
        ),
        (
            &format!(r#"{tool},"response_format":{{"type":"json_schema","json_schema":{{}}}}"#),
            "tool_error",
            "Tool error: Grammar and tools are mutually exclusive",
        ),
    ] {
        for stream in [false, true] {
            let reply = server.post(PATH, &chat("x", &format!("{fields},\"stream\":{stream}"))).await;
            assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{fields}");
            let expected = json!({
                "error": {
                    "message": message, "type": "invalid_request_error", "param": null, "code": null,
                    "http_status_code": 422,
                },
                "error_type": kind,
            });
            assert_eq!(reply.json(), expected, "{fields}");
        }
    }
}

#[tokio::test]
async fn messages_that_cannot_be_read() {
    let server = server();
    for (messages, text) in [
        (json!([{"role": "user"}]), "`messages[0]` must have `content` or `tool_calls`"),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]),
            "`messages[0]` has content of type `image_url`, but this model reads only text",
        ),
        (
            json!([{"role": "user", "content": [{"type": "text"}]}]),
            "`messages[0]` has a text part without `text`",
        ),
        (
            json!([{"role": "assistant", "tool_calls": [{"id": "1"}]}]),
            "`messages[0].tool_calls[0]` must have a `function` with `name` and `arguments`",
        ),
        (
            json!([{"role": "assistant", "tool_calls": []}]),
            "`messages[0]` must have `content` or `tool_calls`",
        ),
        (json!("Hi"), "invalid type: string"),
        (json!([{"role": "user", "content": 3}]), "a string or a list of content parts"),
    ] {
        let reply = server.post(PATH, &json!({"messages": messages}).to_string()).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
        let message = reply.json()["error"]["message"].as_str().unwrap().to_string();
        assert!(message.contains(text), "{message}");
    }
}

#[tokio::test]
async fn without_a_template() {
    let server = super::harness::serve(super::harness::settings(), |serving| serving.template = None);
    let reply = server.post(PATH, &chat("x", "")).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(reply.json()["error"]["message"], "Template error: template not found");
    assert_eq!(reply.json()["error_type"], "template_error");
}

#[tokio::test]
async fn shard_failures() {
    let server = server();
    let message = "Request failed during generation: Server error: out of script";
    for stream in [false, true] {
        let reply = server.post(PATH, &chat("fail now", &format!("\"stream\":{stream}"))).await;
        assert_eq!(reply.status, StatusCode::FAILED_DEPENDENCY);
        assert_eq!(reply.json()["error"]["message"], message);
    }
    let reply = server.post(PATH, &chat("fail later", "\"stream\":true")).await;
    assert_eq!(reply.status, StatusCode::OK);
    let last = reply.events().pop().unwrap();
    assert_eq!(last["error"]["message"], message);
    assert_eq!(last["error"]["http_status_code"], 424);
    assert_eq!(last["error_type"], "generation");
    assert!(reply.body.ends_with("data: [DONE]\n\n"));
}
