//! The machines that a plan can be made for: this host here, a GPU in `cuda::machine`.

use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::executor::{Budget, HOST_KV_ELEMENT_BYTES, host_plan_inputs};
use crate::memory_plan::{self, MemoryPlan};
use crate::model::load;
use crate::ops::cpu::CpuSizes;
use crate::weights::WeightSource;

/// What a machine has.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// "cpu", "cuda"
    pub device: &'static str,
    /// What it is called, or what was assumed of it.
    pub name: String,
    pub total_bytes: usize,
    /// Of these, what a shard may take with everything that is in use.
    pub usable_bytes: usize,
    /// In use before the weights come: the driver's context, other processes.
    pub used_bytes: usize,
    /// Kept free for captured graphs and for what the driver takes by itself.
    pub reserve_bytes: usize,
}

/// Counts for one machine as its device does.
pub trait Machine {
    fn memory(&self) -> Memory;
    /// Bytes of a stored K or V element.
    fn kv_element_bytes(&self) -> usize;
    /// Called first: what is planned later depends on it.
    fn weight_bytes(&mut self, config: &ModelConfig, source: &dyn WeightSource) -> Result<usize, LoadError>;
    /// What the device's `Plan` would fix beside weights of `weight_bytes`.
    fn plan(
        &mut self,
        config: &ModelConfig,
        budget: &Budget,
        weight_bytes: usize,
    ) -> Result<MemoryPlan, LoadError>;
}

/// A CPU with its memory.
pub struct HostMachine {
    bytes: usize,
}

impl HostMachine {
    /// `bytes` may be taken.
    pub fn new(bytes: usize) -> HostMachine {
        HostMachine { bytes }
    }
}

impl Machine for HostMachine {
    fn memory(&self) -> Memory {
        Memory {
            device: "cpu",
            name: "CPU".to_owned(),
            total_bytes: self.bytes,
            usable_bytes: self.bytes,
            used_bytes: 0,
            reserve_bytes: 0,
        }
    }

    fn kv_element_bytes(&self) -> usize {
        HOST_KV_ELEMENT_BYTES
    }

    fn weight_bytes(&mut self, config: &ModelConfig, source: &dyn WeightSource) -> Result<usize, LoadError> {
        load::weight_bytes(&mut CpuSizes::default(), config, source)
    }

    fn plan(
        &mut self,
        config: &ModelConfig,
        budget: &Budget,
        weight_bytes: usize,
    ) -> Result<MemoryPlan, LoadError> {
        memory_plan::check_weights_fit(weight_bytes, self.bytes, "of memory")?;
        memory_plan::plan(config, &host_plan_inputs(config, budget, self.bytes - weight_bytes))
    }
}
