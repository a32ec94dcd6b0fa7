//! What handlers share: settings known at the start, and the model once it serves.
//!
//! `server` makes an `App` before the model is loaded and calls `serve` when it is; until then every
//! route that needs the model answers 503.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::HeaderValue;

use super::admission::Admission;
use super::aip::AipRoutes;
use super::compat::Compat;
use super::error::ApiError;
use super::keys::ApiKeys;
use super::meta::Info;
use super::places::Places;
use super::vllm_fields::RouteFacts;
use crate::driver::EngineHandle;
use crate::metrics::Metrics;
use crate::text::{ChatTemplate, Tokenizer};
use crate::validation::{Refusal, Validator};

/// Settings of the HTTP edge, from flags.
#[derive(Clone)]
pub struct EdgeSettings {
    /// `None`: everybody may ask.
    pub api_keys: Option<Arc<ApiKeys>>,
    /// Origins that browsers may call from; empty = any.
    pub cors_allow_origin: Vec<String>,
    /// Longest request body, bytes.
    pub payload_limit: usize,
    /// Value of x-compute-type, instead of the device's.
    pub compute_type: Option<HeaderValue>,
    pub compat: Compat,
    pub aip_routes: AipRoutes,
}

/// The model and everything around it, complete from the moment the server is ready.
pub struct Serving {
    pub engine: EngineHandle,
    pub validator: Validator,
    pub tokenizer: Arc<Tokenizer>,
    /// `None`: the checkpoint has none, and chat answers `template not found`.
    pub template: Option<ChatTemplate>,
    pub metrics: Arc<Metrics>,
    /// For sequences that are queued or running (`--max-concurrent-requests`).
    pub places: Places,
    pub info: Info,
    /// Whether POST / returns the prompt too when the request does not say.
    pub compat_full_text: bool,
    pub compat: Compat,
    /// `--enable-prefill-logprobs`, which only TGI's own behaviour needs.
    pub prefill_flag: bool,
    pub compute_type: HeaderValue,
    /// How long a stream may send nothing (`sse::LONGEST_SILENCE` but in tests).
    pub longest_silence: Duration,
}

impl Serving {
    /// What vLLM's fields depend on, on a route that adds the tokenizer's special tokens or does not.
    pub fn field_route(&self, adds_special_tokens: bool) -> RouteFacts {
        let (compat, max_input_tokens) = (self.compat, self.info.max_input_tokens);
        RouteFacts { compat, max_input_tokens, adds_special_tokens }
    }

    /// Whether the prompt's log-probabilities are computed for a request that wants them.
    pub fn computes_prefill(&self) -> bool {
        self.prefill_flag || !self.compat.needs_prefill_flag()
    }

    /// How many answers a client gets that asks for `n`: from 1, the default, to the most sequences of one request.
    pub fn n_answers(&self, n: Option<usize>) -> Result<usize, Refusal> {
        let (n, max) = (n.unwrap_or(1), self.info.max_client_batch_size);
        if (1..=max).contains(&n) {
            return Ok(n);
        }
        Err(Refusal(format!("`n` must be > 0 and <= {max}. Given: {n}")))
    }
}

/// Shared by all handlers; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    settings: EdgeSettings,
    serving: OnceLock<Arc<Serving>>,
    admission: Admission,
}

impl App {
    /// A server that binds its port and answers 503 until `serve`.
    pub fn loading(settings: EdgeSettings) -> Self {
        Self(Arc::new(Inner { settings, serving: OnceLock::new(), admission: Admission::default() }))
    }

    /// From now on requests reach the model. The first call counts.
    pub fn serve(&self, serving: Serving) {
        let _ = self.0.serving.set(Arc::new(serving));
    }

    /// The requests that are being answered.
    pub fn admission(&self) -> &Admission {
        &self.0.admission
    }

    pub fn settings(&self) -> &EdgeSettings {
        &self.0.settings
    }

    /// The model, or 503 while it loads.
    pub fn serving(&self) -> Result<Arc<Serving>, ApiError> {
        self.0.serving.get().cloned().ok_or(ApiError::Unavailable("The model is still loading"))
    }
}
