//! From a model folder to a decoder on its device, saying how far it is. Called once, at the start of
//! the device thread.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::DeviceKind;
use crate::config::{ModelConfig, Quantization};
use crate::error::LoadError;
use crate::memory_plan;
use crate::model::decoder::Decoder;
use crate::model::load;
use crate::ops::Ops;
use crate::weights::Checkpoint;

/// Loading says how far it is at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// What to load, and onto what.
#[derive(Debug, Clone)]
pub struct Options {
    pub model_path: PathBuf,
    pub quantize: Option<String>,
    pub device: DeviceKind,
}

/// What the loaded model is.
#[derive(Debug, Clone)]
pub struct ShardInfo {
    pub config: ModelConfig,
    pub kv_bytes_per_token: usize,
    pub weight_bytes: usize,
}

pub(super) fn load_model<O: Ops>(
    mut ops: O,
    options: &Options,
) -> Result<(Decoder<O>, ShardInfo), LoadError> {
    let started = Instant::now();
    let config = ModelConfig::from_dir(&options.model_path, options.quantize.as_deref())?;
    let quantization = match &config.quantization {
        Quantization::None => "plain weights".to_owned(),
        Quantization::Awq { group_size, .. } => format!("AWQ, groups of {group_size}"),
    };
    tracing::info!(
        "Loading {}: {}, {} layers, {quantization}",
        options.model_path.display(),
        config.architecture,
        config.n_layers
    );
    let checkpoint = Checkpoint::open(&options.model_path)?;
    let weight_bytes = checkpoint.total_bytes();
    memory_plan::check_weights_fit(weight_bytes, memory_plan::available_bytes())?;
    let mut told = started;
    let mut progress = |done: usize, all: usize| {
        if told.elapsed() >= PROGRESS_INTERVAL {
            told = Instant::now();
            tracing::info!("Loading weights: {} %", done * 100 / all.max(1));
        }
    };
    let weights = load::load(&mut ops, &config, &checkpoint, &mut progress)?;
    tracing::info!("Loaded {} MB of weights in {:.2?}", weight_bytes / 1_000_000, started.elapsed());
    let kv_bytes_per_token = memory_plan::kv_bytes_per_token(&config, O::KV_ELEMENT_BYTES);
    let info = ShardInfo { config: config.clone(), kv_bytes_per_token, weight_bytes };
    Ok((Decoder::new(ops, config, weights), info))
}
