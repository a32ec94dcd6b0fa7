//! A GPU to plan for, which need not be in this machine: counts with the code that allocates. Called by `plan`.

use super::driver::Gpu;
use super::executor::sizes::{self, RESERVE_BYTES};
use super::ops::Places;
use super::sys;
use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::executor::Budget;
use crate::memory_plan::{self, MemoryPlan};
use crate::model::load;
use crate::ops::Allocate;
use crate::plan::{Machine, Memory};
use crate::weights::WeightSource;

/// What the driver, its context and the kernels take of an H100 before anything is allocated.
const DRIVER_BYTES: usize = 538 << 20;
/// Device memory is given out in pages of this size.
const PAGE_BYTES: usize = 2 << 20;

/// The GPU whose workspaces are counted where there is none.
pub(super) const H100: sys::QuernDevice = sys::QuernDevice {
    ordinal: 0,
    compute_capability: 90,
    sm_count: 132,
    smem_per_block: 227 << 10,
    l2_bytes: 50 << 20,
    clusters: [132, 66, 30, 14],
    pdl: 1,
    force_portable: 0,
};

/// See the module.
pub struct GpuMachine {
    places: Places,
    memory: Memory,
}

impl GpuMachine {
    /// A GPU with `total_bytes`, of which `fraction` may be used; in everything else an H100.
    pub fn given(config: &ModelConfig, total_bytes: usize, fraction: f64) -> Result<GpuMachine, LoadError> {
        let name = "GPU (workspaces as on an H100)".to_owned();
        GpuMachine::new(config, (H100, name), (total_bytes, DRIVER_BYTES, fraction))
    }

    /// The GPU of this machine; `available()` must have said yes.
    pub fn here(config: &ModelConfig, fraction: f64) -> Result<GpuMachine, LoadError> {
        let gpu = Gpu::open()?;
        let (free, total) = gpu.memory()?;
        GpuMachine::new(config, (gpu.device, gpu.name), (total, total - free, fraction))
    }

    fn new(
        config: &ModelConfig,
        (device, name): (sys::QuernDevice, String),
        (total_bytes, used_bytes, fraction): (usize, usize, f64),
    ) -> Result<GpuMachine, LoadError> {
        let usable_bytes = (total_bytes as f64 * fraction) as usize;
        let places = Places::measuring(device, config)?;
        let memory = Memory {
            device: "cuda",
            name,
            total_bytes,
            usable_bytes,
            used_bytes,
            reserve_bytes: RESERVE_BYTES,
        };
        Ok(GpuMachine { places, memory })
    }
}

impl Machine for GpuMachine {
    fn memory(&self) -> Memory {
        self.memory.clone()
    }

    fn kv_element_bytes(&self) -> usize {
        Places::KV_ELEMENT_BYTES
    }

    fn weight_bytes(&mut self, config: &ModelConfig, source: &dyn WeightSource) -> Result<usize, LoadError> {
        load::weight_bytes(&mut self.places, config, source)
    }

    fn plan(
        &mut self,
        config: &ModelConfig,
        budget: &Budget,
        weight_bytes: usize,
    ) -> Result<MemoryPlan, LoadError> {
        let available = self.memory.usable_bytes.saturating_sub(self.memory.used_bytes);
        memory_plan::check_weights_fit(weight_bytes, available, "on the GPU")?;
        let rest = available.saturating_sub(weight_bytes.next_multiple_of(PAGE_BYTES));
        sizes::plan(&mut self.places, config, budget, rest).map(|(_, plan)| plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Quantization;
    use crate::weights::DummyWeights;
    use serde_json::json;

    /// Qwen-14B-Chat's dimensions, plain or in 4-bit AWQ.
    fn qwen(quantized: bool) -> ModelConfig {
        let awq = json!({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true});
        let json = json!({
            "architectures": ["QWenLMHeadModel"], "hidden_size": 5120, "intermediate_size": 27392, "kv_channels": 128,
            "max_position_embeddings": 8192, "num_attention_heads": 40, "num_hidden_layers": 40, "seq_length": 2048,
            "tie_word_embeddings": false, "vocab_size": 152_064,
            "quantization_config": if quantized { awq } else { json!(null) },
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), json.to_string()).unwrap();
        ModelConfig::from_dir(dir.path(), None).unwrap()
    }

    /// integration-tests/gpu/results/2026-11-23-H100.json: what an H100 of 79.1 GiB then took.
    #[test]
    fn a_plan_without_a_gpu_is_what_an_h100_took() {
        let config = qwen(true);
        let mut machine = GpuMachine::given(&config, (79.1 * 1024.0 * 1048576.0) as usize, 1.0).unwrap();
        let weights = machine.weight_bytes(&config, &DummyWeights::new(&config)).unwrap();
        assert_eq!(format!("{:.4}", weights as f64 / f64::from(1 << 30)), "9.0032");
        let budget = Budget {
            max_step_tokens: 4096 + 128,
            max_step_rows: 128,
            max_batch_total_tokens: 0,
            max_total_tokens: 8192,
        };
        let plan = machine.plan(&config, &budget, weights).unwrap();
        let share = plan.kv_bytes as f64 / 73_610_035_200.0;
        assert!((0.99..=1.01).contains(&share), "{plan:?}");
        assert!(plan.workspace_bytes < 633_363_712, "graphs took the rest: {plan:?}");
        assert_eq!(machine.plan(&config, &budget, weights).unwrap(), plan, "planning leaves nothing behind");
    }

    #[test]
    fn dense_layers_take_their_float16_and_biases() {
        let config = qwen(false);
        assert_eq!(config.quantization, Quantization::None);
        let mut machine = GpuMachine::given(&config, 80 << 30, 1.0).unwrap();
        let weights = machine.weight_bytes(&config, &DummyWeights::new(&config)).unwrap();
        let layer = 5120 * 15_360 + 5120 * 5120 + 5120 * 27_392 + 13_696 * 5120 + 15_360 + 2 * 5120;
        assert_eq!(weights, 2 * (40 * layer + 5120 + 2 * 152_064 * 5120));
    }
}
