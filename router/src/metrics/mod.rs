//! The metrics of the process, rendered at /metrics. Rows live in `table`; this file keeps their values.
//!
//! The HTTP edge and the driver record by name. An unknown name is a mistake of the caller: it stops a
//! debug build and is ignored in a release build, where a metric must never stop a request.

pub mod table;
mod vllm;

use std::sync::OnceLock;

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts,
    Registry, TextEncoder, core::Collector, process_collector::ProcessCollector,
};

use rustc_hash::FxHashMap;
use table::{Buckets, Kind, Row, TABLE};

/// All series of the process. Cheap to share behind an `Arc`; every method is safe from any task.
pub struct Metrics {
    registry: Registry,
    series: FxHashMap<&'static str, Vec<(&'static str, Series)>>,
    vllm: OnceLock<vllm::Aliases>,
}

enum Series {
    Counter(IntCounter),
    Gauge(Gauge),
    Histogram(Histogram),
}

impl Metrics {
    /// `max_input_tokens` and `max_total_tokens` fix the length histograms' buckets.
    pub fn new(max_input_tokens: u32, max_total_tokens: u32) -> Self {
        let registry = Registry::new();
        let series = TABLE
            .iter()
            .map(|row| (row.name, register(&registry, row, max_input_tokens, max_total_tokens)))
            .collect();
        // Memory, processor time and files of this process; fails only for a name that is taken.
        let _ = registry.register(Box::new(ProcessCollector::for_self()));
        let metrics = Self { registry, series, vllm: OnceLock::new() };
        metrics.set_labelled("tgi_build_info", env!("CARGO_PKG_VERSION"), 1.0);
        metrics
    }

    /// Adds `n` to the counter `name`; `label` is the value of its one label, "" when it has none.
    pub fn add(&self, name: &str, label: &str, n: u64) {
        match self.find(name, label) {
            Some(Series::Counter(counter)) => counter.inc_by(n),
            _ => debug_assert!(false, "no counter {name} with label {label:?}"),
        }
    }

    /// Sets the gauge `name`.
    pub fn set(&self, name: &str, value: f64) {
        self.set_labelled(name, "", value);
    }

    /// Records `value` in the histogram `name`; `label` as in `add`.
    pub fn observe(&self, name: &str, label: &str, value: f64) {
        match self.find(name, label) {
            Some(Series::Histogram(histogram)) => histogram.observe(value),
            _ => debug_assert!(false, "no histogram {name} with label {label:?}"),
        }
    }

    /// From now on five series are also exported by vLLM's names, which gateways for models look for. The first call
    /// counts.
    pub fn add_vllm_aliases(&self, model: &str, block_size: u32, n_blocks: u32) {
        self.vllm.get_or_init(|| vllm::Aliases::register(&self.registry, model, block_size, n_blocks));
    }

