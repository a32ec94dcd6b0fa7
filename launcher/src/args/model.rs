//! Which model to serve, in which form, and where it runs. Part of `Args`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use clap::builder::BoolishValueParser;

use super::values::{Device, OpsChoice, Quantization};

/// Flags that the launcher resolves to a folder and hands to the shard.
#[derive(Debug, Clone, ClapArgs)]
pub struct ModelArgs {
    /// A local folder, or the id of a model on the Hugging Face Hub, fetched if it is not in the cache.
    /// Without it the small starter model is fetched once and served.
    #[arg(long, env)]
    pub model_id: Option<String>,
    /// Branch, tag or commit of a Hub id.
    #[arg(long, env)]
    pub revision: Option<String>,
    /// How the checkpoint is quantised; read from its configuration when absent.
    #[arg(long, env, value_enum)]
    pub quantize: Option<Quantization>,
    /// Whether to split the model over several shards.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub sharded: Option<bool>,
    /// Number of shards.
    #[arg(long, env)]
    pub num_shard: Option<usize>,
    /// Cache folder of Hub snapshots, instead of the one that HF_HOME names.
    #[arg(long, env)]
    pub huggingface_hub_cache: Option<PathBuf>,
    /// Base name of the unix sockets between router and shards: `<path>-<rank>`.
    /// By default a new private folder in the temporary directory.
    #[arg(long, env)]
    pub shard_uds_path: Option<PathBuf>,
    /// Where the model runs (not a TGI flag).
    #[arg(long, env = "QUERN_DEVICE", value_enum, default_value_t = Device::Auto)]
    pub device: Device,
    /// Worker threads of a shard on the CPU; all cores when absent (not a TGI flag).
    #[arg(long, env = "QUERN_THREADS")]
    pub threads: Option<NonZeroUsize>,
    /// Share of a GPU's memory that the shard may take for weights, KV cache and workspace together.
    #[arg(long, env, default_value_t = 1.0)]
    pub cuda_memory_fraction: f64,
    /// Random weights of the shapes that config.json gives, for measurements: no weight file is needed or read
    /// (not a TGI flag).
    #[arg(long, env = "QUERN_DUMMY_WEIGHTS", value_parser = BoolishValueParser::new())]
    pub dummy_weights: bool,
    /// Arithmetic of a shard: `reference` is slow and readable, for tests (not a TGI flag).
    #[arg(long, env = "QUERN_OPS", value_enum, default_value_t = OpsChoice::Auto)]
    pub ops: OpsChoice,
}
