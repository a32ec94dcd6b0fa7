//! What handlers share: settings known at the start, and the model once it serves.
//!
//! `server` makes an `App` before the model is loaded and calls `serve` when it is; until then every
//! route that needs the model answers 503.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use axum::http::HeaderValue;
use futures::Stream;
use tokio::sync::Semaphore;

use super::error::ApiError;
use super::meta::Info;
use crate::driver::EngineHandle;
use crate::metrics::Metrics;
use crate::request::{EngineStatus, GenerationError, GenerationEvent, ValidRequest};
use crate::text::{ChatTemplate, Tokenizer};
use crate::validation::Validator;

/// Events of one generation. Dropping it cancels the generation.
pub type Events = Pin<Box<dyn Stream<Item = GenerationEvent> + Send>>;

/// What the routes need of the engine: the driver's handle, or a script in tests.
pub trait Engine: Send + Sync + 'static {
    /// Queues a request; fails only when the process is stopping.
    fn submit(&self, request: ValidRequest) -> Result<Events, GenerationError>;
    fn status(&self) -> EngineStatus;
}

impl Engine for EngineHandle {
    fn submit(&self, request: ValidRequest) -> Result<Events, GenerationError> {
        let generation = EngineHandle::submit(self, request)?;
        Ok(Box::pin(futures::stream::unfold(generation, async |mut generation| {
            generation.next().await.map(|event| (event, generation))
        })))
    }

    fn status(&self) -> EngineStatus {
        EngineHandle::status(self)
    }
}

/// Settings of the HTTP edge, from flags.
#[derive(Debug, Clone)]
pub struct EdgeSettings {
    pub api_key: Option<String>,
    /// Origins that browsers may call from; empty = any.
    pub cors_allow_origin: Vec<String>,
    /// Longest request body, bytes.
    pub payload_limit: usize,
    /// Value of x-compute-type.
    pub compute_type: HeaderValue,
}

/// The model and everything around it, complete from the moment the server is ready.
pub struct Serving {
    pub engine: Arc<dyn Engine>,
    pub validator: Validator,
    pub tokenizer: Arc<Tokenizer>,
    /// `None`: the checkpoint has none, and chat answers `template not found`.
    pub template: Option<ChatTemplate>,
    pub metrics: Arc<Metrics>,
    /// One for each sequence that may be queued or running (`--max-concurrent-requests`).
    pub permits: Arc<Semaphore>,
    pub info: Info,
    pub compute_type: HeaderValue,
}

/// Shared by all handlers; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    settings: EdgeSettings,
    serving: OnceLock<Arc<Serving>>,
}

impl App {
    /// A server that binds its port and answers 503 until `serve`.
    pub fn loading(settings: EdgeSettings) -> Self {
        Self(Arc::new(Inner { settings, serving: OnceLock::new() }))
    }

    /// From now on requests reach the model. The first call counts.
    pub fn serve(&self, serving: Serving) {
        let _ = self.0.serving.set(Arc::new(serving));
    }

    pub fn settings(&self) -> &EdgeSettings {
        &self.0.settings
    }

    pub fn api_key(&self) -> Option<&str> {
        self.0.settings.api_key.as_deref()
    }

    /// The model, or 503 while it loads.
    pub fn serving(&self) -> Result<Arc<Serving>, ApiError> {
        self.0.serving.get().cloned().ok_or(ApiError::Unavailable("The model is still loading"))
    }
}