    /// Prometheus text format.
    pub fn render(&self) -> String {
        let load = self.load();
        self.set("tgi_kv_cache_usage", load.kv_usage);
        if let Some(aliases) = self.vllm.get() {
            aliases.set(load);
        }
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!("metrics cannot be written: {error}");
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn load(&self) -> vllm::Load {
        let value = |name| match self.find(name, "") {
            Some(Series::Gauge(gauge)) => gauge.get(),
            _ => 0.0,
        };
        let kv_tokens = value("tgi_batch_max_total_tokens").max(1.0);
        vllm::Load {
            waiting: value("tgi_queue_size"),
            running: value("tgi_batch_current_size"),
            kv_usage: value("tgi_batch_current_max_tokens") / kv_tokens,
        }
    }

    /// The same for one value of its label.
    pub fn set_labelled(&self, name: &str, label: &str, value: f64) {
        match self.find(name, label) {
            Some(Series::Gauge(gauge)) => gauge.set(value),
            _ => debug_assert!(false, "no gauge {name} with label {label:?}"),
        }
    }

    fn find(&self, name: &str, label: &str) -> Option<&Series> {
        self.series.get(name)?.iter().find(|(value, _)| *value == label).map(|(_, series)| series)
    }
}

/// Registers one row and makes a series for each value of its label, so that all start at zero.
fn register(registry: &Registry, row: &Row, max_input: u32, max_total: u32) -> Vec<(&'static str, Series)> {
    let opts = Opts::new(row.name, row.help);
    match row.kind {
        Kind::Counter => {
            let family = IntCounterVec::new(opts, names(row)).expect(VALID);
            collect(registry, row, &family, |label| Series::Counter(family.with_label_values(label)))
        }
        Kind::Gauge => {
            let family = GaugeVec::new(opts, names(row)).expect(VALID);
            collect(registry, row, &family, |label| Series::Gauge(family.with_label_values(label)))
        }
        Kind::Histogram(buckets) => {
            let opts = HistogramOpts::from(opts).buckets(bounds(buckets, max_input, max_total));
            let family = HistogramVec::new(opts, names(row)).expect(VALID);
            collect(registry, row, &family, |label| Series::Histogram(family.with_label_values(label)))
        }
    }
}

/// The table is fixed and a test registers all of it.
const VALID: &str = "invariant: the metrics table holds valid, distinct names";

fn names(row: &'_ Row) -> &'_ [&'static str] {
    if row.label.is_empty() { &[] } else { std::slice::from_ref(&row.label) }
}

fn collect<C: Collector + Clone + 'static>(
    registry: &Registry,
    row: &Row,
    family: &C,
    series: impl Fn(&[&str]) -> Series,
) -> Vec<(&'static str, Series)> {
    registry.register(Box::new(family.clone())).expect(VALID);
    let labelled = |value: &'static &'static str| match row.label {
        "" => (*value, series(&[])),
        _ => (*value, series(&[value])),
    };
    row.values.iter().map(labelled).collect()
}

fn bounds(buckets: Buckets, max_input: u32, max_total: u32) -> Vec<f64> {
    let hundredths = |n: u32| (1..=100).map(|i| f64::from(n.max(1)) / 100.0 * f64::from(i)).collect();
    match buckets {
        Buckets::Duration => (1..=35).map(|k| 0.0001 * 1.5f64.powi(k)).collect(),
        Buckets::Input => hundredths(max_input),
        Buckets::Total => hundredths(max_total),
        Buckets::BatchSize => (1..=1024).map(f64::from).collect(),
        Buckets::Small => (0..=10).map(f64::from).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_exported_from_the_start() {
        let text = Metrics::new(1024, 2048).render();
        for row in TABLE {
            let kind = match row.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            assert!(text.contains(&format!("# TYPE {} {kind}\n", row.name)), "{}", row.name);
            assert!(text.contains(&format!("# HELP {} {}\n", row.name, row.help)), "{}", row.name);
            for value in row.values {
                let suffix = if matches!(row.kind, Kind::Histogram(_)) { "_count" } else { "" };
                let label = if row.label.is_empty() {
                    String::new()
                } else {
                    format!("{{{}=\"{value}\"}}", row.label)
                };
                assert!(text.contains(&format!("\n{}{suffix}{label} ", row.name)), "{} {value}", row.name);
            }
        }
    }

    #[test]
    fn values_are_kept() {
        let metrics = Metrics::new(100, 200);
        metrics.add("tgi_request_failure", "overloaded", 2);
        metrics.set("tgi_queue_size", 7.0);
        metrics.observe("tgi_batch_forward_duration", "decode", 0.0003);
        metrics.observe("tgi_request_input_length", "", 42.0);
        let text = metrics.render();
        for line in [
            "tgi_request_failure{err=\"overloaded\"} 2\n",
            "tgi_request_failure{err=\"validation\"} 0\n",
            "tgi_queue_size 7\n",
            "tgi_batch_forward_duration_bucket{method=\"decode\",le=\"+Inf\"} 1\n",
            "tgi_batch_forward_duration_count{method=\"prefill\"} 0\n",
            "tgi_request_input_length_bucket{le=\"41\"} 0\n",
            "tgi_request_input_length_bucket{le=\"42\"} 1\n",
            concat!("tgi_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n"),
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn vllms_names_say_the_same() {
        let metrics = Metrics::new(100, 200);
        assert!(!metrics.render().contains("vllm:"));
        metrics.add_vllm_aliases("m\"x", 32, 128);
        metrics.set("tgi_queue_size", 7.0);
        metrics.set("tgi_batch_current_size", 3.0);
        metrics.set("tgi_batch_current_max_tokens", 1024.0);
        metrics.set("tgi_batch_max_total_tokens", 4096.0);
        let text = metrics.render();
        for line in [
            "# TYPE vllm:num_requests_waiting gauge\n",
            "vllm:num_requests_waiting{model_name=\"m\\\"x\"} 7\n",
            "vllm:num_requests_running{model_name=\"m\\\"x\"} 3\n",
            "vllm:kv_cache_usage_perc{model_name=\"m\\\"x\"} 0.25\n",
            "vllm:cache_config_info{block_size=\"32\",num_gpu_blocks=\"128\"} 1\n",
            "vllm:lora_requests_info{max_lora=\"0\",running_lora_adapters=\"\",waiting_lora_adapters=\"\"} 0\n",
            "tgi_kv_cache_usage 0.25\n",
            "process_resident_memory_bytes ",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn duration_buckets_are_tgis() {
        let bounds = bounds(Buckets::Duration, 1, 1);
        assert_eq!(bounds.len(), 35);
        assert!((bounds[0] - 0.00015).abs() < 1e-9);
        assert!((bounds[34] - 145.61).abs() < 0.01);
    }

    #[test]
    #[should_panic(expected = "no counter tgi_nothing")]
    #[cfg(debug_assertions)]
    fn an_unknown_name_stops_a_debug_build() {
        Metrics::new(1, 2).add("tgi_nothing", "", 1);
    }
}
