//! Flags of `text-generation-router`: TGI's names, each with its environment twin. Read by `main` only.
//!
//! Checks that need no model are `Args::check`; what the numbers mean for a model is in `limits`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Parser, ValueEnum};
use text_generation_limits::{LimitError, LimitFlags};

use crate::api::compat::Compat;
use crate::driver::Settings;
use crate::server::telemetry::Otlp;
use crate::validation::rules::Rules;

/// HTTP server of Quern: validates, tokenizes and schedules requests for a model shard.
// No `Debug`: it would print the API key.
#[derive(Clone, Parser)]
#[command(name = "text-generation-router", version)]
pub struct Args {
    /// Sequences queued or running at once; beyond them requests get 429.
    #[arg(long, env, default_value_t = 128)]
    pub max_concurrent_requests: usize,
    /// Largest `best_of`.
    #[arg(long, env, default_value_t = 2)]
    pub max_best_of: usize,
    /// Most stop strings in one request.
    #[arg(long, env, default_value_t = 4)]
    pub max_stop_sequences: usize,
    /// Most candidates reported for each token.
    #[arg(long, env, default_value_t = 5)]
    pub max_top_n_tokens: u32,
    /// Longest prompt in tokens [default: max-total-tokens - 1].
    #[arg(long, env)]
    pub max_input_tokens: Option<u32>,
    /// Older name of max-input-tokens.
    #[arg(long, env)]
    pub max_input_length: Option<u32>,
    /// Longest prompt and answer together [default: what the model and its memory allow; 4096 on a CPU].
    #[arg(long, env)]
    pub max_total_tokens: Option<u32>,
    /// Accepted for compatibility: prompts are prefilled beside running sequences, so nothing has to wait.
    #[arg(long, env, default_value_t = 0.3)]
    pub waiting_served_ratio: f32,
    /// Prompt tokens computed in one step; longer prompts are split [default: 4096, or less].
    #[arg(long, env)]
    pub max_batch_prefill_tokens: Option<u32>,
    /// Tokens in the KV cache [default: what memory allows].
    #[arg(long, env)]
    pub max_batch_total_tokens: Option<u32>,
    /// Accepted for compatibility, as waiting-served-ratio.
    #[arg(long, env, default_value_t = 20)]
    pub max_waiting_tokens: usize,
    /// Most sequences running at once [default: max-concurrent-requests].
    #[arg(long, env)]
    pub max_batch_size: Option<u32>,
    /// Whether requests of one tenant share the KV cache of a common beginning.
    #[arg(long, env, action = ArgAction::Set, default_value = "on", value_parser = BoolishValueParser::new())]
    pub prefix_caching: bool,
    /// Address to listen on.
    #[arg(long, env, default_value = "0.0.0.0")]
    pub hostname: String,
    /// Port to listen on.
    #[arg(long, short, env, default_value_t = 3000)]
    pub port: u16,
    /// Vertex AI's name of `--port`, which it wins over.
    #[arg(long, env, hide = true)]
    pub aip_http_port: Option<u16>,
    /// Vertex AI's name of /vertex.
    #[arg(long, env, hide = true)]
    pub aip_predict_route: Option<String>,
    /// Vertex AI's name of /health.
    #[arg(long, env, hide = true)]
    pub aip_health_route: Option<String>,
    /// Accepted for compatibility: metrics are at /metrics of the main port.
    #[arg(long, env, default_value_t = 9000)]
    pub prometheus_port: u16,
    /// Socket of the shard.
    #[arg(long, env, default_value = "/tmp/text-generation-server-0")]
    pub master_shard_uds_path: PathBuf,
    /// Folder with the tokenizer and the chat template.
    #[arg(long, env)]
    pub tokenizer_name: PathBuf,
    /// What answers call the model [default: tokenizer-name].
    #[arg(long, env)]
    pub model_id: Option<String>,
    /// Revision of the model, for /info.
    #[arg(long, env)]
    pub revision: Option<String>,
    /// Threads that tokenize long prompts.
    #[arg(long, env, default_value_t = 2)]
    pub validation_workers: usize,
    /// Key that clients must send as `Authorization: Bearer <key>`. May be given more than once (in the
    /// environment: one a line), each key is good.
    #[arg(long, env, hide_env_values = true, value_delimiter = '\n')]
    pub api_key: Vec<String>,
    /// File with more keys, one a line, read again when it changes.
    #[arg(long, env)]
    pub api_key_file: Option<PathBuf>,
    /// Log as JSON, one object a line.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub json_output: bool,
    /// OpenTelemetry collector that gets a span for each request, over gRPC: http://HOST:4317.
    #[arg(long, env)]
    pub otlp_endpoint: Option<String>,
    /// What the collector calls this server.
    #[arg(long, env, default_value = "text-generation-inference.router")]
    pub otlp_service_name: String,
    /// `vllm`: five series of /metrics also by vLLM's names, which the Gateway API Inference Extension reads.
    #[arg(long, env, value_enum, default_value_t = MetricsCompat::Vllm)]
    pub metrics_compat: MetricsCompat,
    /// Origins that browsers may call from [default: any].
    #[arg(long, env, value_delimiter = ',')]
    pub cors_allow_origin: Vec<String>,
    /// Refuse requests that constrain their answer (grammars, JSON schemas).
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub disable_grammar_support: bool,
    /// Most prompts (times choices) in one request of OpenAI's routes.
    #[arg(long, env, default_value_t = 4)]
    pub max_client_batch_size: usize,
    /// Accepted for compatibility: nothing is ever reported anywhere.
    #[arg(long, env, default_value = "off")]
    pub usage_stats: String,
    /// Longest request body in bytes.
    #[arg(long, env, default_value_t = 2_000_000)]
    pub payload_limit: usize,
    /// tokenizer_config.json to take the chat template from, instead of the folder's.
    #[arg(long, env)]
    pub tokenizer_config_path: Option<PathBuf>,
    /// Seconds that running requests get to finish after SIGTERM.
    #[arg(long, short, env, default_value_t = 90)]
    pub graceful_termination_timeout: u64,
    /// Seconds that one step may take before the shard counts as hung; 0 = for ever [default: 60, on a CPU
    /// and 0.25 more for each token of the step].
    #[arg(long, env, value_parser = seconds)]
    pub shard_step_timeout: Option<Duration>,
    /// Seconds without work after which one token is computed to see that the shard still can; 0 = never.
    #[arg(long, env, value_parser = seconds, default_value = "30")]
    pub canary_interval: Duration,
    /// Whether POST / returns the prompt too when a request does not say.
    #[arg(long, env, action = ArgAction::Set, default_value_t = true, value_parser = BoolishValueParser::new())]
    pub compat_return_full_text: bool,
    /// Whether known faults of TGI are corrected, or kept for clients that depend on them.
    #[arg(long, env, value_enum, default_value_t = Compat::Fixed)]
    pub tgi_compat: Compat,
    /// With --tgi-compat=strict: fill `prefill` for requests with `decoder_input_details`. Otherwise it is always filled.
    #[arg(long, env, value_parser = BoolishValueParser::new())]
    pub enable_prefill_logprobs: bool,
}

