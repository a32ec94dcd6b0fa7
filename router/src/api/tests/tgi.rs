//! /generate, /generate_stream and /: exact bodies, event bytes, headers and refusals.

use axum::http::StatusCode;

use super::harness::{end, serve, server, settings};
use crate::api::compat::Compat;
use crate::api::places::Places;
use crate::api::state::EdgeSettings;

/// Request to /generate and its exact body.
#[tokio::test]
async fn bodies() {
    let server = server();
    let end = end();
    for (request, expected) in [
        (r#"{"inputs":"2+2="}"#, r#"{"generated_text":"4"}"#.to_string()),
        (r#"{"inputs":"2+2=","parameters":null,"stream":null}"#, r#"{"generated_text":"4"}"#.into()),
        (r#"{"inputs":"2+2=","parameters":{"return_full_text":true}}"#, r#"{"generated_text":"2+2=4"}"#.into()),
        (
            r#"{"inputs":"2+2=","parameters":{"details":true,"max_new_tokens":2}}"#,
            format!(
                r#"{{"generated_text":"4","details":{{"finish_reason":"length","generated_tokens":2,"seed":null,"prefill":[],"tokens":[{{"id":52,"text":"4","logprob":-0.5,"special":false}},{{"id":{end},"text":"<|im_end|>","logprob":-0.5,"special":true}}]}}}}"#
            ),
        ),
        (
            r#"{"inputs":"2+2=","parameters":{"decoder_input_details":true,"max_new_tokens":1,"top_n_tokens":2,"seed":7,"do_sample":true}}"#,
            r#"{"generated_text":"4","details":{"finish_reason":"length","generated_tokens":1,"seed":7,"prefill":[{"id":50,"text":"2","logprob":null},{"id":43,"text":"+","logprob":-0.43},{"id":50,"text":"2","logprob":-0.5},{"id":61,"text":"=","logprob":-0.61}],"tokens":[{"id":52,"text":"4","logprob":-0.5,"special":false}],"top_tokens":[[{"id":52,"text":"4","logprob":-0.5,"special":false},{"id":53,"text":"5","logprob":-1.5,"special":false}]]}}"#.into(),
        ),
        (r#"{"inputs":"half","parameters":{"max_new_tokens":5}}"#, "{\"generated_text\":\"a€\u{fffd}\"}".into()),
        (r#"{"inputs":"x","parameters":{"max_new_tokens":2}}"#, r#"{"generated_text":"hellohello"}"#.into()),
        (r#"{"inputs":"x","parameters":{"stop":"ohe"}}"#, r#"{"generated_text":"hellohe"}"#.into()),
        (r#"{"inputs":"x","parameters":{"stop":["zz","lo"],"unknown":1}}"#, r#"{"generated_text":"hello"}"#.into()),
    ] {
        let reply = server.post("/generate", request).await;
        assert_eq!((reply.status, reply.body), (StatusCode::OK, expected), "{request}");
    }
}

#[tokio::test]
async fn finish_reasons_and_counts() {
    let server = server();
    for (parameters, reason, n, seed_is_null) in [
        (r#""max_new_tokens":3"#, "length", 3, true),
        (r#""stop":["lohe"]"#, "stop_sequence", 2, true),
        (r#""max_new_tokens":3,"temperature":0.5"#, "length", 3, false),
        (r#""max_new_tokens":3,"temperature":1.0,"seed":5"#, "length", 3, true),
        // Absent, max_new_tokens is what fits: 120 tokens with the prompt's one.
        (r#""do_sample":null"#, "length", 119, true),
        // Only the last token of the prompt is kept.
        (r#""truncate":1"#, "length", 119, true),
    ] {
        let body = format!(r#"{{"inputs":"x","parameters":{{"details":true,{parameters}}}}}"#);
        let details = server.post("/generate", &body).await.json()["details"].clone();
        assert_eq!(details["finish_reason"], reason, "{parameters}");
        assert_eq!(details["generated_tokens"], n, "{parameters}");
        assert_eq!(details["seed"].is_null(), seed_is_null, "{parameters}");
    }
    let body = r#"{"inputs":"2+2=","parameters":{"details":true}}"#;
    let details = server.post("/generate", body).await.json()["details"].clone();
    assert_eq!((&details["finish_reason"], &details["generated_tokens"]), (&"eos_token".into(), &2.into()));
}

#[tokio::test]
async fn headers() {
    let reply = server().post("/generate", r#"{"inputs":"2+2=","parameters":{"max_new_tokens":2}}"#).await;
    for (name, expected) in [
        ("content-type", "application/json"),
        ("x-compute-type", "cpu"),
        ("x-compute-characters", "4"),
        ("x-prompt-tokens", "4"),
        ("x-generated-tokens", "2"),
        ("access-control-allow-origin", "*"),
    ] {
        assert_eq!(reply.header(name), expected, "{name}");
    }
    assert!(reply.header("x-compute-time").parse::<f64>().unwrap() > 0.0);
    for name in ["x-total-time", "x-validation-time", "x-queue-time", "x-inference-time", "x-time-per-token"]
    {
        assert!(reply.header(name).parse::<u64>().is_ok(), "{name}");
    }
}

#[tokio::test]
async fn stream_bytes() {
    let server = server();
    let end = end();
    for (path, request, expected) in [
        (
            "/generate_stream",
            r#"{"inputs":"2+2=","parameters":{"details":true}}"#,
            format!(
                "data: {{\"index\":1,\"token\":{{\"id\":52,\"text\":\"4\",\"logprob\":-0.5,\"special\":false}},\"generated_text\":null,\"details\":null}}\n\n\
                 data: {{\"index\":2,\"token\":{{\"id\":{end},\"text\":\"<|im_end|>\",\"logprob\":-0.5,\"special\":true}},\"generated_text\":\"4\",\"details\":{{\"finish_reason\":\"eos_token\",\"generated_tokens\":2,\"seed\":null,\"input_length\":4}}}}\n\n"
            ),
        ),
        (
            "/",
            r#"{"inputs":"2+2=","stream":true,"parameters":{"max_new_tokens":1,"top_n_tokens":1}}"#,
            "data: {\"index\":1,\"token\":{\"id\":52,\"text\":\"4\",\"logprob\":-0.5,\"special\":false},\"top_tokens\":[{\"id\":52,\"text\":\"4\",\"logprob\":-0.5,\"special\":false}],\"generated_text\":\"2+2=4\",\"details\":null}\n\n".into(),
        ),
    ] {
        let reply = server.post(path, request).await;
        assert_eq!((reply.status, reply.body.clone()), (StatusCode::OK, expected), "{request}");
        for (name, expected) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-cache"),
            ("x-accel-buffering", "no"),
            ("x-compute-type", "cpu"),
            ("x-compute-characters", "4"),
            ("x-total-time", ""),
        ] {
            assert_eq!(reply.header(name), expected, "{name}");
        }
    }
}

#[tokio::test]
async fn stream_texts() {
    let server = server();
    for (inputs, parameters, texts, generated) in [
        ("euro", r#""max_new_tokens":3"#, &["", "", "€"][..], "€"),
        ("half", r#""max_new_tokens":5"#, &["a", "", "", "€", "\u{fffd}"], "a€\u{fffd}"),
        ("x", r#""stop":["oh"]"#, &["hello", "h"], "helloh"),
        ("x", r#""stop":["hello"]"#, &["hello"], "hello"),
    ] {
        let body = format!(r#"{{"inputs":"{inputs}","parameters":{{{parameters}}}}}"#);
        let events = server.post("/generate_stream", &body).await.events();
        let shown: Vec<_> = events.iter().map(|e| e["token"]["text"].as_str().unwrap()).collect();
        assert_eq!(shown, texts, "{body}");
        assert_eq!(events.last().unwrap()["generated_text"], generated, "{body}");
    }
}

#[tokio::test]
async fn the_compat_route_wraps_in_a_list_and_returns_the_prompt() {
    let server = server();
    for (body, expected) in [
        (r#"{"inputs":"2+2="}"#, r#"[{"generated_text":"2+2=4"}]"#),
        (r#"{"inputs":"2+2=","parameters":{"return_full_text":false}}"#, r#"[{"generated_text":"4"}]"#),
    ] {
        assert_eq!(server.post("/", body).await.body, expected);
    }
    let off = serve(settings(), |serving| serving.compat_full_text = false);
    assert_eq!(off.post("/", r#"{"inputs":"2+2="}"#).await.body, r#"[{"generated_text":"4"}]"#);
}

/// Parameters and the text after `Input validation error: `; the same on all three routes, streaming or not.
#[tokio::test]
async fn refusals() {
    let server = server();
    let long = format!(r#""max_new_tokens":1}},"inputs":"{}"#, "y".repeat(101));
    for (parameters, text) in [
        (r#""temperature":0"#, "`temperature` must be strictly positive"),
        (r#""top_p":1.0"#, "`top_p` must be > 0.0 and < 1.0"),
        (r#""top_k":-3"#, "`top_k` must be strictly positive"),
        (r#""stop":["a","b","c","d","e"]"#, "`stop` supports up to 4 stop sequences. Given: 5"),
        (r#""truncate":101"#, "`truncate` must be strictly positive and less than 100. Given: 101"),
        (
            r#""max_new_tokens":120"#,
            "`inputs` tokens + `max_new_tokens` must be <= 120. Given: 1 `inputs` tokens and 120 `max_new_tokens`",
        ),
        (
            r#""watermark":true"#,
            "`watermark` is not supported: this server adds no watermark. Leave it out or send false",
        ),
        (r#""adapter_id":"a""#, "`adapter_id` is not supported: no adapters are loaded. Given: a"),
        (r#""grammar":{"type":"json_object","value":3}"#, "grammar is not supported"),
        (r#""grammar":{"type":"json","value":"[]"}"#, "grammar is not valid: a JSON schema is an object"),
    ] {
        for path in ["/", "/generate", "/generate_stream"] {
            let body = format!(r#"{{"inputs":"x","parameters":{{{parameters}}}}}"#);
            let reply = server.post(path, &body).await;
            let expected =
                format!(r#"{{"error":"Input validation error: {text}","error_type":"validation"}}"#);
            assert_eq!((reply.status, reply.body), (StatusCode::UNPROCESSABLE_ENTITY, expected), "{path}");
        }
    }
    let reply = server.post("/generate", &format!(r#"{{"parameters":{{{long}"}}"#)).await;
    assert_eq!(
        reply.json()["error"],
        "Input validation error: `inputs` must have less than 100 tokens. Given: 101"
    );
    let reply = server.post("/generate", r#"{"inputs":""}"#).await;
    assert_eq!(reply.json()["error"], "Input validation error: `inputs` cannot be empty");
}

#[tokio::test]
async fn best_of() {
    let server = server();
    let whole = "`best_of` must be > 0 and <= 2. Given: ";
    let streamed = "`best_of` != 1 is not supported when streaming tokens";
    for (path, parameters, text) in [
        ("/generate", r#""best_of":3"#, format!("{whole}3")),
        ("/generate", r#""best_of":0"#, format!("{whole}0")),
        ("/generate", r#""best_of":2"#, "you must use sampling when `best_of` is > 1".into()),
        (
            "/generate",
            r#""best_of":2,"do_sample":true,"seed":1"#,
            "`seed` must not be set when `best_of` > 1".into(),
        ),
        ("/generate_stream", r#""best_of":2"#, streamed.into()),
        (
            "/generate_stream",
            r#""decoder_input_details":true"#,
            "`decoder_input_details` == true is not supported when streaming tokens".into(),
        ),
    ] {
        let body = format!(r#"{{"inputs":"x","parameters":{{{parameters}}}}}"#);
        let reply = server.post(path, &body).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(reply.json()["error"], format!("Input validation error: {text}"), "{path} {parameters}");
    }
    assert_eq!(server.post("/generate", r#"{"inputs":"2+2=","parameters":{"best_of":1}}"#).await.status, 200);
}

/// `best_of` takes one place, counts as one request, and puts the likeliest answer first.
#[tokio::test]
async fn the_best_of_some() {
    let server = serve(settings(), |serving| serving.places = Places::new(1));
    let body = r#"{"inputs":"coin","parameters":{"best_of":2,"do_sample":true,"details":true,"decoder_input_details":true,"return_full_text":true}}"#;
    let mut seen = std::collections::HashSet::new();
    for n_requests in 1..=40 {
        let reply = server.post("/generate", body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
        let body = reply.json();
        let details = &body["details"];
        let others = details["best_of_sequences"].as_array().unwrap();
        let [other] = &others[..] else { panic!("{body}") };
        let texts = [&body["generated_text"], &other["generated_text"]].map(|text| text.as_str().unwrap());
        for (text, one) in texts.iter().zip([details, other]) {
            let is_heads = one["seed"].as_u64().unwrap() % 2 == 0;
            assert_eq!(*text, if is_heads { "coinheads" } else { "cointails" });
            assert_eq!(one["tokens"][0]["logprob"], if is_heads { -0.25 } else { -1.25 });
            assert_eq!((&one["generated_tokens"], &one["finish_reason"]), (&6.into(), &"eos_token".into()));
            assert_eq!(one["prefill"].as_array().unwrap().len(), 4, "{body}");
        }
        assert!(texts != ["cointails", "coinheads"], "the likelier is the answer");
        seen.insert(texts.map(str::to_string));
        assert_eq!(reply.header("x-generated-tokens"), "6");
        assert_eq!(server.metric("tgi_request_success"), f64::from(n_requests));
        assert_eq!(server.metric("tgi_request_generated_tokens_count"), f64::from(2 * n_requests));
    }
    assert!(seen.len() >= 2, "seeds differ");
    let plain = r#"{"inputs":"coin","parameters":{"best_of":2,"temperature":0.5}}"#;
    assert!(server.post("/generate", plain).await.json()["details"].is_null());
}

/// What `--tgi-compat strict` brings back.
#[tokio::test]
async fn strict_compat() {
    let strict = EdgeSettings { compat: Compat::Strict, ..settings() };
    let server = serve(strict.clone(), |_| {});
    let seed = async |body: &str| server.post("/generate", body).await.json()["details"]["seed"].clone();
    assert!(seed(r#"{"inputs":"2+2=","parameters":{"details":true}}"#).await.is_null());
    // A body without parameters samples.
    for (server, n) in [(&server, 2), (&super::harness::server(), 1)] {
        let mut texts = std::collections::HashSet::new();
        for _ in 0..60 {
            texts.insert(server.post("/generate", r#"{"inputs":"coin"}"#).await.body);
        }
        assert_eq!(texts.len(), n);
    }
    // A stream's failure is its only event.
    for (path, body, event) in [
        (
            "/generate_stream",
            r#"{"inputs":""}"#,
            r#"{"error":"Input validation error: `inputs` cannot be empty","error_type":"validation"}"#,
        ),
        (
            "/",
            r#"{"inputs":"x","stream":true,"parameters":{"temperature":0}}"#,
            r#"{"error":"Input validation error: `temperature` must be strictly positive","error_type":"validation"}"#,
        ),
    ] {
        let reply = server.post(path, body).await;
        assert_eq!(
            (reply.status, reply.body.clone()),
            (StatusCode::OK, format!("data: {event}\n\n")),
            "{path}"
        );
        assert_eq!(reply.header("content-type"), "text/event-stream");
    }
    assert_eq!(server.metric("tgi_request_failure{err=\"validation\"}"), 2.0);
    // The prompt's log-probabilities need the server's flag.
    let body = r#"{"inputs":"ab","parameters":{"decoder_input_details":true}}"#;
    for (prefill_flag, n) in [(false, 0), (true, 2)] {
        let server = serve(strict.clone(), |serving| serving.prefill_flag = prefill_flag);
        let reply = server.post("/generate", body).await.json();
        assert_eq!(reply["details"]["prefill"].as_array().unwrap().len(), n);
    }
}

#[tokio::test]
async fn shard_failures() {
    let server = server();
    let error = r#"{"error":"Request failed during generation: Server error: out of script","error_type":"generation"}"#;
    for path in ["/generate", "/generate_stream"] {
        let reply = server.post(path, r#"{"inputs":"fail now"}"#).await;
        assert_eq!((reply.status, reply.body.as_str()), (StatusCode::FAILED_DEPENDENCY, error), "{path}");
    }
    let reply = server.post("/generate", r#"{"inputs":"fail later"}"#).await;
    assert_eq!((reply.status, reply.body.as_str()), (StatusCode::FAILED_DEPENDENCY, error));
    let reply = server.post("/generate_stream", r#"{"inputs":"fail later"}"#).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.events().len(), 3);
    assert!(reply.body.ends_with(&format!("data: {error}\n\n")), "{}", reply.body);
    assert_eq!(server.metric("tgi_request_failure{err=\"generation\"}"), 4.0);
    assert_eq!(server.metric("tgi_request_count"), 4.0);
}
