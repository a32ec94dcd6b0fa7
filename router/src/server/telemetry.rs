//! Traces to an OpenTelemetry collector over gRPC (`--otlp-endpoint`). Used by `logging` and, at the end of
//! the process, by `main`. Without an endpoint it does nothing.

use std::time::Duration;

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

/// How long the last spans may take at the end of the process.
const FLUSH: Duration = Duration::from_secs(2);

/// Where traces go.
#[derive(Debug, Clone)]
pub struct Otlp {
    /// `http://collector:4317`
    pub endpoint: String,
    pub service_name: String,
}

/// Sends what was traced; empty without an endpoint.
#[derive(Debug, Default)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Connects when the first spans are ready, on the runtime that this is called on. A collector that
    /// cannot be reached costs a warning and the spans.
    ///
    /// # Errors
    /// When the endpoint is no URL.
    pub fn start(otlp: &Otlp) -> anyhow::Result<(Self, SdkTracer)> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&otlp.endpoint)
            .build()
            .with_context(|| format!("`otlp_endpoint` is not a gRPC URL. Given: {}", otlp.endpoint))?;
        let resource = Resource::builder().with_service_name(otlp.service_name.clone()).build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
        Ok((Self { provider: Some(provider) }, tracer))
    }

    /// Sends the last spans. To be called while the runtime still runs.
    pub fn flush(&self) {
        if let Some(provider) = &self.provider
            && let Err(error) = provider.shutdown_with_timeout(FLUSH)
        {
            tracing::warn!("traces: {error}");
        }
    }
}
