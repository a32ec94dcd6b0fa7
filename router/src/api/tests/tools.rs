//! Tools of /v1/chat/completions: exact bodies and deltas of both forms, choices, limits, refusals.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::harness::{LIMITS, Server, serve_within, settings};
use crate::api::compat::Compat;
use crate::request::Limits;
use crate::text::{ChatTemplate, testing};

const PATH: &str = "/v1/chat/completions";
const ROOM: Limits =
    Limits { max_input_tokens: 3000, max_total_tokens: 3200, max_batch_prefill_tokens: 3000, ..LIMITS };

/// The original Qwen's built-in template.
fn qwen(compat: Compat) -> Server {
    serve_within(ROOM, crate::api::state::EdgeSettings { compat, ..settings() }, |_| {})
}

/// A template in Jinja that knows nothing of tools.
fn jinja() -> Server {
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n";
    let config = json!({ "chat_template": template }).to_string();
    serve_within(ROOM, settings(), |serving| {
        serving.template = testing::with_files(&[("tokenizer_config.json", &config)], |dir| {
            ChatTemplate::from_dir(dir, None).ok()
        });
    })
}

fn tools() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    json!([
        {"type": "function", "function": {"name": "get_weather", "parameters": parameters}},
        {"type": "function", "function": {"name": "now"}},
    ])
}

fn ask(content: &str, fields: Value) -> String {
    let mut body = json!({"messages": [{"role": "user", "content": content}], "tools": tools()});
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    body.to_string()
}

/// The body from `"choices"` up to the usage, ids replaced.
fn choices(body: &str) -> &str {
    let from = body.find("\"choices\":").unwrap();
    &body[from..body.find(",\"usage\"").unwrap()]
}

#[tokio::test]
async fn a_call_in_a_whole_answer() {
    let reply = qwen(Compat::Fixed).post(PATH, &ask("weather", json!({}))).await;
    assert_eq!(
        choices(&reply.normalized()),
        r#""choices":[{"index":0,"message":{"role":"assistant","content":"Look.","tool_calls":[{"id":"C","type":"function","function":{"name":"get_weather","arguments":"{\"city\": \"Paris\"}"}}]},"logprobs":null,"finish_reason":"tool_calls"}]"#
    );
    let id = reply.json()["choices"][0]["message"]["tool_calls"][0]["id"].as_str().unwrap().to_string();
    assert!(id.len() == 29 && id[5..].bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    // TGI's way.
    let reply = qwen(Compat::Strict).post(PATH, &ask("weather", json!({}))).await;
    let choice = &reply.json()["choices"][0];
    assert_eq!(
        (&choice["message"]["tool_calls"][0]["id"], &choice["finish_reason"]),
        (&json!("0"), &json!("stop"))
    );
}

#[tokio::test]
async fn several_calls_in_a_whole_answer() {
    let reply = jinja().post(PATH, &ask("tags", json!({}))).await;
    assert_eq!(
        choices(&reply.normalized()),
        r#""choices":[{"index":0,"message":{"role":"assistant","content":"So:","tool_calls":[{"id":"C","type":"function","function":{"name":"now","arguments":"{}"}},{"id":"C","type":"function","function":{"name":"get_weather","arguments":"{\"city\": \"é\"}"}}]},"logprobs":null,"finish_reason":"tool_calls"}]"#
    );
    let reply = jinja().post(PATH, &ask("tags", json!({"parallel_tool_calls": false}))).await;
    let message = &reply.json()["choices"][0]["message"];
    assert_eq!(message["tool_calls"].as_array().unwrap().len(), 1);
    assert_eq!(message["tool_calls"][0]["function"]["name"], "now");
}

#[tokio::test]
async fn demanded_calls() {
    let server = qwen(Compat::Fixed);
    for choice in [json!("required"), json!("now"), json!({"type": "function", "function": {"name": "now"}})]
    {
        let reply = server.post(PATH, &ask("must", json!({"tool_choice": choice}))).await;
        assert_eq!(
            choices(&reply.normalized()),
            r#""choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[{"id":"C","type":"function","function":{"name":"now","arguments":"{}"}}]},"logprobs":null,"finish_reason":"tool_calls"}]"#
        );
        let streamed = json!({"tool_choice": choice, "stream": true});
        let (text, calls) = joined(&server.post(PATH, &ask("must", streamed)).await.events());
        assert_eq!((text.as_str(), calls[0][2].as_str(), calls[0][3].as_str()), ("", "now", "{}"));
    }
    // A schema that cannot be followed.
    let parameters = json!({"type": "object", "properties": {"a": {"type": "nothing"}}});
    let bad = json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}], "tool_choice": "f"});
    let reply = server.post(PATH, &ask("must", bad)).await;
    assert_eq!(
        (reply.status, reply.json()["error_type"].clone()),
        (StatusCode::UNPROCESSABLE_ENTITY, json!("validation"))
    );
}

