//! Constrained and biased requests, by the fields of every API, from the body to the row that the shard gets.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::harness::{LIMITS, Server, serve, server, settings};
use crate::validation::Validator;

/// The routes, each with a body that asks for `prompt` and these fields.
fn bodies(prompt: &str, fields: &Value) -> [(&'static str, Value); 2] {
    let chat = json!({"messages": [{"role": "user", "content": prompt}]});
    let with = |mut body: Value| {
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    [("/v1/chat/completions", with(chat)), ("/v1/completions", with(json!({"prompt": prompt})))]
}

fn tgi(prompt: &str, parameters: Value) -> Value {
    json!({"inputs": prompt, "parameters": parameters})
}

/// Status and text, of an answer or of an error.
async fn ask(server: &Server, path: &str, body: &Value) -> (StatusCode, String) {
    let reply = server.post(path, &body.to_string()).await;
    let json = reply.json();
    let places = [
        "/generated_text",
        "/choices/0/text",
        "/choices/0/message/content",
        "/text/0",
        "/error/message",
        "/error",
    ];
    let text = places.iter().find_map(|place| json.pointer(place)?.as_str());
    (reply.status, text.unwrap_or_else(|| panic!("{path} {body}: {json}")).to_string())
}

#[tokio::test]
async fn an_answer_that_keeps_to_its_constraint_is_complete() {
    let server = server();
    let number = json!({"type": "integer"});
    for fields in [
        json!({"guided_regex": "[0-9]"}),
        json!({"guided_choice": ["4", "5"]}),
        json!({"guided_grammar": "start: /[0-9]/"}),
        json!({"guided_json": number}),
        json!({"structured_outputs": {"regex": "4"}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": number, "strict": true}}}),
        json!({"response_format": {"type": "regex", "value": "4"}, "n": 2}),
        json!({"response_format": {"type": "json", "value": number}, "temperature": 0.5}),
    ] {
        for (path, body) in bodies("2+2=", &fields) {
            assert_eq!(ask(&server, path, &body).await, (StatusCode::OK, "4".into()), "{path} {body}");
        }
    }
    for parameters in [
        json!({"grammar": {"type": "regex", "value": "[0-9]"}}),
        json!({"grammar": {"type": "json", "value": number}}),
        json!({"grammar": {"type": "json", "value": number.to_string()}}),
        json!({"grammar": {"type": "json_schema", "value": {"name": "n", "schema": number}}}),
        json!({"grammar": {"type": "regex", "value": "4"}, "best_of": 2, "do_sample": true}),
    ] {
        let body = tgi("2+2=", parameters);
        assert_eq!(ask(&server, "/generate", &body).await, (StatusCode::OK, "4".into()), "{body}");
        let events = server.post("/generate_stream", &body.to_string()).await;
        assert!(
            body["parameters"]["best_of"].is_number() || events.body.contains("\"generated_text\":\"4\""),
            "{}",
            events.body
        );
    }
    let vllm = json!({"prompt": "2+2=", "guided_decoding": {"regex": "4"}, "ignore_eos": true});
    assert_eq!(
        ask(&server, "/generate", &vllm).await,
        (StatusCode::OK, "2+2=4".into()),
        "a complete answer ends"
    );
}

#[tokio::test]
async fn bad_constraints_are_refused_beside_running_requests() {
    let server = server();
    for (fields, text) in [
        (json!({"guided_regex": "(a"}), "grammar is not valid: "),
        (json!({"guided_json": {"type": "nonsense"}}), "grammar is not valid: "),
        (
            json!({"guided_json": {"type": "array", "uniqueItems": true}}),
            "grammar is not valid: Unimplemented keys",
        ),
        (json!({"guided_grammar": "start: x"}), "grammar is not valid: "),
        (json!({"guided_choice": []}), "grammar is not valid: a choice has 1 to 10000 texts. Given: 0"),
        (json!({"guided_choice": ["a"], "guided_regex": "a"}), "the output can have only one constraint"),
        (json!({"response_format": {"type": "yaml"}}), "`response_format.type` must be text"),
        (
            json!({"logit_bias": {"600": 1}}),
            "token ids must be < 600, the size of the model's vocabulary. Given: 600",
        ),
        (json!({"logit_bias": {"1": 101}}), "`logit_bias` values must be >= -100.0 and <= 100.0. Given: 101"),
    ] {
        for (path, body) in bodies("x", &fields) {
            let beside = server.post("/generate", r#"{"inputs":"2+2="}"#);
            let ((status, message), beside) = tokio::join!(ask(&server, path, &body), beside);
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path} {body}: {message}");
            assert!(
                message.starts_with(&format!("Input validation error: {text}")),
                "{path} {body}: {message}"
            );
            assert_eq!(beside.body, r#"{"generated_text":"4"}"#);
        }
    }
}

#[tokio::test]
async fn a_shard_that_breaks_the_constraint_fails_that_request() {
    let server = server();
    let body = tgi("x", json!({"grammar": {"type": "regex", "value": "[0-9]+"}}));
    let (status, text) = ask(&server, "/generate", &body).await;
    assert_eq!(status, StatusCode::FAILED_DEPENDENCY);
    assert!(
        text.starts_with("Request failed during generation: the grammar cannot be followed here: "),
        "{text}"
    );
}

#[tokio::test]
async fn constraints_can_be_switched_off() {
    let off = serve(settings(), |serving| {
        let rules = *serving.validator.rules();
        serving.validator = Validator::new(serving.tokenizer.clone(), LIMITS, rules, 600);
    });
    let refused = "Input validation error: grammar is not supported".to_string();
    let body = tgi("x", json!({"grammar": {"type": "regex", "value": "a"}}));
    assert_eq!(ask(&off, "/generate", &body).await, (StatusCode::UNPROCESSABLE_ENTITY, refused.clone()));
    for (path, body) in bodies("x", &json!({"response_format": {"type": "json_object"}})) {
        assert_eq!(
            ask(&off, path, &body).await,
            (StatusCode::UNPROCESSABLE_ENTITY, refused.clone()),
            "{path}"
        );
    }
    for (path, body) in bodies("2+2=", &json!({"response_format": {"type": "text"}, "logit_bias": {"5": 1}}))
    {
        assert_eq!(ask(&off, path, &body).await, (StatusCode::OK, "4".into()), "{path}");
    }
}
