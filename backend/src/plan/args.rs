//! Flags of `text-generation-shard plan`: the model's, the router's limits, and the machine to plan for.

use std::path::PathBuf;

use anyhow::bail;
use clap::Parser;
use text_generation_limits::LimitFlags;

use super::machine::{HostMachine, Machine};
use crate::args::Device;
use crate::config::ModelConfig;
use crate::device_thread::Options;
use crate::memory_plan;

/// Says what a model takes in memory, and what fits, from its configuration and the headers of its weights.
#[derive(Debug, Parser)]
#[command(name = "text-generation-shard plan")]
pub struct PlanArgs {
    /// Model folder: config.json and *.safetensors, of which only the headers are read.
    #[arg(long)]
    pub model_path: PathBuf,
    /// What the report calls the model. Left out: the folder's name.
    #[arg(long)]
    pub model_id: Option<String>,
    #[arg(long)]
    pub quantize: Option<String>,
    /// `auto`: a GPU if there is one here or its memory is given, else the CPU.
    #[arg(long, default_value = "auto")]
    pub device: Device,
    #[arg(long, default_value_t = 1.0)]
    pub cuda_memory_fraction: f64,
    /// Memory of the GPU to plan for, which need not be here. Left out: that of the GPU that is.
    #[arg(long)]
    pub gpu_memory_gib: Option<f64>,
    /// Memory that the CPU's shard may take. Left out: what is free here.
    #[arg(long)]
    pub memory_gib: Option<f64>,
    /// Plan from config.json alone.
    #[arg(long)]
    pub dummy_weights: bool,
    #[arg(long)]
    pub max_input_tokens: Option<u32>,
    #[arg(long)]
    pub max_total_tokens: Option<u32>,
    #[arg(long)]
    pub max_batch_prefill_tokens: Option<u32>,
    #[arg(long)]
    pub max_batch_total_tokens: Option<u32>,
    #[arg(long)]
    pub max_batch_size: Option<u32>,
    #[arg(long, default_value_t = 128)]
    pub max_concurrent_requests: usize,
    /// One JSON object instead of a table.
    #[arg(long)]
    pub json: bool,
}

impl PlanArgs {
    pub(super) fn limits(&self) -> LimitFlags {
        LimitFlags {
            max_input_tokens: self.max_input_tokens,
            max_input_length: None,
            max_total_tokens: self.max_total_tokens,
            max_batch_prefill_tokens: self.max_batch_prefill_tokens,
            max_batch_total_tokens: self.max_batch_total_tokens,
            max_batch_size: self.max_batch_size,
            max_concurrent_requests: self.max_concurrent_requests,
            prefix_caching: true,
        }
    }

    pub(super) fn options(&self) -> Options {
        super::options(self)
    }

    /// The machine to plan for.
    pub(super) fn machine(&self, config: &ModelConfig) -> anyhow::Result<Box<dyn Machine>> {
        let fraction = self.cuda_memory_fraction;
        if !(fraction > 0.0 && fraction <= 1.0) {
            bail!("--cuda-memory-fraction must be in (0, 1], got {fraction}");
        }
        let given = self.gpu_memory_gib.map(|gib| bytes("gpu-memory-gib", gib)).transpose()?;
        let memory = self.memory_gib.map(|gib| bytes("memory-gib", gib)).transpose()?;
        if self.device == Device::Cpu && given.is_some() {
            bail!("--gpu-memory-gib says nothing about --device cpu; use --memory-gib");
        }
        let gpu = match self.device {
            Device::Cpu => Err("--device cpu".to_owned()),
            Device::Auto | Device::Cuda => gpu(config, given, fraction),
        };
        match gpu {
            Ok(machine) => Ok(machine),
            Err(reason) if self.device == Device::Cuda || given.is_some() => {
                bail!("cannot plan for a GPU: {reason}")
            }
            Err(_) => Ok(Box::new(HostMachine::new(memory.unwrap_or_else(memory_plan::available_bytes)))),
        }
    }
}

#[cfg(feature = "cuda")]
fn gpu(config: &ModelConfig, given: Option<usize>, fraction: f64) -> Result<Box<dyn Machine>, String> {
    let machine = match given {
        Some(bytes) => crate::cuda::GpuMachine::given(config, bytes, fraction),
        None => {
            crate::cuda::available().map_err(|reason| format!("{reason}; or give its --gpu-memory-gib"))?;
            crate::cuda::GpuMachine::here(config, fraction)
        }
    };
    Ok(Box::new(machine.map_err(|error| error.to_string())?))
}

#[cfg(not(feature = "cuda"))]
fn gpu(_: &ModelConfig, _: Option<usize>, _: f64) -> Result<Box<dyn Machine>, String> {
    Err("this build has no CUDA kernels (cargo feature `cuda`), whose sizes it would have to know".to_owned())
}

/// Bytes of a number of GiB.
fn bytes(flag: &str, gib: f64) -> anyhow::Result<usize> {
    match gib > 0.0 && gib <= 1e6 {
        true => Ok((gib * f64::from(1 << 30)) as usize),
        false => bail!("--{flag} must be a number of GiB above 0, got {gib}"),
    }
}
