//! Where and how the router listens. Part of `Args`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use clap::builder::BoolishValueParser;

use super::values::Secret;

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
    /// Key that requests must carry as `Authorization: Bearer KEY`.
    #[arg(long, env, hide_env_values = true)]
    pub api_key: Option<Secret>,
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
