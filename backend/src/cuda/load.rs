//! From a model folder to an executor on the GPU. Called once, by the device thread.

use std::time::Instant;

use super::driver::Gpu;
use super::executor::CudaExecutor;
use super::executor::sizes::RESERVE_BYTES;
use super::ops::{CudaOps, Places};
use crate::device_thread::{self, DeviceFacts, Options, ShardInfo};
use crate::error::LoadError;
use crate::memory_plan::{self, mib};
use crate::model::decoder::Decoder;
use crate::model::load;
use crate::ops::Allocate;
use crate::startup::Startup;

/// The device computes one step while the next one waits behind it.
const FACTS: DeviceFacts = DeviceFacts { device_type: "cuda", dtype: "float16", max_steps_in_flight: 2 };

/// Loads the model of `options` onto device 0; `memory_fraction` of it is the shard's.
///
/// # Errors
/// A folder that cannot be served, a model without kernels, too little memory, a device that fails.
pub fn load(options: &Options, memory_fraction: f64) -> Result<(CudaExecutor, ShardInfo), LoadError> {
    let started = Instant::now();
    let config = device_thread::read_config(options)?;
    let gpu = Gpu::open()?;
    let source = device_thread::open_weights(options, &config)?;
    let mut sizes = Places::measuring(gpu.device, &config)?;
    let packed_bytes = load::weight_bytes(&mut sizes, &config, &*source)?;
    let available = gpu.available(memory_fraction)?;
    tell_plan(&gpu, packed_bytes, available)?;
    memory_plan::check_weights_fit(packed_bytes, available, "on the GPU")?;
    source.read_ahead();
    let mut ops = CudaOps::new(gpu, &config, packed_bytes)?;
    let open = started.elapsed();
    let weights = load::load(&mut ops, &config, &*source, &mut device_thread::progress())?;
    let (weight_bytes, read) = ops.finish_loading()?;
    let repack = started.elapsed().saturating_sub(open + read);
    tracing::info!("Packed {} of weights in {:.2?}", mib(weight_bytes), started.elapsed());
    let info = ShardInfo {
        config: config.clone(),
        device: FACTS,
        kv_bytes_per_token: memory_plan::kv_bytes_per_token(&config, CudaOps::KV_ELEMENT_BYTES),
        weight_bytes,
        startup: Startup { open, read, repack, ..Startup::default() },
    };
    let executor = CudaExecutor::new(Decoder::new(ops, config, weights), memory_fraction);
    let executor = executor.map_err(|error| LoadError::Device {
        op: "start the completion thread",
        detail: error.to_string(),
    })?;
    Ok((executor, info))
}

/// Says before loading where the GPU's memory will go when nobody asks for a smaller KV cache.
fn tell_plan(gpu: &Gpu, packed_bytes: usize, available: usize) -> Result<(), LoadError> {
    let (free, total) = gpu.memory()?;
    let rest = available.saturating_sub(packed_bytes + RESERVE_BYTES);
    tracing::info!(
        "{}: {}, {} in use; planned: weights {}, KV cache and workspace {}, in all {}",
        gpu.name,
        mib(total),
        mib(total - free),
        mib(packed_bytes),
        mib(rest),
        mib(total - free + packed_bytes + rest)
    );
    Ok(())
}
