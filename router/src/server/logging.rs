//! Logs: one event a line on stdout, as text or JSON; and spans to a collector. Set up once by `main`.
//!
//! `LOG_LEVEL` is a level or a filter expression; colours only on a terminal, `LOG_COLORIZE=0` never.

use std::io::IsTerminal;

use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use super::telemetry::{Otlp, Telemetry};
use crate::api::trace::REQUEST_SPAN;

/// Installs the process's log output and, with `otlp`, its traces. Called on the runtime.
///
/// # Errors
/// When it is installed already, or the endpoint cannot be used.
pub fn init(json: bool, otlp: Option<&Otlp>) -> anyhow::Result<Telemetry> {
    let (telemetry, tracer) = match otlp {
        Some(otlp) => {
            let (telemetry, tracer) = Telemetry::start(otlp)?;
            (telemetry, Some(tracer))
        }
        None => (Telemetry::default(), None),
    };
    let traces = tracer.map(|tracer| {
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        let layer = layer.with_location(false).with_threads(false).with_target(false);
        layer.with_filter(filter_fn(|metadata| metadata.is_span() && metadata.name() == REQUEST_SPAN))
    });
    let logs = lines(json).with_filter(filter(std::env::var("LOG_LEVEL").ok().as_deref()));
    tracing_subscriber::registry()
        .with(logs)
        .with(traces)
        .try_init()
        .map_err(|error| anyhow::anyhow!("logging: {error}"))?;
    Ok(telemetry)
}

fn lines(json: bool) -> Box<dyn Layer<Registry> + Send + Sync> {
    let layer = fmt::layer().with_writer(std::io::stdout);
    if json {
        return layer.json().flatten_event(true).with_file(true).with_line_number(true).boxed();
    }
    let colour = std::io::stdout().is_terminal() && std::env::var("LOG_COLORIZE").as_deref() != Ok("0");
    layer.with_ansi(colour).boxed()
}

/// Info by default; an expression that cannot be read is no reason not to start.
fn filter(level: Option<&str>) -> EnvFilter {
    let level = level.filter(|level| !level.trim().is_empty());
    level.and_then(|level| EnvFilter::try_new(level).ok()).unwrap_or_else(|| EnvFilter::new("info"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for (level, expected) in [
            (None, "info"),
            (Some(""), "info"),
            (Some("debug"), "debug"),
            (Some("text_generation_router=debug,info"), "text_generation_router=debug,info"),
            (Some("a=b=c"), "info"),
        ] {
            assert_eq!(filter(level).to_string(), expected);
        }
    }
}
