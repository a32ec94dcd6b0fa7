//! Where and how the router listens. Part of `Args`.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args as ClapArgs};

use super::values::{MetricsCompat, Secret, TgiCompat};

/// Flags about the HTTP server and its end.
#[derive(Debug, Clone, ClapArgs)]
pub struct ServerArgs {
    /// Address to listen on; what is not an IP address becomes 0.0.0.0 with a warning.
    #[arg(long, env, default_value = "0.0.0.0")]
    pub hostname: String,
    /// Port to listen on.
    #[arg(long, short, env, default_value_t = 3000)]
    pub port: u16,
    /// Origins that browsers may call from; all when absent.
    #[arg(long, env, value_delimiter = ',')]
    pub cors_allow_origin: Vec<String>,
    /// Key that requests must carry as `Authorization: Bearer KEY`, on every route but health. May be given
    /// more than once (in the environment: one a line); each key is good.
    #[arg(long, env, hide_env_values = true, value_delimiter = '\n')]
    pub api_key: Vec<Secret>,
    /// OpenTelemetry collector that gets a span for each request, over gRPC: http://HOST:4317.
    #[arg(long, env)]
    pub otlp_endpoint: Option<String>,
    /// What the collector calls this server.
    #[arg(long, env, default_value = "text-generation-inference.router")]
    pub otlp_service_name: String,
    /// `vllm`: five series of /metrics also by vLLM's names, which the Gateway API Inference Extension reads
    /// (not a TGI flag).
    #[arg(long, env, value_enum, default_value_t = MetricsCompat::Vllm)]
    pub metrics_compat: MetricsCompat,
    /// File with more keys, one a line, read again when it changes (not a TGI flag).
    #[arg(long, env)]
    pub api_key_file: Option<PathBuf>,
    /// `strict` brings back known faults of TGI for clients that depend on them (not a TGI flag).
    #[arg(long, env, value_enum, default_value_t = TgiCompat::Fixed)]
    pub tgi_compat: TgiCompat,
    /// Whether POST / returns the prompt too when a request does not say (not a TGI flag).
    #[arg(long, env, action = ArgAction::Set, default_value_t = true, value_parser = BoolishValueParser::new())]
    pub compat_return_full_text: bool,
    /// With --tgi-compat=strict: fill `prefill` for requests with `decoder_input_details`. Otherwise it
    /// is filled for the asking.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub enable_prefill_logprobs: bool,
    /// A tokenizer_config.json with the chat template, instead of the model's own.
    #[arg(long, env)]
    pub tokenizer_config_path: Option<PathBuf>,
    /// Refuse requests that constrain their output by a grammar.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub disable_grammar_support: bool,
    /// Seconds that running requests get to finish after a stop signal.
    #[arg(long, short, env, default_value_t = 90)]
    pub graceful_termination_timeout: u64,
}
