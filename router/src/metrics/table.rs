//! The one table of metrics: name, kind, help, label, buckets. `metrics::Metrics` registers all of it.
//!
//! Names and labels are TGI's where TGI has the metric (counters without `_total`), so dashboards keep
//! working. A metric that is not a row here does not exist.

/// What a row measures and, for histograms, where its buckets lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram(Buckets),
}

/// Upper bounds of a histogram's buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buckets {
    /// Seconds: 0.0001 * 1.5^k for k = 1..=35 (0.15 ms to 146 s).
    Duration,
    /// Tokens: a hundred equal parts of `max_input_tokens`.
    Input,
    /// Tokens: a hundred equal parts of `max_total_tokens`.
    Total,
    /// Sequences: 1, 2, ... 1024.
    BatchSize,
    /// Small counts: 0, 1, ... 10.
    Small,
}

/// One metric.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    /// Name of its one label, or "".
    pub label: &'static str,
    /// Every value the label can take: each is exported from the start, at zero.
    pub values: &'static [&'static str],
}

const NO_LABEL: &[&str] = &[""];
const METHODS: &[&str] = &["prefill", "decode"];
/// Values of `err`: TGI's, then "unavailable" for requests refused while loading or stopping, and
/// "timeout" for those whose deadline passed.
pub const FAILURES: &[&str] = &[
    "overloaded",
    "validation",
    "template",
    "incomplete",
    "generation",
    "dropped",
    "unavailable",
    "timeout",
];

/// Phases of a start: the shard's, and all of it.
pub const PHASES: &[&str] = &["open", "read", "repack", "plan", "graphs", "ready"];

/// What the shard's memory is for.
pub const MEMORY: &[&str] = &["weights", "kv_cache", "workspace"];

const fn counter(name: &'static str, help: &'static str) -> Row {
    Row { name, kind: Kind::Counter, help, label: "", values: NO_LABEL }
}
const fn gauge(name: &'static str, help: &'static str) -> Row {
    Row { name, kind: Kind::Gauge, help, label: "", values: NO_LABEL }
}
const fn histogram(name: &'static str, buckets: Buckets, help: &'static str) -> Row {
    Row { name, kind: Kind::Histogram(buckets), help, label: "", values: NO_LABEL }
}
const fn by(label: &'static str, values: &'static [&'static str], row: Row) -> Row {
    Row { label, values, ..row }
}

/// Rows of requests are recorded by the HTTP edge, rows of batches, queue and cache by the driver.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    counter("tgi_request_count", "HTTP requests that asked for a generation"),
    counter("tgi_request_success", "HTTP requests answered completely"),
    by("err", FAILURES, counter("tgi_request_failure", "HTTP requests that failed, by cause")),
    by("reason", &["length", "eos_token", "stop_sequence"], counter("tgi_request_finish", "Finished sequences, by reason")),
    counter("tgi_prompt_tokens", "Prompt tokens of accepted sequences"),
    counter("tgi_generation_tokens", "Tokens generated"),
    histogram("tgi_request_duration", Buckets::Duration, "Seconds from a request's arrival to its last token"),
    histogram("tgi_request_validation_duration", Buckets::Duration, "Seconds from arrival to the queue"),
    histogram("tgi_request_queue_duration", Buckets::Duration, "Seconds in the queue"),
    histogram("tgi_request_inference_duration", Buckets::Duration, "Seconds from the first step to the last token"),
    histogram("tgi_request_mean_time_per_token_duration", Buckets::Duration, "Inference seconds divided by tokens"),
    histogram("tgi_request_time_to_first_token_duration", Buckets::Duration, "Seconds from arrival to the first token"),
    histogram("tgi_request_inter_token_duration", Buckets::Duration, "Seconds between a sequence's tokens"),
    histogram("tgi_request_generated_tokens", Buckets::Total, "Tokens generated for a sequence"),
    histogram("tgi_request_input_length", Buckets::Input, "Prompt tokens of an accepted sequence"),
    histogram("tgi_request_max_new_tokens", Buckets::Total, "Most tokens an accepted sequence may generate"),
    histogram("tgi_request_skipped_tokens", Buckets::Small, "Speculated tokens accepted in a step"),
    counter("tgi_prompt_tokens_cached", "Prompt tokens found in the prefix cache"),
    counter("tgi_prompt_tokens_computed", "Prompt tokens computed, each of a sequence's once"),
    counter("tgi_replayed_tokens", "Tokens computed again after a preemption or the loss of a shard"),
    counter("tgi_preemptions", "Sequences that gave up their KV blocks, to be replayed later"),
    counter("tgi_quarantined", "Sequences that ended because they killed the shard repeatedly"),
    gauge("tgi_prefix_cache_tokens", "KV tokens in the prefix cache, those in use included"),
    gauge("tgi_queue_size", "Sequences waiting"),
    histogram("tgi_batch_next_size", Buckets::BatchSize, "Sequences admitted together"),
    gauge("tgi_batch_current_size", "Sequences running"),
    gauge("tgi_batch_current_max_tokens", "KV tokens reserved by running sequences"),
    gauge("tgi_batch_max_total_tokens", "KV tokens there are"),
    gauge("tgi_kv_cache_usage", "Share of the KV tokens that running sequences hold, 0 to 1"),
    by("method", METHODS, counter("tgi_batch_inference_count", "Steps sent to the shard")),
    by("method", METHODS, counter("tgi_batch_inference_success", "Steps that succeeded")),
    by("method", METHODS, counter("tgi_batch_inference_failure", "Steps that failed")),
    by("method", METHODS, histogram("tgi_batch_inference_duration", Buckets::Duration, "Seconds from sending a step to its reply")),
    by("method", METHODS, histogram("tgi_batch_forward_duration", Buckets::Duration, "Seconds the shard computed")),
    by("method", METHODS, histogram("tgi_batch_decode_duration", Buckets::Duration, "Seconds the router took to hand out tokens")),
    by("method", METHODS, histogram("tgi_batch_filter_duration", Buckets::Duration, "Seconds to remove finished sequences")),
    by("method", METHODS, histogram("tgi_batch_concat_duration", Buckets::Duration, "Seconds to join new sequences to the batch")),
    by("reason", &["backpressure", "wait_exceeded", "chunking"], counter("tgi_batch_concat", "New sequences joined to a running batch, by reason")),
    by("phase", PHASES, gauge("tgi_startup_seconds", "Seconds that each phase of the start took; ready: all of it")),
    by("cause", &["ended", "hung", "protocol", "canary"], counter("tgi_shard_lost", "Shards lost, by how it showed")),
    by("part", MEMORY, gauge("tgi_shard_memory_bytes", "Memory that the shard planned, on the GPU if it has one")),
    counter("tgi_shard_recoveries", "Shards that took over from a lost one and answered"),
    histogram("tgi_shard_recovery_duration", Buckets::Duration, "Seconds from the loss of a shard to the first answer of the next one"),
    gauge("tgi_shard_last_step_age", "Seconds since the shard last answered a step, busy or idle"),
    by("result", &["passed", "failed"], counter("tgi_shard_canary", "Tokens computed for nobody while idle, to see that the shard works")),
    by("version", &[env!("CARGO_PKG_VERSION")], gauge("tgi_build_info", "Always 1; the label says which version runs")),
];
