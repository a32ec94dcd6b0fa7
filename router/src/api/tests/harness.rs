//! A server in memory: a shard that answers by the prompt, and calls that return whole responses.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use serde_json::Value;
use tower::ServiceExt;

use crate::api::compat::Compat;
use crate::api::meta::Info;
use crate::api::places::Places;
use crate::api::state::{App, EdgeSettings, Serving};
use crate::driver;
use crate::engine::{
    PlannedRow, PlannedStep, RowInput, RowOutcome, RowScores, SampledToken, SeqId, StepOutcome,
};
use crate::metrics::Metrics;
use crate::request::{Limits, Score, ShardInfo, TokenLogprob};
use crate::shard::testing::only_one;
use crate::shard::{ShardError, ShardLink};
use crate::text::testing;
use crate::text::{ChatTemplate, Tokenizer};
use crate::validation::Validator;
use crate::validation::rules::Rules;

/// Limits of the test server: prompts up to 100 tokens, 120 with the answer.
pub const LIMITS: Limits = Limits {
    max_input_tokens: 100,
    max_total_tokens: 120,
    max_batch_prefill_tokens: 100,
    max_batch_total_tokens: 4096,
    max_batch_size: 16,
    prefix_caching: true,
};

const INFO: fn() -> ShardInfo = || ShardInfo {
    architecture: "QWenLMHeadModel".into(),
    dtype: "float32".into(),
    quantize: "awq".into(),
    device_type: "cpu".into(),
    vocab_size: 600,
    max_positions: 3200,
    block_size: 16,
    n_blocks: 256,
    kv_bytes_per_token: 1,
    max_steps_in_flight: 1,
    ntk_seq_length: 0,
    startup: Vec::new(),
    memory: [0; 3],
};

/// What the shard does for one prompt.
#[derive(Clone)]
enum Script {
    /// Generates these tokens, then fails.
    Tokens(Vec<u32>),
    /// Never answers.
    Hang,
}

/// Plays the shard. A prompt (its text) chooses the script; any other prompt gets "hello" again and again.
struct ScriptedShard {
    tokenizer: Arc<Tokenizer>,
    sequences: HashMap<SeqId, Playing>,
    outcomes: (flume::Sender<StepOutcome>, flume::Receiver<StepOutcome>),
}

struct Playing {
    prompt: Vec<u32>,
    /// Its script, once the prompt is complete.
    tokens: Option<std::vec::IntoIter<u32>>,
    top_n: u32,
    seed: u64,
    logprob: f32,
}

pub const HELLO: u32 = 259;

/// Id of the end token.
pub fn end() -> u32 {
    testing::tiktoken().token_id("<|im_end|>").unwrap()
}

fn script(prompt: &str, seed: u64) -> Script {
    let bytes = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
    let ended = |text: &str| [bytes(text), vec![end()]].concat();
    // Chat prompts end with the opened assistant's turn: the user's text decides.
    let user = prompt.split("<|im_start|>user\n").last().and_then(|rest| rest.split("<|im_end|>").next());
    // Where functions can be called, their description comes first.
    let user = user.map(|user| user.rsplit("Question: ").next().unwrap_or(user));
    Script::Tokens(match user.unwrap_or(prompt) {
        "weather" => ended(
            "Thought: Look.\nAction: get_weather\nAction Input: {\"city\": \"Paris\"}\nObservation: rain",
        ),
        "tags" => ended(
            "So:\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n\
             <tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"é\"}}\n</tool_call>",
        ),
        "must" => ended("Action: now\nAction Input: {}"),
        "know" => ended("Thought: I know.\nFinal Answer: 4"),
        "2+2=" => ended("4"),
        "ab" => ended("ab"),
        "euro" => ended("€"),
        "half" => [bytes("a"), vec![0xe2, 0x82, 0xac, 0xe2]].concat(),
        // Heads are likelier.
        "coin" if seed.is_multiple_of(2) => ended("heads"),
        "coin" => ended("tails"),
        "fail now" => vec![],
        "fail later" => bytes("ok"),
        "hang" => return Script::Hang,
        _ => vec![HELLO; 200],
    })
}

