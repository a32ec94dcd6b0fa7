//! /v1/completions: prompts of every form, exact bodies and chunks, echo, logprobs, refusals.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::harness::{end, server};

const PATH: &str = "/v1/completions";

#[tokio::test]
async fn whole_body() {
    let reply = server().post(PATH, r#"{"model":"any","prompt":"2+2=","temperature":0}"#).await;
    assert_eq!(
        reply.normalized(),
        r#"{"object":"text_completion","id":"X","created":0,"model":"M","system_fingerprint":"1.2.3-native","choices":[{"index":0,"text":"4","logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}"#
    );
    assert!(reply.json()["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(reply.header("x-compute-characters"), "4");
    assert_eq!(reply.header("x-compute-time"), "");
}

/// A prompt, and the text and reason of each choice in order.
#[tokio::test]
async fn prompts() {
    let server = server();
    let (four, ab) = (("4", "stop"), ("ab", "stop"));
    for (prompt, fields, expected) in [
        (json!("ab"), json!({}), vec![ab]),
        (json!(["ab", "2+2="]), json!({}), vec![ab, four]),
        (json!([97, 98]), json!({}), vec![ab]),
        (json!([[97, 98], [50, 43, 50, 61]]), json!({}), vec![ab, four]),
        (json!(["x", "ab"]), json!({"max_tokens": 1}), vec![("hello", "length"), ("a", "length")]),
        (
            json!(["x", "ab"]),
            json!({"n": 2, "max_tokens": 1}),
            vec![("hello", "length"), ("hello", "length"), ("a", "length"), ("a", "length")],
        ),
        (json!("x"), json!({"stop": "ohe"}), vec![("hell", "stop")]),
        (json!(["2+2=", "ab"]), json!({"echo": true}), vec![("2+2=4", "stop"), ("abab", "stop")]),
        (json!([97, 98]), json!({"echo": true, "n": 1, "best_of": 1}), vec![("abab", "stop")]),
    ] {
        let mut body = fields;
        body["prompt"] = prompt;
        let reply = server.post(PATH, &body.to_string()).await;
        let choices = reply.json()["choices"].as_array().unwrap_or_else(|| panic!("{}", reply.body)).clone();
        assert_eq!(choices.len(), expected.len());
        for (index, (choice, (text, finish))) in choices.iter().zip(&expected).enumerate() {
            let expected = json!({"index": index, "text": text, "logprobs": null, "finish_reason": finish});
            assert_eq!(choice, &expected, "{body}");
        }
        body["stream"] = json!(true);
        let events = server.post(PATH, &body.to_string()).await.events();
        for (index, (text, finish)) in expected.iter().enumerate() {
            let mine: Vec<&Value> =
                events.iter().map(|e| &e["choices"][0]).filter(|c| c["index"] == index).collect();
            let streamed: String = mine.iter().filter_map(|c| c["text"].as_str()).collect();
            assert_eq!(
                (streamed.as_str(), &mine.last().unwrap()["finish_reason"]),
                (*text, &json!(finish)),
                "{body}"
            );
        }
    }
}

#[tokio::test]
async fn stream_bytes() {
    let server = server();
    let first = r#"data: {"object":"text_completion","id":"X","created":0,"choices":[{"index":0,"text":"4","logprobs":null,"finish_reason":null}],"model":"M","system_fingerprint":"1.2.3-native"}"#;
    let last = r#"data: {"object":"text_completion","id":"X","created":0,"model":"M","system_fingerprint":"1.2.3-native","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":4,"completion_tokens":2,"total_tokens":6}}"#;
    let reply = server.post(PATH, r#"{"prompt":"2+2=","stream":true}"#).await;
    assert_eq!(reply.normalized(), format!("{first}\n\n{last}\n\ndata: [DONE]\n\n"));
    // OpenAI's way: usage in a chunk of its own, or nowhere.
    let events =
        |usage| format!(r#"{{"prompt":"2+2=","stream":true,"stream_options":{{"include_usage":{usage}}}}}"#);
    let with = server.post(PATH, &events(true)).await.events();
    assert_eq!(with.len(), 3);
    assert_eq!((&with[2]["choices"], &with[2]["usage"]["total_tokens"]), (&json!([]), &json!(6)));
    assert!(with[1]["usage"].is_null());
    let without = server.post(PATH, &events(false)).await.events();
    assert!(without.len() == 2 && without.iter().all(|event| event["usage"].is_null()));
}

#[tokio::test]
async fn logprobs() {
    let server = server();
    let body = |stream| format!(r#"{{"prompt":"ab","logprobs":2,"stream":{stream}}}"#);
    let whole = server.post(PATH, &body(false)).await.json()["choices"][0]["logprobs"].clone();
    let text = |id| crate::text::testing::tiktoken().token_text(id);
    let expected = json!({
        "tokens": ["a", "b", text(end())],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [{"a": -0.5, "b": -1.5}, {"b": -0.5, "c": -1.5}, {text(end()): -0.5, text(end() + 1): -1.5}],
        "text_offset": [0, 1, 2],
    });
    assert_eq!(whole, expected);
    let events = server.post(PATH, &body(true)).await.events();
    let offsets: Vec<_> =
        events.iter().map(|e| e["choices"][0]["logprobs"]["text_offset"][0].clone()).collect();
    assert_eq!(offsets, [0, 1, 2]);
    let zero = server.post(PATH, r#"{"prompt":"ab","logprobs":0}"#).await.json();
    assert_eq!(zero["choices"][0]["logprobs"]["top_logprobs"], json!([{}, {}, {}]));
}

/// With `echo` the prompt's tokens come first, whole and streamed.
#[tokio::test]
async fn logprobs_of_the_prompt() {
    let server = server();
    let body = |n_top, stream| {
        json!({"prompt": "é2ab", "echo": true, "logprobs": n_top, "max_tokens": 2, "stream": stream})
            .to_string()
    };
    let ids = crate::text::testing::tiktoken().encode("é2ab", true).unwrap().ids;
    let text = |id| crate::text::testing::tiktoken().token_text(id);
    let n = ids.len();
    for n_top in [0, 1] {
        let whole = server.post(PATH, &body(n_top, false)).await.json()["choices"][0].clone();
        let columns = whole["logprobs"].clone();
        let (tokens, logprobs) = (&columns["tokens"], &columns["token_logprobs"]);
        assert_eq!((tokens.as_array().unwrap().len(), &logprobs[0]), (n + 2, &Value::Null), "{columns}");
        assert_eq!((&columns["top_logprobs"][0], &columns["text_offset"][0]), (&Value::Null, &json!(0)));
        for (i, &id) in ids.iter().enumerate().skip(1) {
            assert_eq!(tokens[i], text(id));
            assert!((logprobs[i].as_f64().unwrap() + f64::from(id) / 100.0).abs() < 1e-6, "{columns}");
            let best = if n_top == 0 { json!({}) } else { json!({text(id + 1): -0.25}) };
            assert_eq!(columns["top_logprobs"][i], best);
        }
        // The last of the prompt's tokens is one letter; what follows the prompt of four characters is the answer.
        let offsets = &columns["text_offset"];
        assert_eq!((&offsets[n - 1], &offsets[n]), (&json!(3), &json!(4)), "{columns}");
        assert!(whole["text"].as_str().unwrap().starts_with("é2ab"));

        let events = server.post(PATH, &body(n_top, true)).await.events();
        let streamed = |name: &str| -> Vec<Value> {
            events
                .iter()
                .flat_map(|e| e["choices"][0]["logprobs"][name].as_array().unwrap().clone())
                .collect()
        };
        for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(json!(streamed(name)), columns[name], "{name}");
        }
    }
}

#[tokio::test]
async fn refusals() {
    let server = server();
    let validation = |text: &str| ("validation", format!("Input validation error: {text}"));
    let suffix = "Suffix is not supported and can be achieved by preprocessing the prompt.";
    let batch = "Number of prompts exceeds the maximum allowed batch size of 4";
    let empty = "Empty array detected. Do not use an empty array for the prompt.";
    for (body, (kind, text)) in [
        (r#"{"prompt":"a","suffix":"b"}"#, ("suffix not supported", suffix.to_string())),
        (r#"{"prompt":["a","a","a","a","a"]}"#, ("batch size exceeded", batch.into())),
        (r#"{"prompt":["a","a"],"n":3}"#, ("batch size exceeded", batch.into())),
        (r#"{"prompt":[]}"#, ("validation", empty.into())),
        (r#"{"prompt":{}}"#, ("validation", "a string, a list of strings, token ids".into())),
        (r#"{"prompt":[[]]}"#, validation("`inputs` cannot be empty")),
        (r#"{"prompt":["a",""]}"#, validation("`inputs` cannot be empty")),
        (
            r#"{"prompt":[5,600]}"#,
            validation("token ids must be < 600, the size of the model's vocabulary. Given: 600"),
        ),
        (r#"{"prompt":"a","best_of":3}"#, validation("`best_of` > `n` is not supported")),
        (
            r#"{"prompt":"a","echo":true,"logprobs":2}"#,
            validation(
                "`logprobs` must be <= 1 with `echo`: of a prompt's tokens only the likeliest one is known. Given: 2",
            ),
        ),
        (r#"{"prompt":"a","logprobs":6}"#, validation("`top_n_tokens` must be >= 0 and <= 5. Given: 6")),
        (r#"{"prompt":"a","max_tokens":0}"#, validation("`max_new_tokens` must be strictly positive")),
    ] {
        let reply = server.post(PATH, body).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        let message = reply.json()["error"]["message"].as_str().unwrap().to_string();
        assert!(message.contains(&text), "{body}: {message}");
        assert_eq!(reply.json()["error_type"], kind, "{body}");
    }
    // Nothing was submitted for the valid prompt beside an invalid one, and no place is lost.
    for _ in 0..20 {
        server.post(PATH, r#"{"prompt":["a",""]}"#).await;
    }
    assert_eq!(server.post(PATH, r#"{"prompt":["ab","ab","ab","ab"]}"#).await.status, StatusCode::OK);
}
