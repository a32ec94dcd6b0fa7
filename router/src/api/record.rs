//! What is kept of requests: metrics, the `Success` log line, timing headers. Used by every generate route.
//!
//! Never sees a prompt, an answer or a key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::error::ApiError;
use super::pieces::Finish;
use crate::metrics::Metrics;
use crate::request::Timing;
use crate::validation::Accepted;

/// Counts one HTTP request exactly once: as success, as a failure by cause, or, when dropped, as dropped.
pub struct RequestCount {
    metrics: Arc<Metrics>,
    open: bool,
    /// The request's span lasts as long as its count: to the last token of a stream.
    span: Span,
}

impl RequestCount {
    pub fn begin(metrics: &Arc<Metrics>) -> Self {
        metrics.add("tgi_request_count", "", 1);
        Self { metrics: metrics.clone(), open: true, span: Span::current() }
    }

    pub fn succeed(&mut self) {
        if std::mem::take(&mut self.open) {
            self.metrics.add("tgi_request_success", "", 1);
            self.end_span();
        }
    }

    pub fn fail(&mut self, error: &ApiError) {
        if std::mem::take(&mut self.open) {
            self.metrics.add("tgi_request_failure", error.label(), 1);
            self.span.set_attribute("error.type", error.kind());
            // Quoted: parts of the text may be the client's.
            self.span.in_scope(
                || tracing::error!(err = error.label(), error = ?error.to_string(), "Request failed"),
            );
        }
    }

    /// The span's end is when it was left last.
    fn end_span(&self) {
        self.span.in_scope(|| ());
    }

    /// Runs a whole answer under the count.
    pub async fn over<T>(
        metrics: &Arc<Metrics>,
        answer: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        let mut count = Self::begin(metrics);
        let result = answer.await;
        match &result {
            Ok(_) => count.succeed(),
            Err(error) => count.fail(error),
        }
        result
    }
}

impl Drop for RequestCount {
    fn drop(&mut self) {
        if self.open {
            self.metrics.add("tgi_request_failure", "dropped", 1);
            self.span.set_attribute("error.type", "dropped");
            self.end_span();
        }
    }
}

/// Times and lengths of one sequence while it runs.
pub struct SequenceRecord {
    metrics: Arc<Metrics>,
    span: Span,
    arrived: Instant,
    timing: Option<Timing>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    n_tokens: u32,
    times: Times,
}

impl SequenceRecord {
    pub fn new(metrics: Arc<Metrics>, arrived: Instant, accepted: &Accepted) -> Self {
        metrics.observe("tgi_request_input_length", "", f64::from(accepted.input_tokens));
        metrics.observe("tgi_request_max_new_tokens", "", f64::from(accepted.max_new_tokens));
        metrics.add("tgi_prompt_tokens", "", u64::from(accepted.input_tokens));
        let span = Span::current();
        span.set_attribute("gen_ai.usage.input_tokens", i64::from(accepted.input_tokens));
        Self {
            metrics,
            span,
            arrived,
            timing: None,
            first_token: None,
            last_token: None,
            n_tokens: 0,
            times: Times::default(),
        }
    }

    /// A token came; `at` is when the driver got it.
    pub fn token(&mut self, timing: Timing, at: Instant) {
        let (name, since) = match self.last_token {
            None => ("tgi_request_time_to_first_token_duration", self.arrived),
            Some(last) => ("tgi_request_inter_token_duration", last),
        };
        self.metrics.observe(name, "", at.saturating_duration_since(since).as_secs_f64());
        self.metrics.add("tgi_generation_tokens", "", 1);
        // Nothing is speculated: no step accepts more than one token.
        self.metrics.observe("tgi_request_skipped_tokens", "", 0.0);
        self.first_token.get_or_insert(at);
        self.timing = Some(timing);
        self.last_token = Some(at);
        self.n_tokens += 1;
    }

