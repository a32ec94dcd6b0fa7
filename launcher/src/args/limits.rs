//! Limits on requests, batches and tokens. Part of `Args`; the relations between them are checked
//! by `checks::limits` before anything is loaded.

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args as ClapArgs};

/// Flags that bound requests and steps, all handed to the router.
#[derive(Debug, Clone, ClapArgs)]
pub struct LimitArgs {
    /// Requests in flight; more are answered 429.
    #[arg(long, env, default_value_t = 128)]
    pub max_concurrent_requests: usize,
    /// Largest `best_of` of a request.
    #[arg(long, env, default_value_t = 2)]
    pub max_best_of: usize,
    /// Most stop sequences of a request.
    #[arg(long, env, default_value_t = 4)]
    pub max_stop_sequences: usize,
    /// Largest `top_n_tokens` of a request.
    #[arg(long, env, default_value_t = 5)]
    pub max_top_n_tokens: u32,
    /// Longest prompt in tokens; derived from the model and memory when absent.
    #[arg(long, env)]
    pub max_input_tokens: Option<u32>,
    /// Older name of `--max-input-tokens`.
    #[arg(long, env)]
    pub max_input_length: Option<u32>,
    /// Prompt and new tokens of one request together; derived when absent.
    #[arg(long, env)]
    pub max_total_tokens: Option<u32>,
    /// Reported by /info; prompts are prefilled beside running requests, so none has to wait.
    #[arg(long, env, default_value_t = 0.3)]
    pub waiting_served_ratio: f32,
    /// Prompt tokens of one step; longer prompts are computed in chunks.
    #[arg(long, env)]
    pub max_batch_prefill_tokens: Option<u32>,
    /// Tokens that all running requests may hold together; bounded by memory when absent.
    #[arg(long, env)]
    pub max_batch_total_tokens: Option<u32>,
    /// Reported by /info, as --waiting-served-ratio.
    #[arg(long, env, default_value_t = 20)]
    pub max_waiting_tokens: usize,
    /// Most requests in one batch.
    #[arg(long, env)]
    pub max_batch_size: Option<u32>,
    /// Whether requests of one API key share the KV cache of a common beginning, for instance of a chat's
    /// earlier turns: on or off (not a TGI flag, but its variable).
    #[arg(long, env, action = ArgAction::Set, default_value = "on", value_parser = BoolishValueParser::new())]
    pub prefix_caching: bool,
    /// Most prompts of one `/v1/completions` request.
    #[arg(long, env, default_value_t = 4)]
    pub max_client_batch_size: usize,
    /// Largest request body in bytes.
    #[arg(long, env, default_value_t = 2_000_000)]
    pub payload_limit: usize,
    /// Tokenizer threads of the router.
    #[arg(long, env, default_value_t = 2)]
    pub validation_workers: usize,
}

impl LimitArgs {
    /// The longest prompt, by either of its two names.
    pub fn max_input(&self) -> Option<u32> {
        self.max_input_tokens.or(self.max_input_length)
    }
}
