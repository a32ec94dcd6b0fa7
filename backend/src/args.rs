//! The shard's flags. Parsed by `main`; the launcher passes them, people may too.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Parser, ValueEnum};

use crate::device_thread::{DeviceKind, Options};

/// Serves one shard of a model over a unix socket. Started by text-generation-launcher.
#[derive(Debug, Parser)]
#[command(name = "text-generation-shard", version)]
pub struct Args {
    /// Model folder: config.json and *.safetensors.
    #[arg(long)]
    pub model_path: PathBuf,
    /// Socket to serve on. It exists once the model is loaded.
    #[arg(long)]
    pub uds_path: PathBuf,
    /// How the weights are quantized; must agree with the model folder. Left out: as the folder says.
    #[arg(long)]
    pub quantize: Option<String>,
    /// Accepted for all devices; on the CPU activations are float32 whatever it says.
    #[arg(long)]
    pub dtype: Option<Dtype>,
    /// `auto`: the GPU if there is one that this build has kernels for, else the CPU.
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// Share of the GPU's memory that the weights, the KV cache and the workspace may take together.
    #[arg(long, default_value_t = 1.0)]
    pub cuda_memory_fraction: f64,
    /// `reference` is slow and plain, for comparisons.
    #[arg(long, default_value = "auto")]
    pub ops: OpsChoice,
    /// For benchmarks: make the weights up (random, of the model's shape); config.json alone is enough.
    #[arg(long)]
    pub dummy_weights: bool,
    /// Worker threads of the CPU. Left out: one for each core that this process may use.
    #[arg(long)]
    pub threads: Option<NonZeroUsize>,
    #[arg(long, default_value_t = 0)]
    pub rank: usize,
    #[arg(long, default_value_t = 1)]
    pub world_size: usize,
    /// Logs as JSON, one object a line.
    #[arg(long)]
    pub json_output: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    Float16,
    Bfloat16,
    Float32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Device {
    Auto,
    Cpu,
    Cuda,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OpsChoice {
    Auto,
    Reference,
}

impl Args {
    /// What the device thread is to load, if this build can do what the flags ask for.
    pub fn options(&self) -> anyhow::Result<Options> {
        if (self.rank, self.world_size) != (0, 1) {
            bail!(
                "--rank {} --world-size {}: a model is served from one shard; expected --rank 0 --world-size 1",
                self.rank,
                self.world_size
            );
        }
        let device = self.device_kind()?;
        self.tell_dtype(device);
        Ok(Options {
            model_path: self.model_path.clone(),
            quantize: self.quantize.clone(),
            device,
            dummy_weights: self.dummy_weights,
        })
    }

    fn device_kind(&self) -> anyhow::Result<DeviceKind> {
        let cpu = match self.ops {
            OpsChoice::Auto => DeviceKind::Cpu { n_threads: self.n_threads() },
            OpsChoice::Reference => DeviceKind::Reference,
        };
        if self.device == Device::Cpu || self.ops == OpsChoice::Reference && self.device == Device::Auto {
            return Ok(cpu);
        }
        match self.gpu() {
            Ok(gpu) => Ok(gpu),
            Err(reason) if self.device == Device::Cuda => {
                bail!("--device cuda: {reason}; or use --device cpu")
            }
            Err(reason) => {
                tracing::info!("Using the CPU: {reason}");
                Ok(cpu)
            }
        }
    }

    /// The GPU, or why there is none.
    #[cfg(feature = "cuda")]
    fn gpu(&self) -> Result<DeviceKind, String> {
        let memory_fraction = self.cuda_memory_fraction;
        if !(memory_fraction > 0.0 && memory_fraction <= 1.0) {
            return Err(format!("--cuda-memory-fraction must be in (0, 1], got {memory_fraction}"));
        }
        match crate::cuda::available() {
            Ok(()) => Ok(DeviceKind::Cuda { memory_fraction }),
            Err(reason) => Err(reason.to_string()),
        }
    }

    #[cfg(not(feature = "cuda"))]
    fn gpu(&self) -> Result<DeviceKind, String> {
        Err("this build has no CUDA kernels (cargo feature `cuda`)".to_owned())
    }

    fn tell_dtype(&self, device: DeviceKind) {
        let (used, name) = match device {
            #[cfg(feature = "cuda")]
            DeviceKind::Cuda { .. } => (Dtype::Float16, "GPU"),
            _ => (Dtype::Float32, "CPU"),
        };
        if let Some(dtype) = self.dtype.filter(|dtype| *dtype != used) {
            tracing::info!("--dtype {dtype:?}: on the {name} activations stay {used:?}");
        }
    }

    fn n_threads(&self) -> usize {
        let available = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.threads.unwrap_or_else(available).get()
    }
}
