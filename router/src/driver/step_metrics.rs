//! The batch metrics of the step loop, by TGI's names.
//!
//! Called by the driver after the tokens are delivered, so that no request waits for them. A step
//! counts as "prefill" when it holds prompt tokens, as in TGI, where prompts and decodes share a step too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::{Counters, Engine, PlannedStep};
use crate::metrics::Metrics;

/// What is remembered of a step until its reply.
#[derive(Debug, Clone, Copy)]
pub(super) struct SentStep {
    pub at: Instant,
    /// Input tokens of all rows.
    pub n_tokens: usize,
    prefill: bool,
    n_rows: usize,
    n_admitted: usize,
}

impl SentStep {
    pub fn new(step: &PlannedStep, now: Instant) -> Self {
        let n_tokens = step.rows.iter().map(|row| row.input.n_tokens()).sum();
        Self {
            at: now,
            n_tokens,
            prefill: step.is_prefill(),
            n_rows: step.rows.len(),
            n_admitted: step.n_admitted(),
        }
    }

    fn method(self) -> &'static str {
        if self.prefill { "prefill" } else { "decode" }
    }
}

/// How long a step took, part by part.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepTimes {
    /// From when the shard could begin the step to its reply.
    pub inference: Duration,
    /// The shard's own time.
    pub forward: Duration,
    /// Taking its tokens and letting go of the sequences that ended.
    pub filter: Duration,
    /// Handing out its tokens.
    pub delivery: Duration,
}

pub(super) struct StepMetrics {
    metrics: Arc<Metrics>,
    /// What was recorded of the engine's counters.
    counted: Counters,
}

impl StepMetrics {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, counted: Counters::default() }
    }

    /// A shard is there, with room for so many tokens.
    pub fn planned(&self, max_batch_total_tokens: u64) {
        self.metrics.set("tgi_batch_max_total_tokens", max_batch_total_tokens as f64);
    }

    pub fn lost(&self, cause: &str) {
        self.metrics.add("tgi_shard_lost", cause, 1);
    }

    /// A new shard answered `took` after the one before was lost.
    pub fn recovered(&self, took: Duration) {
        self.metrics.add("tgi_shard_recoveries", "", 1);
        self.metrics.observe("tgi_shard_recovery_duration", "", took.as_secs_f64());
    }

    pub fn step_age(&self, age: Duration) {
        self.metrics.set("tgi_shard_last_step_age", age.as_secs_f64());
    }

    pub fn canary(&self, passed: bool) {
        self.metrics.add("tgi_shard_canary", if passed { "passed" } else { "failed" }, 1);
    }

    pub fn sent(&self, step: SentStep) {
        self.metrics.add("tgi_batch_inference_count", step.method(), 1);
        if step.n_admitted > 0 {
            self.metrics.observe("tgi_batch_next_size", "", step.n_admitted as f64);
            if step.n_admitted < step.n_rows {
                self.metrics.add("tgi_batch_concat", "chunking", 1);
            }
        }
    }

    /// Planning a step took this long. What it does most for is joining new sequences to the others, so it
    /// counts for that, with TGI's one label.
    pub fn joined(&self, step: SentStep, planning: Duration) {
        if 0 < step.n_admitted && step.n_admitted < step.n_rows {
            self.metrics.observe("tgi_batch_concat_duration", "decode", planning.as_secs_f64());
        }
    }

    pub fn answered(&self, step: SentStep, times: StepTimes) {
        let method = step.method();
        self.metrics.add("tgi_batch_inference_success", method, 1);
        for (name, duration) in [
            ("tgi_batch_inference_duration", times.inference),
            ("tgi_batch_forward_duration", times.forward),
            ("tgi_batch_filter_duration", times.filter),
            ("tgi_batch_decode_duration", times.delivery),
        ] {
            self.metrics.observe(name, method, duration.as_secs_f64());
        }
    }

    pub fn failed(&self, step: SentStep) {
        self.metrics.add("tgi_batch_inference_failure", step.method(), 1);
    }

    pub fn gauges(&mut self, engine: &Engine) {
        let (now, before) = (engine.counters(), std::mem::replace(&mut self.counted, engine.counters()));
        for (name, growth) in [
            ("tgi_prompt_tokens_cached", now.prompt_tokens_cached - before.prompt_tokens_cached),
            ("tgi_prompt_tokens_computed", now.prompt_tokens_computed - before.prompt_tokens_computed),
            ("tgi_replayed_tokens", now.replayed_tokens - before.replayed_tokens),
            ("tgi_preemptions", now.preemptions - before.preemptions),
            ("tgi_quarantined", now.quarantined - before.quarantined),
        ] {
            if growth > 0 {
                self.metrics.add(name, "", growth);
            }
        }
        self.metrics.set("tgi_prefix_cache_tokens", engine.n_cached_tokens() as f64);
        self.metrics.set("tgi_batch_current_size", engine.n_running() as f64);
        self.metrics.set("tgi_batch_current_max_tokens", engine.n_reserved_tokens() as f64);
        self.metrics.set("tgi_queue_size", engine.n_waiting() as f64);
    }
}