/// What a stream's deltas add up to: text, and for each call its id, type, name and arguments.
fn joined(events: &[Value]) -> (String, Vec<[String; 4]>) {
    let (mut text, mut calls) = (String::new(), Vec::<[String; 4]>::new());
    for event in events {
        let Some(delta) = event["choices"].get(0).map(|choice| &choice["delta"]) else { continue };
        text += delta["content"].as_str().unwrap_or_default();
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            let field = |value: &Value| value.as_str().map(str::to_string);
            let name = field(&call["function"]["name"]);
            assert_eq!(name.is_some(), index == calls.len(), "a call's first delta names it: {call}");
            if let Some(name) = name {
                calls.push([field(&call["id"]).unwrap(), field(&call["type"]).unwrap(), name, String::new()]);
            }
            calls[index][3] += call["function"]["arguments"].as_str().unwrap();
        }
    }
    (text, calls)
}

#[tokio::test]
async fn calls_in_a_stream() {
    let fields = json!({"stream": true, "stream_options": {"include_usage": true}});
    let reply = qwen(Compat::Fixed).post(PATH, &ask("weather", fields.clone())).await;
    let deltas: Vec<Value> =
        reply.events().iter().filter_map(|e| Some(e["choices"].get(0)?["delta"].clone())).collect();
    let first = r#"{"role":"assistant","content":"Look.","tool_calls":[{"index":0,"id":"C","type":"function","function":{"name":"get_weather","arguments":"{"}}]}"#;
    assert!(
        reply.normalized().contains(&format!("\"delta\":{first},\"logprobs\":null,\"finish_reason\":null"))
    );
    assert_eq!(
        deltas[1],
        json!({"content": null, "tool_calls": [{"index": 0, "function": {"arguments": "\""}}]})
    );
    let (text, calls) = joined(&reply.events());
    assert_eq!((text.as_str(), calls.len()), ("Look.", 1));
    assert_eq!(calls[0][1..], ["function", "get_weather", "{\"city\": \"Paris\"}"]);
    let events = reply.events();
    let finishes: Vec<&Value> =
        events.iter().filter_map(|e| Some(&e["choices"].get(0)?["finish_reason"])).collect();
    assert!(
        finishes[..finishes.len() - 1].iter().all(|f| f.is_null())
            && **finishes.last().unwrap() == "tool_calls"
    );
    // Tokens that said nothing yet are counted.
    let whole = qwen(Compat::Fixed).post(PATH, &ask("weather", json!({}))).await.json();
    assert_eq!(events.last().unwrap()["usage"], whole["usage"]);

    let (text, calls) = joined(&jinja().post(PATH, &ask("tags", fields)).await.events());
    let named: Vec<_> = calls.iter().map(|call| (call[2].as_str(), call[3].as_str())).collect();
    assert_eq!((text.as_str(), named), ("So:", vec![("now", "{}"), ("get_weather", "{\"city\": \"é\"}")]));
    assert_ne!(calls[0][0], calls[1][0]);
}

/// The user's text, further fields, the content and the finish reason of an answer without calls.
#[tokio::test]
async fn answers_without_calls() {
    for (content, fields, text, finish) in [
        ("2+2=", json!({}), "4", "stop"),
        ("know", json!({}), "4", "stop"),
        ("know", json!({"tool_choice": "none"}), "Thought: I know.\nFinal Answer: 4", "stop"),
        ("weather", json!({"max_tokens": 20}), "Look.\nActio", "length"),
        (
            "weather",
            json!({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}]}}}),
            "Thought: Look.\nAction: get_weather\nAction Input: {\"city\": \"Paris\"}",
            "stop",
        ),
        ("x", json!({"max_tokens": 2, "n": 2}), "hellohello", "length"),
    ] {
        // fmt: skip
        let server = qwen(Compat::Fixed);
        let reply = server.post(PATH, &ask(content, fields.clone())).await;
        let choice = &reply.json()["choices"][0];
        let expected = json!({"role": "assistant", "content": text});
        assert_eq!((&choice["message"], &choice["finish_reason"]), (&expected, &json!(finish)), "{fields}");
        let mut streamed = fields;
        streamed["stream"] = json!(true);
        let events: Vec<Value> = server.post(PATH, &ask(content, streamed)).await.events();
        let mine: Vec<Value> = events.into_iter().filter(|e| e["choices"][0]["index"] == 0).collect();
        assert_eq!(joined(&mine), (text.to_string(), vec![]));
        assert_eq!(mine.last().unwrap()["choices"][0]["finish_reason"], finish);
    }
}

