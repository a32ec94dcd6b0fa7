//! From flags to a serving model: tokenizer and template from the folder, limits through the shard's plan,
//! the driver. Called by `server::run` while the port already answers 503.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::http::HeaderValue;
use text_generation_limits::ModelFacts;

use super::compute_type::{self, NVIDIA_DEVICES};
use crate::api::aip::AipRoutes;
use crate::api::keys::ApiKeys;
use crate::api::meta::Info;
use crate::api::places::Places;
use crate::api::sse;
use crate::api::state::{App, EdgeSettings, Serving};
use crate::args::{Args, MetricsCompat};
use crate::driver::{self, DriverError, EngineHandle};
use crate::metrics::Metrics;
use crate::metrics::table::{MEMORY, PHASES};
use crate::request::{Limits, ShardInfo};
use crate::shard::grpc::Connector;
use crate::shard::supervisor::Supervisor;
use crate::text::{ChatTemplate, TextError, Tokenizer};
use crate::validation::Validator;

/// A serving model: `driver` ends when the engine does.
pub struct Started<D> {
    pub engine: EngineHandle,
    pub driver: D,
}

/// Settings that are known before the model.
///
/// # Errors
/// When a header value or an origin is not printable, or the API keys cannot be used.
pub fn edge_settings(args: &Args) -> anyhow::Result<EdgeSettings> {
    let compute_type = std::env::var("COMPUTE_TYPE").ok().filter(|value| !value.is_empty());
    for origin in &args.cors_allow_origin {
        HeaderValue::from_str(origin)
            .with_context(|| format!("`cors_allow_origin` is not an origin. Given: {origin:?}"))?;
    }
    let api_keys = ApiKeys::new(&args.api_key, args.api_key_file.as_deref(), Instant::now())?;
    Ok(EdgeSettings {
        api_keys: api_keys.map(Arc::new),
        cors_allow_origin: args.cors_allow_origin.clone(),
        payload_limit: args.payload_limit,
        compute_type: compute_type
            .map(|value| {
                value
                    .parse()
                    .with_context(|| format!("COMPUTE_TYPE must be a header value. Given: {value:?}"))
            })
            .transpose()?,
        compat: args.tgi_compat,
        aip_routes: AipRoutes {
            predict: args.aip_predict_route.clone(),
            health: args.aip_health_route.clone(),
        },
    })
}

/// Loads the tokenizer while the shard loads the weights, plans, starts the driver and opens the routes.
///
/// # Errors
/// When the folder, the limits or the shard say no.
pub async fn start(
    args: &Args,
    app: &App,
) -> anyhow::Result<Started<impl Future<Output = Result<(), DriverError>> + Send + use<>>> {
    let began = Instant::now();
    let supervisor = Supervisor::from_environment().context("the line to the launcher")?;
    let connector = Connector::new(&args.master_shard_uds_path, supervisor)?;
    let text = load_text(args.clone());
    let shard = async { Ok(connector.connect().await?) };
    let ((tokenizer, template), connection) = tokio::try_join!(text, shard)?;
    let wanted = args.limits().wanted(model_facts(connection.info()))?;
    tracing::info!("Warming up model");
    let (source, mut shard) = connector.plan(connection, wanted).await?;
    let limits = args.limits().resolve(shard.limits)?;
    shard.limits = limits;
    let model = shard.info.clone();
    tracing::info!("Setting max batch total tokens to {}", limits.max_batch_total_tokens);
    let startup = startup(&model, began.elapsed());
    let metrics = Arc::new(metrics(args, limits, &model, &startup));
    let (engine, driver) = driver::start(source, shard, args.watching(), metrics.clone())?;
    app.serve(Serving {
        engine: engine.clone(),
        validator: validator(args, limits, &model, tokenizer.clone()),
        tokenizer,
        template,
        metrics,
        places: Places::new(args.max_concurrent_requests),
        info: info(args, limits, &model, startup),
        compat_full_text: args.compat_return_full_text,
        compat: args.tgi_compat,
        prefill_flag: args.enable_prefill_logprobs,
        compute_type: app
            .settings()
            .compute_type
            .clone()
            .unwrap_or_else(|| compute_type::of(&model.device_type, Path::new(NVIDIA_DEVICES))),
        longest_silence: sse::LONGEST_SILENCE,
    });
    Ok(Started { engine, driver })
}

