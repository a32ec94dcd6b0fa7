//! The load of this server by vLLM's names and types: what the Kubernetes Gateway API Inference Extension
//! scrapes from a model server unless told otherwise. Set by `Metrics` at each rendering.

use prometheus::{Gauge, GaugeVec, Opts, Registry};

/// The series.
pub struct Aliases {
    waiting: Gauge,
    running: Gauge,
    kv_usage: Gauge,
}

/// What they say.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub waiting: f64,
    pub running: f64,
    /// 0 to 1.
    pub kv_usage: f64,
}

impl Aliases {
    /// `n_blocks` KV blocks of `block_size` tokens.
    pub fn register(registry: &Registry, model: &str, block_size: u32, n_blocks: u32) -> Self {
        let gauge = |name: &str, help: &str, labels: &[(&str, &str)]| {
            let names: Vec<&str> = labels.iter().map(|(name, _)| *name).collect();
            let values: Vec<&str> = labels.iter().map(|(_, value)| *value).collect();
            let family = GaugeVec::new(Opts::new(name, help), &names).expect(VALID);
            registry.register(Box::new(family.clone())).expect(VALID);
            family.with_label_values(&values)
        };
        let of_model = [("model_name", model)];
        let (block_size, n_blocks) = (block_size.to_string(), n_blocks.to_string());
        let config = [("block_size", block_size.as_str()), ("num_gpu_blocks", n_blocks.as_str())];
        gauge("vllm:cache_config_info", "Always 1; the labels describe the KV cache", &config).set(1.0);
        // Gateways look for it on every server; one without adapters never changes it.
        let adapters = [("max_lora", "0"), ("running_lora_adapters", ""), ("waiting_lora_adapters", "")];
        gauge("vllm:lora_requests_info", "When the adapters in use last changed; there are none", &adapters)
            .set(0.0);
        Self {
            waiting: gauge("vllm:num_requests_waiting", "Sequences waiting", &of_model),
            running: gauge("vllm:num_requests_running", "Sequences running", &of_model),
            kv_usage: gauge("vllm:kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1", &of_model),
        }
    }

    pub fn set(&self, load: Load) {
        self.waiting.set(load.waiting);
        self.running.set(load.running);
        self.kv_usage.set(load.kv_usage);
    }
}

const VALID: &str = "invariant: these names are valid and registered once";
