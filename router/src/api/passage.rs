//! What every request passes on its way to a handler and its answer on the way back, as one middleware.
//!
//! Each step is a module of its own (`trace`, `error`, `admission`, `auth`, `caller`); here is their order.
//! Nothing of a route is known here.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tracing::Instrument;

use super::error::{self, ApiError, Style};
use super::state::App;
use super::trace::Trace;
use super::{auth, caller};

/// Middleware: names the request and opens its span, and renders whatever error comes back.
pub async fn pass(State(app): State<App>, request: Request, next: Next) -> Response {
    let trace = Trace::open(&request);
    let style = Style::of(request.uri().path());
    let response = admit(&app, request, next).instrument(trace.span().clone()).await;
    trace.close(error::render(style, response))
}

/// Refuses what asks for work while the server stops. A panic in a handler answers 500; the panic itself was
/// logged by the hook.
async fn admit(app: &App, request: Request, next: Next) -> Response {
    let Ok(inside) = app.admission().admit(request.method()) else {
        return ApiError::STOPPING.into_response();
    };
    let response = match AssertUnwindSafe(identify(app, request, next)).catch_unwind().await {
        Ok(response) => response.into_response(),
        Err(_panic) => ApiError::Internal.into_response(),
    };
    match inside {
        Some(inside) => inside.until_sent(response),
        None => response,
    }
}

/// Whatever is opened while the request is handled is opened for its caller.
async fn identify(app: &App, mut request: Request, next: Next) -> Result<Response, ApiError> {
    auth::require_key(app.settings(), &request)?;
    let caller = caller::read(request.headers(), Instant::now()).map_err(ApiError::Validation)?;
    DefaultBodyLimit::max(app.settings().payload_limit).apply(&mut request);
    Ok(caller::scope(caller, next.run(request)).await)
}