/// Reads tokenizer and chat template on a blocking thread.
async fn load_text(args: Args) -> anyhow::Result<(Arc<Tokenizer>, Option<ChatTemplate>)> {
    tokio::task::spawn_blocking(move || {
        let tokenizer = Tokenizer::from_dir(&args.tokenizer_name)?;
        // The first encoding compiles the vocabulary's patterns: not on a client's time.
        tokenizer.encode("Hello, world 1", true)?;
        let template =
            match ChatTemplate::from_dir(&args.tokenizer_name, args.tokenizer_config_path.as_deref()) {
                Ok(template) => Some(template),
                Err(TextError::NoTemplate) => {
                    tracing::warn!(
                        "the model has no chat template: /v1/chat/completions will refuse requests"
                    );
                    None
                }
                Err(error) => return Err(error.into()),
            };
        Ok((Arc::new(tokenizer), template))
    })
    .await
    .context("reading the tokenizer")?
}

fn metrics(args: &Args, limits: Limits, shard: &ShardInfo, startup: &BTreeMap<String, f64>) -> Metrics {
    let metrics = Metrics::new(limits.max_input_tokens, limits.max_total_tokens);
    if args.metrics_compat == MetricsCompat::Vllm {
        metrics.add_vllm_aliases(&args.model_name(), shard.block_size, shard.n_blocks);
    }
    for (phase, seconds) in startup {
        metrics.set_labelled("tgi_startup_seconds", phase, *seconds);
    }
    for (part, bytes) in MEMORY.iter().zip(shard.memory) {
        metrics.set_labelled("tgi_shard_memory_bytes", part, bytes as f64);
    }
    metrics
}

fn validator(args: &Args, limits: Limits, shard: &ShardInfo, tokenizer: Arc<Tokenizer>) -> Validator {
    let workers = args.validation_workers;
    let validator = Validator::new(tokenizer, limits, args.rules(), shard.vocab_size).with_workers(workers);
    if args.disable_grammar_support { validator } else { validator.with_constraints(workers) }
}

fn model_facts(shard: &ShardInfo) -> ModelFacts {
    ModelFacts { max_positions: shard.max_positions, on_cpu: shard.device_type == "cpu" }
}

/// The shard's phases, as far as they are known ones, and the whole.
fn startup(shard: &ShardInfo, ready: Duration) -> BTreeMap<String, f64> {
    let known = |(name, _): &&(String, f64)| PHASES.contains(&name.as_str());
    let phases = shard.startup.iter().filter(known).cloned();
    phases.chain([("ready".to_owned(), ready.as_secs_f64())]).collect()
}

fn info(args: &Args, limits: Limits, shard: &ShardInfo, startup_seconds: BTreeMap<String, f64>) -> Info {
    Info {
        model_id: args.model_name(),
        model_sha: args.revision.clone(),
        model_dtype: shard.dtype.clone(),
        model_device_type: shard.device_type.clone(),
        model_pipeline_tag: None,
        max_concurrent_requests: args.max_concurrent_requests,
        max_best_of: args.max_best_of,
        max_stop_sequences: args.max_stop_sequences,
        max_input_tokens: limits.max_input_tokens,
        max_input_length: limits.max_input_tokens,
        max_total_tokens: limits.max_total_tokens,
        waiting_served_ratio: args.waiting_served_ratio,
        max_batch_total_tokens: limits.max_batch_total_tokens,
        max_waiting_tokens: args.max_waiting_tokens,
        max_batch_size: args.max_batch_size,
        validation_workers: args.validation_workers,
        max_client_batch_size: args.max_client_batch_size,
        router: "text-generation-router",
        version: env!("CARGO_PKG_VERSION"),
        sha: option_env!("GIT_SHA"),
        docker_label: option_env!("DOCKER_LABEL"),
        startup_seconds,
    }
}