impl ScriptedShard {
    fn new() -> Self {
        Self { tokenizer: testing::tiktoken(), sequences: HashMap::new(), outcomes: flume::unbounded() }
    }

    /// `None` when a row's script says never to answer.
    fn run(&mut self, step: &PlannedStep) -> Option<Vec<RowOutcome>> {
        let mut results = Vec::new();
        for row in &step.rows {
            if let Some(start) = &row.start {
                let playing = Playing {
                    prompt: start.cached_ids.clone(),
                    tokens: None,
                    top_n: start.sampling.top_n_tokens,
                    seed: if start.sampling.do_sample { start.sampling.seed } else { 0 },
                    logprob: -0.5,
                };
                self.sequences.insert(row.seq_id, playing);
            }
            let playing = self.sequences.get_mut(&row.seq_id).expect("started");
            if let RowInput::Tokens(ids) = &row.input {
                playing.prompt.extend(ids);
            }
            if row.sample && playing.tokens.is_none() {
                let prompt = self.tokenizer.decode(&playing.prompt, false);
                let Script::Tokens(tokens) = script(&prompt, playing.seed) else { return None };
                if prompt == "coin" {
                    playing.logprob = -0.25 - (playing.seed % 2) as f32;
                }
                playing.tokens = Some(tokens.into_iter());
            }
            results.extend(row.sample.then(|| self.sample(row)));
        }
        Some(results)
    }

    fn sample(&mut self, row: &PlannedRow) -> RowOutcome {
        let playing = self.sequences.get_mut(&row.seq_id).expect("started");
        let result =
            playing.tokens.as_mut().and_then(Iterator::next).ok_or("out of script".to_string()).map(|id| {
                let candidate = |i: u32| TokenLogprob { id: id + i, logprob: playing.logprob - i as f32 };
                SampledToken { token: candidate(0), top: (0..playing.top_n).map(candidate).collect() }
            });
        RowOutcome { seq_id: row.seq_id, result }
    }
}

impl ShardLink for ScriptedShard {
    fn send(&mut self, step: PlannedStep) -> Result<(), ShardError> {
        if let Some(results) = self.run(&step) {
            let outcome = StepOutcome {
                step_id: step.step_id,
                results,
                scores: step.rows.iter().map(scores).collect(),
                compute: Default::default(),
            };
            self.outcomes.0.send(outcome).expect("the receiver is ours");
        }
        Ok(())
    }

    async fn recv(&mut self) -> Result<StepOutcome, ShardError> {
        Ok(self.outcomes.1.recv_async().await.expect("the sender is ours"))
    }
}

/// Every prompt token's log-probability is a hundredth of its id, below zero, and the next id would be likelier.
fn scores(row: &PlannedRow) -> RowScores {
    let score =
        |&id: &u32| Score { logprob: id as f32 / -100.0, best: TokenLogprob { id: id + 1, logprob: -0.25 } };
    RowScores { seq_id: row.seq_id, scores: row.score_ids.iter().map(score).collect() }
}

/// A server of the test.
#[derive(Clone)]
pub struct Server {
    pub router: Router,
    pub metrics: Arc<Metrics>,
}

pub fn settings() -> EdgeSettings {
    EdgeSettings {
        api_keys: None,
        cors_allow_origin: Vec::new(),
        payload_limit: 10_000,
        compute_type: None,
        compat: Compat::Fixed,
        aip_routes: Default::default(),
    }
}

/// A serving server; `edit` changes what it is made of.
pub fn serve(settings: EdgeSettings, edit: impl FnOnce(&mut Serving)) -> Server {
    serve_within(LIMITS, settings, edit)
}