/// Values of `--metrics-compat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MetricsCompat {
    Vllm,
    None,
}

impl Args {
    /// Refuses contradictions before anything is opened.
    ///
    /// # Errors
    /// With TGI's text, for the first contradiction found.
    pub fn check(&self) -> Result<(), LimitError> {
        for (name, value) in [
            ("validation_workers", self.validation_workers),
            ("max_concurrent_requests", self.max_concurrent_requests),
            ("max_best_of", self.max_best_of),
            ("max_client_batch_size", self.max_client_batch_size),
            ("payload_limit", self.payload_limit),
        ] {
            if value == 0 {
                return Err(LimitError::Zero { name });
            }
        }
        self.limits().check()
    }

    pub fn limits(&self) -> LimitFlags {
        LimitFlags {
            max_input_tokens: self.max_input_tokens,
            max_input_length: self.max_input_length,
            max_total_tokens: self.max_total_tokens,
            max_batch_prefill_tokens: self.max_batch_prefill_tokens,
            max_batch_total_tokens: self.max_batch_total_tokens,
            max_batch_size: self.max_batch_size,
            max_concurrent_requests: self.max_concurrent_requests,
            prefix_caching: self.prefix_caching,
        }
    }

    pub fn rules(&self) -> Rules {
        Rules {
            max_best_of: self.max_best_of,
            max_stop_sequences: self.max_stop_sequences,
            max_top_n_tokens: self.max_top_n_tokens,
        }
    }

    /// Where traces go; `None` = nowhere.
    pub fn otlp(&self) -> Option<Otlp> {
        let endpoint = self.otlp_endpoint.clone().filter(|endpoint| !endpoint.is_empty())?;
        Some(Otlp { endpoint, service_name: self.otlp_service_name.clone() })
    }

    /// How a failing shard is noticed.
    pub fn watching(&self) -> Settings {
        Settings { step_timeout: self.shard_step_timeout, canary_interval: self.canary_interval }
    }

    /// What answers call the model.
    pub fn model_name(&self) -> String {
        self.model_id.clone().unwrap_or_else(|| self.tokenizer_name.display().to_string())
    }
}

/// A time in seconds, whole or not.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|_| "expected a number of seconds".to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Args {
        let fixed = ["text-generation-router", "--tokenizer-name", "dir"];
        Args::try_parse_from(fixed.iter().chain(args)).unwrap()
    }

    #[test]
    fn declaration_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_environment_twin() {
        for arg in Args::command().get_arguments() {
            let Some(long) = arg.get_long().filter(|long| !["help", "version"].contains(long)) else {
                continue;
            };
            let env = arg.get_env().and_then(|env| env.to_str()).map(str::to_string);
            assert_eq!(env, Some(long.to_uppercase().replace('-', "_")), "--{long}");
        }
    }

    #[test]
    fn the_cards_launch_line() {
        let args = parse(&[
            "--port",
            "3000",
            "--max-input-length",
            "3696",
            "--max-total-tokens",
            "4096",
            "--max-batch-prefill-tokens",
            "4096",
        ]); // fmt: skip
        assert_eq!(args.check(), Ok(()));
        assert_eq!((args.port, args.max_input_length, args.max_total_tokens), (3000, Some(3696), Some(4096)));
        assert_eq!(args.model_name(), "dir");
    }

    #[test]
    fn how_a_failing_shard_is_noticed() {
        let defaults = Settings { step_timeout: None, canary_interval: Duration::from_secs(30) };
        assert_eq!(parse(&[]).watching(), defaults);
        let args = parse(&["--shard-step-timeout", "1.5", "--canary-interval", "0"]);
        let given =
            Settings { step_timeout: Some(Duration::from_millis(1500)), canary_interval: Duration::ZERO };
        assert_eq!(args.watching(), given);
    }

    #[test]
    fn zeros_are_refused() {
        for flag in ["validation-workers", "max-concurrent-requests", "max-best-of", "max-batch-size"] {
            let error = parse(&[&format!("--{flag}"), "0"]).check().unwrap_err().to_string();
            assert_eq!(error, format!("`{}` must be > 0", flag.replace('-', "_")));
        }
    }
}
