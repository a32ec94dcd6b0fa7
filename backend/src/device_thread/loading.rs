//! From a model folder to a decoder on its device, saying how far it is. Called once, at the start of
//! the device thread.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::DeviceKind;
use crate::config::ModelConfig;
use crate::error::LoadError;
use crate::memory_plan;
use crate::model::decoder::Decoder;
use crate::model::load;
use crate::ops::{Footprint, Ops};
use crate::startup::Startup;
use crate::weights::{Checkpoint, DummyWeights, WeightSource};

/// Loading says how far it is at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// What to load, and onto what.
#[derive(Debug, Clone)]
pub struct Options {
    pub model_path: PathBuf,
    pub quantize: Option<String>,
    pub device: DeviceKind,
    /// Make weights up: config.json alone is enough.
    pub dummy_weights: bool,
}

/// How a device presents itself to the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceFacts {
    /// "cpu", "cuda"
    pub device_type: &'static str,
    /// Of activations.
    pub dtype: &'static str,
    /// Steps that it wants queued at once: 1, or 2 for one ahead.
    pub max_steps_in_flight: u32,
}

/// The CPU computes while it would queue: one step at a time.
const CPU: DeviceFacts = DeviceFacts { device_type: "cpu", dtype: "float32", max_steps_in_flight: 1 };

/// What the loaded model is.
#[derive(Debug, Clone)]
pub struct ShardInfo {
    pub config: ModelConfig,
    pub device: DeviceFacts,
    pub kv_bytes_per_token: usize,
    pub weight_bytes: usize,
    /// Of loading; what a plan took is told with it.
    pub startup: Startup,
}

/// A model on the host's `ops`.
pub(super) fn load_model<O: Ops>(
    mut ops: O,
    sizes: &mut impl Footprint,
    options: &Options,
) -> Result<(Decoder<O>, ShardInfo), LoadError> {
    let started = Instant::now();
    let config = read_config(options)?;
    let source = open_weights(options, &config)?;
    let weight_bytes = load::weight_bytes(sizes, &config, &*source)?;
    memory_plan::check_weights_fit(weight_bytes, memory_plan::available_bytes(), "of memory")?;
    source.read_ahead();
    let open = started.elapsed();
    let weights = load::load(&mut ops, &config, &*source, &mut progress())?;
    tracing::info!("Loaded {} MB of weights in {:.2?}", weight_bytes / 1_000_000, started.elapsed());
    let startup = Startup { open, repack: started.elapsed().saturating_sub(open), ..Startup::default() };
    let kv_bytes_per_token = memory_plan::kv_bytes_per_token(&config, O::KV_ELEMENT_BYTES);
    let info = ShardInfo { config: config.clone(), device: CPU, kv_bytes_per_token, weight_bytes, startup };
    Ok((Decoder::new(ops, config, weights), info))
}

/// What the model is, said in the log.
pub(crate) fn read_config(options: &Options) -> Result<ModelConfig, LoadError> {
    let config = ModelConfig::from_dir(&options.model_path, options.quantize.as_deref())?;
    tracing::info!(
        "Loading {}: {}, {} layers, {}",
        options.model_path.display(),
        config.architecture,
        config.n_layers,
        config.quantization.name()
    );
    Ok(config)
}

/// The tensors of the model folder, or made-up ones.
pub(crate) fn open_weights(
    options: &Options,
    config: &ModelConfig,
) -> Result<Box<dyn WeightSource>, LoadError> {
    if options.dummy_weights {
        tracing::warn!("The weights are made up (--dummy-weights): what this model says means nothing");
        return Ok(Box::new(DummyWeights::new(config)));
    }
    Ok(Box::new(Checkpoint::open(&options.model_path)?))
}

/// Says how far loading is, now and then.
pub(crate) fn progress() -> impl FnMut(usize, usize) {
    let mut told = Instant::now();
    move |done, all| {
        if told.elapsed() >= PROGRESS_INTERVAL {
            told = Instant::now();
            tracing::info!("Loading weights: {} %", done * 100 / all.max(1));
        }
    }
}