/// `serve` with other limits.
pub fn serve_within(limits: Limits, settings: EdgeSettings, edit: impl FnOnce(&mut Serving)) -> Server {
    let app = App::loading(settings.clone());
    let metrics = Arc::new(Metrics::new(limits.max_input_tokens, limits.max_total_tokens));
    let (source, shard) = only_one(ScriptedShard::new(), INFO(), limits);
    let watching = driver::Settings { step_timeout: None, canary_interval: Duration::ZERO };
    let (engine, driver) = driver::start(source, shard, watching, metrics.clone()).unwrap();
    tokio::spawn(driver);
    let tokenizer = testing::tiktoken();
    let rules = Rules { max_best_of: 2, max_stop_sequences: 4, max_top_n_tokens: 5 };
    let template = testing::with_files(&[("qwen.tiktoken", &testing::tiktoken_file())], |dir| {
        ChatTemplate::from_dir(dir, None).ok()
    });
    let mut serving = Serving {
        engine,
        validator: Validator::new(tokenizer.clone(), limits, rules, INFO().vocab_size).with_constraints(2),
        tokenizer,
        template,
        metrics: metrics.clone(),
        places: Places::new(8),
        info: info(),
        compat_full_text: true,
        compat: settings.compat,
        prefill_flag: false,
        compute_type: HeaderValue::from_static("cpu"),
        longest_silence: Duration::from_secs(15),
    };
    edit(&mut serving);
    app.serve(serving);
    Server { router: crate::api::router(app), metrics }
}

pub fn server() -> Server {
    serve(settings(), |_| {})
}

fn info() -> Info {
    Info {
        model_id: "M".into(),
        model_sha: None,
        model_dtype: "float32".into(),
        model_device_type: "cpu".into(),
        model_pipeline_tag: None,
        max_concurrent_requests: 8,
        max_best_of: 2,
        max_stop_sequences: 4,
        max_input_tokens: 100,
        max_input_length: 100,
        max_total_tokens: 120,
        waiting_served_ratio: 0.3,
        max_batch_total_tokens: 4096,
        max_waiting_tokens: 20,
        max_batch_size: None,
        validation_workers: 2,
        max_client_batch_size: 4,
        router: "text-generation-router",
        version: "1.2.3",
        sha: None,
        docker_label: None,
        startup_seconds: [("read".to_owned(), 0.5)].into(),
    }
}

/// A whole response.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    /// The JSON of each event of a stream, `[DONE]` left out.
    pub fn events(&self) -> Vec<Value> {
        let data = self.body.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    /// The body with random ids and the time replaced: `"id":"X"`, `"created":0`.
    pub fn normalized(&self) -> String {
        let ids = replace_values(&self.body, "\"id\":\"chatcmpl-", '"', "\"id\":\"X");
        let ids = replace_values(&ids, "\"id\":\"cmpl-", '"', "\"id\":\"X");
        let ids = replace_values(&ids, "\"id\":\"call_", '"', "\"id\":\"C");
        replace_values(&ids, "\"created\":", ',', "\"created\":0")
    }
}

/// Replaces each `start...` up to `end` by `with`.
fn replace_values(text: &str, start: &str, end: char, with: &str) -> String {
    let mut parts = text.split(start);
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        out += with;
        out += &part[part.find(end).unwrap()..];
    }
    out
}

impl Server {
    pub async fn request(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        Reply { status: parts.status, headers: parts.headers, body: String::from_utf8(body.into()).unwrap() }
    }

    pub async fn post(&self, path: &str, body: &str) -> Reply {
        self.request(post(path, body)).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        let request = Request::builder().method(Method::GET).uri(path).body(Body::empty()).unwrap();
        self.request(request).await
    }

    /// The value of one line of /metrics.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.metrics.render();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
    }
}

pub fn post(path: &str, body: &str) -> Request<Body> {
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap()
}
