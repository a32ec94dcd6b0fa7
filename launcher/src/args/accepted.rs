//! TGI's flags that do nothing in this release: parsed as TGI parses them, so that an existing
//! launch line starts, and named once in a warning when somebody sets them. Part of `Args`.
//! `--usage-stats` alone is silent: there is no telemetry to switch off.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use clap::builder::BoolishValueParser;

use super::values::{Dtype, KvCacheDtype, RopeScaling, Secret, UsageStats};

/// Flags without effect.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Accepted for compatibility, without effect in this release")]
pub struct AcceptedArgs {
    #[arg(long, env)]
    pub speculate: Option<usize>,
    #[arg(long, env, value_enum)]
    pub dtype: Option<Dtype>,
    #[arg(long, env, value_enum)]
    pub kv_cache_dtype: Option<KvCacheDtype>,
    /// No code of a model is ever run.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub trust_remote_code: bool,
    #[arg(long, env, value_delimiter = ',')]
    pub cuda_graphs: Vec<usize>,
    /// Metrics are served on the HTTP port, under `/metrics`.
    #[arg(long, env, default_value_t = 9000)]
    pub prometheus_port: u16,
    #[arg(long, env, default_value = "localhost")]
    pub master_addr: String,
    #[arg(long, env, default_value_t = 29500)]
    pub master_port: usize,
    #[arg(long, env)]
    pub weights_cache_override: Option<PathBuf>,
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub disable_custom_kernels: bool,
    #[arg(long, env, value_enum)]
    pub rope_scaling: Option<RopeScaling>,
    #[arg(long, env)]
    pub rope_factor: Option<f32>,
    #[arg(long, env)]
    pub watermark_gamma: Option<f32>,
    #[arg(long, env)]
    pub watermark_delta: Option<f32>,
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub ngrok: bool,
    #[arg(long, env, hide_env_values = true)]
    pub ngrok_authtoken: Option<Secret>,
    #[arg(long, env)]
    pub ngrok_edge: Option<String>,
    #[arg(long, env)]
    pub lora_adapters: Option<String>,
    /// Nothing is ever reported to anybody.
    #[arg(long, env, value_enum, default_value_t = UsageStats::On)]
    pub usage_stats: UsageStats,
}
