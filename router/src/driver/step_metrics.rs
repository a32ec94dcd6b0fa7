//! The batch metrics of the step loop, by TGI's names.
//!
//! Called by the driver after the tokens are delivered, so that no request waits for them. A step
//! counts as "prefill" when it holds prompt tokens, as in TGI, where prompts and decodes share a step too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::metrics::Metrics;

/// What is remembered of a step until its reply.
#[derive(Debug, Clone, Copy)]
pub(super) struct SentStep {
    pub prefill: bool,
    pub at: Instant,
}

impl SentStep {
    fn method(self) -> &'static str {
        if self.prefill { "prefill" } else { "decode" }
    }
}

pub(super) struct StepMetrics {
    metrics: Arc<Metrics>,
}

impl StepMetrics {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }

    pub fn sent(&self, step: SentStep, n_admitted: usize) {
        self.metrics.add("tgi_batch_inference_count", step.method(), 1);
        if n_admitted > 0 {
            self.metrics.observe("tgi_batch_next_size", "", n_admitted as f64);
        }
    }

    /// `inference` spans from when the shard could begin the step to its reply, `forward` is the
    /// shard's own time.
    pub fn answered(&self, step: SentStep, inference: Duration, forward: Duration) {
        let method = step.method();
        self.metrics.add("tgi_batch_inference_success", method, 1);
        self.metrics.observe("tgi_batch_inference_duration", method, inference.as_secs_f64());
        self.metrics.observe("tgi_batch_forward_duration", method, forward.as_secs_f64());
    }

    pub fn failed(&self, step: SentStep) {
        self.metrics.add("tgi_batch_inference_failure", step.method(), 1);
    }

    pub fn gauges(&self, engine: &Engine) {
        self.metrics.set("tgi_batch_current_size", engine.n_running() as f64);
        self.metrics.set("tgi_batch_current_max_tokens", engine.n_reserved_tokens() as f64);
        self.metrics.set("tgi_queue_size", engine.n_waiting() as f64);
    }
}
