//! Every metric in one table: name, kind, help, labels, buckets. Rendered at /metrics.

/// All series of the process. Cheap to share behind an `Arc`; every method is safe from any task.
pub struct Metrics {}

impl Metrics {
    /// `max_input_tokens` and `max_total_tokens` fix the length histograms' buckets.
    pub fn new(_max_input_tokens: u32, _max_total_tokens: u32) -> Self {
        Self {}
    }
    /// Adds `n` to the counter `name`; `label` is the value of its one label, "" when it has none.
    pub fn add(&self, _name: &str, _label: &str, _n: u64) {}
    /// Sets the gauge `name`.
    pub fn set(&self, _name: &str, _value: f64) {}
    /// Records `value` in the histogram `name`; `label` as in `add`.
    pub fn observe(&self, _name: &str, _label: &str, _value: f64) {}
    /// Prometheus text format.
    pub fn render(&self) -> String {
        String::new()
    }
}
