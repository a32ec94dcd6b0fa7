//! The types that cross the border between the HTTP edge and the engine.
//!
//! `validation` makes a `ValidRequest`; the driver takes it and answers with `GenerationEvent`s.
//! No text, no JSON, no protobuf here: token ids and numbers only.

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use text_generation_limits::Limits;

use crate::constraint::Constraint;

/// How the next token is chosen; the same fields as the step protocol's `SamplingParameters`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// False = greedy argmax after penalties.
    pub do_sample: bool,
    /// > 0; 1 = off.
    pub temperature: f32,
    /// 0 = off.
    pub top_k: u32,
    /// (0, 1]; 1 = off.
    pub top_p: f32,
    /// (0, 1]; 1 = off.
    pub typical_p: f32,
    /// > 0; 1 = off.
    pub repetition_penalty: f32,
    /// [-2, 2]; 0 = off.
    pub frequency_penalty: f32,
    /// [-2, 2]; 0 = off.
    pub presence_penalty: f32,
    pub seed: u64,
    /// Best tokens reported beside the chosen one.
    pub top_n_tokens: u32,
    /// Added to the logits of these tokens, in ascending order of ids.
    pub logit_bias: Arc<[(u32, f32)]>,
}

impl Sampling {
    /// The most likely token, with everything off.
    pub fn greedy() -> Self {
        Self {
            do_sample: false,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: 0,
            top_n_tokens: 0,
            logit_bias: Arc::from([]),
        }
    }
}

/// Whose request it is: shares of the machine and the prefix cache are apart by tenant. Holds a digest, never the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(pub [u8; 32]);

/// Who asked, and until when the answer is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub tenant: Tenant,
    /// The request ends with an error at this time, wherever it is then; `None` = never.
    pub deadline: Option<Instant>,
}

impl Caller {
    /// The tenant of requests that bring neither key nor name, without a deadline.
    pub const ANONYMOUS: Self = Self { tenant: Tenant([0; 32]), deadline: None };
}

/// A request that passed every check: `prompt_ids` is not empty and
/// `prompt_ids.len() + max_new_tokens <= max_total_tokens`. Only `validation` makes one of a client's.
#[derive(Debug, Clone)]
pub struct ValidRequest {
    pub(crate) prompt_ids: Arc<[u32]>,
    pub(crate) sampling: Sampling,
    /// >= 1, exact.
    pub(crate) max_new_tokens: u32,
    /// Tokens that end the generation with `FinishReason::Eos`; empty = never.
    pub(crate) eos_ids: Arc<[u32]>,
    pub(crate) caller: Caller,
    /// Report the log-probability of every prompt token but the first: the whole prompt is computed,
    /// nothing of it taken from a prefix cache.
    pub(crate) prompt_logprobs: bool,
    /// What the answer must look like; then `eos_ids` are all that the constraint ends with.
    pub(crate) constraint: Option<Constraint>,
}

impl ValidRequest {
    /// One token after one token: the least work that shows that a shard computes.
    pub fn canary() -> Self {
        let (prompt_ids, eos_ids) = (Arc::from([0]), Arc::from([]));
        Self {
            prompt_ids,
            sampling: Sampling::greedy(),
            max_new_tokens: 1,
            eos_ids,
            prompt_logprobs: false,
            caller: Caller::ANONYMOUS,
            constraint: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    pub id: u32,
    pub logprob: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// `max_new_tokens` were generated.
    Length,
    /// An end-of-sequence token was generated.
    Eos,
}

/// Where a request's time went, for headers, logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    pub queued: Instant,
    /// First step that held tokens of this request.
    pub started: Instant,
}

/// Log-probabilities at a place of the prompt, under the model's own logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Of the prompt's token.
    pub logprob: f32,
    /// The likeliest token.
    pub best: TokenLogprob,
}

/// What a request's receiver sees, in order: tokens, the last with a finish reason; or one failure.
#[derive(Debug, Clone)]
pub enum GenerationEvent {
    Token {
        token: TokenLogprob,
        /// Best first; empty unless asked for.
        top: Vec<TokenLogprob>,
        finish: Option<FinishReason>,
        timing: Timing,
        /// When the driver got the token from the shard.
        at: Instant,
    },
    /// Before the first token: what the model thought of the prompt's tokens from `position` (at least 1) on.
    /// A position that comes twice brings the same value.
    PromptScores {
        position: usize,
        scores: Vec<Score>,
    },
    Failed(GenerationError),
}

/// Why a running or waiting request ended without a finish reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerationError {
    /// The shard reported an error for this sequence or step, or died.
    #[error("Request failed during generation: Server error: {0}")]
    Shard(String),
    /// The constraint on the answer became too complex to follow.
    #[error("Request failed during generation: the grammar cannot be followed here: {0}")]
    Constraint(String),
    /// The shard died twice at the same place of this request, the last time with nothing beside it.
    #[error("this request ended the model's process repeatedly and is not tried again")]
    Quarantined,
    /// The caller's deadline passed: before the queue, in it, or while running.
    #[error("the time given by x-request-timeout-ms has passed")]
    DeadlinePassed,
    /// The server is stopping.
    #[error("the server is shutting down")]
    ShuttingDown,
}

/// What the shard said of itself after `Info` and `Plan`; fixed for the life of the process.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardInfo {
    pub architecture: String,
    pub dtype: String,
    /// "awq" or "".
    pub quantize: String,
    pub device_type: String,
    pub vocab_size: u32,
    pub max_positions: u32,
    pub block_size: u32,
    pub n_blocks: u32,
    pub kv_bytes_per_token: u64,
    pub max_steps_in_flight: u32,
    /// Prompts beyond this length change the keys' rotary base (dynamic NTK); 0 = never.
    pub ntk_seq_length: u32,
    /// Where the shard's start spent its time: phases and seconds; empty until the plan.
    pub startup: Vec<(String, f64)>,
    /// Bytes for weights, KV cache and workspace; 0 until the plan.
    pub memory: [u64; 3],
}

/// How the engine is doing, for health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineStatus {
    /// A request would be served now.
    pub healthy: bool,
    /// The engine has ended, and the process is about to.
    pub stopped: bool,
    pub running: usize,
    pub waiting: usize,
    /// Since the last step's reply; zero when idle.
    pub last_step_age: Duration,
}