#[tokio::test]
async fn tokens_of_calls_have_logprobs() {
    let reply =
        qwen(Compat::Fixed).post(PATH, &ask("weather", json!({"stream": true, "logprobs": true}))).await;
    assert!(
        reply.events().iter().all(|e| e["choices"][0]["logprobs"]["content"].as_array().unwrap().len() == 1)
    );
    let whole = qwen(Compat::Fixed).post(PATH, &ask("weather", json!({"logprobs": true}))).await.json();
    let n = whole["choices"][0]["logprobs"]["content"].as_array().unwrap().len();
    assert_eq!((n, whole["usage"]["completion_tokens"].as_u64().unwrap()), (reply.events().len(), n as u64));
}

#[tokio::test]
async fn results_are_told() {
    let call = json!({"id": "1", "type": "function", "function": {"name": "now", "arguments": "{}"}});
    let messages = json!([
        {"role": "user", "content": "2+2="},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "noon"}]},
    ]);
    for (server, end) in [
        (qwen(Compat::Fixed), "\nAction: now\nAction Input: {}\nObservation: noon\nThought:"),
        (
            jinja(),
            "<|im_start|>user\n<tool_response>\nnoon\n</tool_response><|im_end|>\n<|im_start|>assistant",
        ),
    ] {
        let body = json!({"messages": messages, "tools": tools(), "max_tokens": 5}).to_string();
        let told =
            server.post("/chat_tokenize", &body).await.json()["templated_text"].as_str().unwrap().to_string();
        assert!(told.ends_with(end), "{told}");
        assert_eq!(server.post(PATH, &body).await.status, StatusCode::OK);
    }
}

/// The client may have as many stop strings as without tools.
#[tokio::test]
async fn stop_strings_beside_our_own() {
    let reply =
        qwen(Compat::Fixed).post(PATH, &ask("weather", json!({"stop": ["1", "2", "3", "Par"]}))).await;
    let call = &reply.json()["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(call["arguments"], "{\"city\": \"");
}

#[tokio::test]
async fn refusals() {
    let server = qwen(Compat::Fixed);
    let one = |tool: Value| json!({"tools": [tool]});
    let named = |name: Value| one(json!({"type": "function", "function": {"name": name}}));
    for (fields, message) in [
        (json!({"tool_choice": "rain"}), "Tool with name rain not found"),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "rain"}}}),
            "Tool with name rain not found",
        ),
        (
            json!({"tool_choice": 3}),
            "`tool_choice` must be auto, none, required or a function's name, as text or as {\"type\": \"function\", \"function\": {\"name\": ...}}",
        ),
        (
            json!({"tool_choice": {"allowed_tools": {"mode": "auto"}}}),
            "`tool_choice.allowed_tools` must have a `mode`, auto or required, and a list of `tools`",
        ),
        (
            json!({"tool_choice": {"allowed_tools": {"mode": "auto", "tools": []}}}),
            "`tool_choice` allows none of the `tools`",
        ),
        (
            json!({"tool_choice": "required", "tools": null}),
            "`tool_choice` asks for a call, but there are no `tools`",
        ),
        (
            one(json!({"type": "custom", "custom": {}})),
            "`tools[0]` is of type `custom`, but only functions can be called",
        ),
        (one(json!({"type": "function"})), "`tools[0]` must have a `function`"),
        (
            named(json!("a b")),
            "`tools[0]` must have a name of 1 to 64 letters, digits or one of `_-./:`. Given: \"a b\"",
        ),
        (
            one(json!({"type": "function", "function": {"name": "a", "parameters": [1]}})),
            "`tools[0]` must have a JSON schema, an object, as `parameters`",
        ),
        (json!({"tools": [tools()[1], tools()[1]]}), "`tools` has two functions named now"),
        (json!({"tools": vec![tools()[1].clone(); 129]}), "`tools` must be <= 128. Given: 129"),
        (json!({"response_format": {"type": "json_object"}}), "Grammar and tools are mutually exclusive"),
    ] {
        // fmt: skip
        let reply = server.post(PATH, &ask("x", fields)).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(reply.json()["error"]["message"], format!("Tool error: {message}"));
        assert_eq!(reply.json()["error_type"], "tool_error");
    }
    for (fields, message) in [
        (json!({"functions": [{"name": "f"}]}), "`functions` is not supported: use `tools`"),
        (json!({"modalities": ["text", "audio"]}), "`modalities` must be [\"text\"]. Given: audio"),
    ] {
        let reply = server.post(PATH, &ask("x", fields)).await;
        assert_eq!(reply.json()["error"]["message"], format!("Input validation error: {message}"));
    }
}
