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
    #[arg(long, default_value = "auto")]
    pub device: Device,
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
        if self.device == Device::Cuda {
            bail!("--device cuda: this build has no CUDA kernels; use --device cpu (or auto)");
        }
        if (self.rank, self.world_size) != (0, 1) {
            bail!(
                "--rank {} --world-size {}: the CPU serves a model from one shard; expected --rank 0 --world-size 1",
                self.rank,
                self.world_size
            );
        }
        if let Some(dtype) = self.dtype.filter(|dtype| *dtype != Dtype::Float32) {
            tracing::info!("--dtype {dtype:?}: on the CPU activations stay float32");
        }
        let device = match self.ops {
            OpsChoice::Auto => DeviceKind::Cpu { n_threads: self.n_threads() },
            OpsChoice::Reference => DeviceKind::Reference,
        };
        Ok(Options {
            model_path: self.model_path.clone(),
            quantize: self.quantize.clone(),
            device,
            dummy_weights: self.dummy_weights,
        })
    }

    fn n_threads(&self) -> usize {
        let available = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.threads.unwrap_or_else(available).get()
    }
}
