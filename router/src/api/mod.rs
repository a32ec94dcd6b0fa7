//! HTTP routes: the only place with wire types of TGI and OpenAI. Called by `server`.
//!
//! `tgi` and `openai` turn JSON into drafts for `validation` and pieces of text into JSON; `sequence`
//! is a generation between them; `error` renders every failure. No scheduling, no tokenizing here.

mod admission;
pub mod aip;
mod auth;
mod caller;
pub mod compat;
mod constraint_fields;
pub mod error;
mod extract;
pub mod keys;
mod lists;
mod logit_bias;
pub mod meta;
mod named;
mod openai;
mod openapi;
mod passage;
mod pieces;
pub mod places;
mod platforms;
mod random;
mod record;
mod sequence;
pub mod sse;
pub mod state;
mod tgi;
mod tokenize;
pub mod trace;
mod vllm;
mod vllm_fields;

use axum::Router;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::from_fn_with_state;
use axum::response::Redirect;
use axum::routing::{get, post};
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};

use error::ApiError;
use state::{App, EdgeSettings};

/// All routes of this server around `app`.
pub fn router(app: App) -> Router {
    let names = app.settings().aip_routes.clone();
    names.rename(layers(routes(), app))
}

fn routes() -> Router<App> {
    Router::new()
        .route("/", get(meta::root).post(tgi::compat))
        .route("/generate", post(tgi::generate))
        .route("/generate_stream", post(tgi::generate_stream))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/chat_tokenize", post(tokenize::chat_tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/invocations", post(platforms::invocations))
        .route("/vertex", post(platforms::vertex))
        .route("/v1/chat/completions", post(openai::chat::respond))
        .route("/v1/completions", post(openai::completions::respond))
        .route("/v1/models", get(meta::models))
        .route("/v1/models/{*id}", get(meta::model))
        .route("/info", get(meta::info))
        .route("/health", get(meta::health))
        .route("/ping", get(meta::health))
        .route("/readyz", get(meta::health))
        .route("/livez", get(meta::live))
        .route("/metrics", get(meta::metrics))
        .route("/openapi.json", get(openapi::document))
        .route("/api-doc/openapi.json", get(openapi::document))
        .route("/docs", get(async || Redirect::to("/docs/")))
        .route("/docs/", get(openapi::page))
        .fallback(async || ApiError::NotFound)
}

/// What every request passes, outermost first. One layer: each costs every request several allocations.
fn layers(routes: Router<App>, app: App) -> Router {
    let passage = from_fn_with_state(app.clone(), passage::pass);
    routes.layer((cors(app.settings()), passage)).with_state(app)
}

fn cors(settings: &EdgeSettings) -> CorsLayer {
    let listed = || settings.cors_allow_origin.iter().filter(|origin| !origin.is_empty());
    let origins: Vec<HeaderValue> = listed().filter_map(|origin| origin.parse().ok()).collect();
    // The library panics on a list with the wildcard in it.
    let any = listed().next().is_none() || listed().any(|origin| origin == "*");
    CorsLayer::new()
        .allow_methods([Method::GET, Method::POST])
        // Clients in browsers send headers of their own; none of them means anything without the key.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(Any)
        .allow_origin(if any { AllowOrigin::any() } else { origins.into() })
        .vary([header::ORIGIN, header::ACCESS_CONTROL_REQUEST_METHOD, header::ACCESS_CONTROL_REQUEST_HEADERS])
}

#[cfg(test)]
mod tests;