    /// The sequence ended well: histograms and the log line.
    pub fn finish(&mut self, finish: Finish, seed: Option<u64>) {
        let Some(timing) = self.timing else { return };
        let times = Times::new(self.arrived, timing, Instant::now(), self.n_tokens);
        self.times = times;
        self.metrics.add("tgi_request_finish", finish.tgi(), 1);
        self.metrics.observe("tgi_request_generated_tokens", "", f64::from(self.n_tokens));
        for (name, duration) in [
            ("tgi_request_duration", times.total),
            ("tgi_request_validation_duration", times.validation),
            ("tgi_request_queue_duration", times.queue),
            ("tgi_request_inference_duration", times.inference),
            ("tgi_request_mean_time_per_token_duration", times.per_token()),
        ] {
            self.metrics.observe(name, "", duration.as_secs_f64());
        }
        self.trace(finish);
        let generate = tracing::info_span!(
            parent: &self.span,
            "generate",
            total_time = ?times.total,
            validation_time = ?times.validation,
            queue_time = ?times.queue,
            inference_time = ?times.inference,
            time_per_token = ?times.per_token(),
            seed = ?seed
        );
        generate.in_scope(|| tracing::info!("Success"));
    }

    /// Attributes of the request's span, by OpenTelemetry's names; of several sequences the last one's.
    fn trace(&self, finish: Finish) {
        let times = self.times;
        let first = self.first_token.map(|at| at.saturating_duration_since(self.arrived));
        for (name, duration) in [
            ("gen_ai.latency.time_to_first_token", first.unwrap_or_default()),
            ("gen_ai.latency.e2e", times.total),
            ("gen_ai.latency.time_in_queue", times.queue),
            ("gen_ai.latency.time_in_model_inference", times.inference),
        ] {
            self.span.set_attribute(name, duration.as_secs_f64());
        }
        self.span.set_attribute("gen_ai.usage.output_tokens", i64::from(self.n_tokens));
        self.span.set_attribute("gen_ai.response.finish_reasons", finish.tgi());
    }

    pub fn n_tokens(&self) -> u32 {
        self.n_tokens
    }

    /// Zero until `finish`.
    pub fn times(&self) -> Times {
        self.times
    }
}

/// Where a sequence's time went; sums over sequences for requests of several.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Times {
    pub total: Duration,
    /// Arrival to queue.
    pub validation: Duration,
    /// Queue to first step.
    pub queue: Duration,
    /// First step to the end.
    pub inference: Duration,
    pub n_tokens: u32,
}

impl Times {
    pub fn new(arrived: Instant, timing: Timing, end: Instant, n_tokens: u32) -> Self {
        Self {
            total: end.saturating_duration_since(arrived),
            validation: timing.queued.saturating_duration_since(arrived),
            queue: timing.started.saturating_duration_since(timing.queued),
            inference: end.saturating_duration_since(timing.started),
            n_tokens,
        }
    }

    pub fn per_token(&self) -> Duration {
        self.inference / self.n_tokens.max(1)
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            total: self.total + other.total,
            validation: self.validation + other.validation,
            queue: self.queue + other.queue,
            inference: self.inference + other.inference,
            n_tokens: self.n_tokens + other.n_tokens,
        }
    }

    /// TGI's timing headers, in milliseconds, without x-compute-time.
    pub fn headers(&self, prompt_tokens: u32) -> [(HeaderName, HeaderValue); 7] {
        let ms = |duration: Duration| HeaderValue::from(duration.as_millis() as u64);
        [
            (HeaderName::from_static("x-total-time"), ms(self.total)),
            (HeaderName::from_static("x-validation-time"), ms(self.validation)),
            (HeaderName::from_static("x-queue-time"), ms(self.queue)),
            (HeaderName::from_static("x-inference-time"), ms(self.inference)),
            (HeaderName::from_static("x-time-per-token"), ms(self.per_token())),
            (HeaderName::from_static("x-prompt-tokens"), HeaderValue::from(prompt_tokens)),
            (HeaderName::from_static("x-generated-tokens"), HeaderValue::from(self.n_tokens)),
        ]
    }
}

/// Room for all headers of an answer, so that they are not moved as they become more.
const MAX_HEADERS: usize = 16;

/// Headers of every generate route: who computed, and how many characters came in.
pub fn compute_headers(compute_type: &HeaderValue, characters: usize) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(MAX_HEADERS);
    headers.insert(HeaderName::from_static("x-compute-type"), compute_type.clone());
    headers.insert(HeaderName::from_static("x-compute-characters"), HeaderValue::from(characters));
    headers
}

/// `x-compute-time`: seconds.
pub fn compute_time(total: Duration) -> (HeaderName, HeaderValue) {
    let value = HeaderValue::from_str(&total.as_secs_f64().to_string());
    (HeaderName::from_static("x-compute-time"), value.unwrap_or(HeaderValue::from_static("0")))
}
