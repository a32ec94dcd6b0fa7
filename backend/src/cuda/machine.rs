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
const H100: sys::QuernDevice = sys::QuernDevice {
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
            graph_bytes: RESERVE_BYTES,
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

    fn max_positions(&self, config: &ModelConfig) -> usize {
        config.max_positions_unwindowed()
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
