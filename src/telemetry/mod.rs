//! What an operator sees: logs and traces through `tracing`, metrics through OpenTelemetry, served
//! for Prometheus and, if configured, sent with the traces by OTLP. It never decides what is
//! measured: each module defines its metrics in one place of its own, as [`Metric`]s.

mod metrics;

use std::io::IsTerminal as _;
use std::time::Duration;

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use prometheus::Encoder as _;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::{LogFormat, TelemetryConfig};

pub use metrics::{Instruments, LATENCY_BUCKETS, Metric, SIZE_BUCKETS};
pub use opentelemetry::KeyValue as Label;
pub use opentelemetry::metrics::{AsyncInstrument, Counter, Gauge, Histogram, UpDownCounter};

const SERVICE: &str = "hydrant";

/// How long the exporters may take to send what they hold, each.
const OTLP_TIMEOUT: Duration = Duration::from_secs(5);

/// The exporters of one node. Whoever holds it shuts it down.
#[derive(Debug)]
pub struct Telemetry {
    registry: prometheus::Registry,
    meters: SdkMeterProvider,
    tracer: Option<SdkTracerProvider>,
}

/// Why telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("option 'telemetry.log': '{filter}' is no filter: {message}")]
    Filter { filter: String, message: String },
    #[error("option 'telemetry.otlp_endpoint': '{endpoint}' can't be used: {message}")]
    Endpoint { endpoint: String, message: String },
    #[error("the metrics exporter can't be set up: {0}")]
    Metrics(String),
    #[error("something else logs in this process already: {0}")]
    Subscriber(String),
}

impl Telemetry {
    /// Metrics alone, without a subscriber, and without touching anything global: for nodes that
    /// share a process, such as those of tests.
    pub fn metrics_only() -> Result<Self, TelemetryError> {
        let registry = prometheus::Registry::new();
        let meters = meter_provider(&registry, None)?;
        Ok(Self { registry, meters, tracer: None })
    }

    /// Metrics, and the process's one subscriber for logs and traces. Has to be called within the
    /// tokio runtime, on which the exporters' connections live.
    pub fn start(config: &TelemetryConfig) -> Result<Self, TelemetryError> {
        let filter = EnvFilter::try_new(&config.log)
            .map_err(|error| TelemetryError::Filter { filter: config.log.clone(), message: error.to_string() })?;
        let endpoint = (!config.otlp_endpoint.is_empty()).then_some(config.otlp_endpoint.as_str());
        let registry = prometheus::Registry::new();
        let meters = meter_provider(&registry, endpoint)?;
        let tracer = endpoint.map(|endpoint| tracer_provider(endpoint, config.trace_share)).transpose()?;

        let colours = std::io::stderr().is_terminal();
        let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
        let log = match config.log_format {
            LogFormat::Text => log.with_filter(filter).boxed(),
            LogFormat::Json => log.json().flatten_event(true).with_filter(filter).boxed(),
        };
        // What is traced doesn't depend on what is logged. The spans of the use cases stand at DEBUG:
        // where nothing is traced they cost nothing, and log lines aren't prefixed by them.
        let traced = Targets::new().with_target(SERVICE, LevelFilter::DEBUG);
        let layer = |provider: &SdkTracerProvider| {
            tracing_opentelemetry::layer().with_tracer(provider.tracer(SERVICE)).with_filter(traced)
        };
        let subscriber = tracing_subscriber::registry().with(log).with(tracer.as_ref().map(layer));
        subscriber.try_init().map_err(|error| TelemetryError::Subscriber(error.to_string()))?;
        Ok(Self { registry, meters, tracer })
    }

    /// Where the modules make their instruments.
    pub fn instruments(&self) -> Instruments {
        Instruments::new(self.meters.meter(SERVICE))
    }

    /// Every metric, in the text format of Prometheus.
    pub fn prometheus_text(&self) -> Result<(String, Vec<u8>), TelemetryError> {
        let encoder = prometheus::TextEncoder::new();
        let mut text = Vec::new();
        encoder
            .encode(&self.registry.gather(), &mut text)
            .map_err(|error| TelemetryError::Metrics(error.to_string()))?;
        Ok((encoder.format_type().to_owned(), text))
    }

    /// Sends what is still held. Blocks for a few seconds at most.
    pub fn shut_down(&self) {
        if let Some(tracer) = &self.tracer
            && let Err(error) = tracer.shutdown_with_timeout(OTLP_TIMEOUT)
        {
            tracing::warn!(%error, "traces were not sent");
        }
        if let Err(error) = self.meters.shutdown_with_timeout(OTLP_TIMEOUT) {
            tracing::warn!(%error, "metrics were not sent");
        }
    }
}

/// Makes `span` a part of the caller's trace, as its request's headers `traceparent` and
/// `tracestate` tell it (W3C Trace Context).
pub fn adopt_trace(span: &tracing::Span, traceparent: Option<&str>, tracestate: Option<&str>) {
    let context = TraceContextPropagator::new().extract(&TraceHeaders { traceparent, tracestate });
    // Without a layer for traces there is nothing to adopt.
    let _ = span.set_parent(context);
}

struct TraceHeaders<'a> {
    traceparent: Option<&'a str>,
    tracestate: Option<&'a str>,
}

impl Extractor for TraceHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent,
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

fn resource() -> Resource {
    let version = Label::new("service.version", env!("CARGO_PKG_VERSION"));
    Resource::builder().with_service_name(SERVICE).with_attribute(version).build()
}

fn meter_provider(
    registry: &prometheus::Registry,
    otlp_endpoint: Option<&str>,
) -> Result<SdkMeterProvider, TelemetryError> {
    let prometheus = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .build()
        .map_err(|error| TelemetryError::Metrics(error.to_string()))?;
    let mut provider = SdkMeterProvider::builder().with_resource(resource()).with_reader(prometheus);
    if let Some(endpoint) = otlp_endpoint {
        let exporter = opentelemetry_otlp::MetricExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(OTLP_TIMEOUT)
            .build()
            .map_err(|error| unusable(endpoint, error))?;
        provider = provider.with_reader(PeriodicReader::builder(exporter).build());
    }
    Ok(provider.build())
}

fn tracer_provider(endpoint: &str, trace_share: f64) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(OTLP_TIMEOUT)
        .build()
        .map_err(|error| unusable(endpoint, error))?;
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(trace_share)));
    let provider = SdkTracerProvider::builder().with_resource(resource()).with_sampler(sampler);
    Ok(provider.with_batch_exporter(exporter).build())
}

fn unusable(endpoint: &str, error: impl std::fmt::Display) -> TelemetryError {
    TelemetryError::Endpoint { endpoint: endpoint.to_owned(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READS: Metric =
        Metric { name: "hydrant.test.reads", unit: Metric::COUNT, help: "Reads, for the sake of this test." };
    const TIME: Metric =
        Metric { name: "hydrant.test.time", unit: Metric::SECONDS, help: "Time, for the sake of this test." };

    #[test]
    fn metrics_carry_their_unit_and_help_and_latencies_are_told_apart_from_ten_microseconds() {
        let telemetry = Telemetry::metrics_only().expect("set up");
        let instruments = telemetry.instruments();
        instruments.counter(&READS).add(3, &[Label::new("tenant", "default")]);
        instruments.latency(&TIME).record(0.000_012, &[]);

        let (_, text) = telemetry.prometheus_text().expect("encoded");
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains("# HELP hydrant_test_reads_total Reads, for the sake of this test."), "{text}");
        assert!(text.contains("tenant=\"default\""), "{text}");
        assert!(text.contains("hydrant_test_time_seconds_bucket"), "{text}");
        let line = |bound: &str| {
            text.lines().find(|line| line.contains(&format!("le=\"{bound}\""))).expect(bound).ends_with(" 1")
        };
        assert!(!line("0.00001") && line("0.00002"), "{text}");
    }

    #[test]
    fn nodes_of_one_process_do_not_share_their_metrics() {
        let (first, second) = (Telemetry::metrics_only().expect("set up"), Telemetry::metrics_only().expect("set up"));
        first.instruments().counter(&READS).add(1, &[]);
        let (_, text) = second.prometheus_text().expect("encoded");
        assert!(!String::from_utf8(text).expect("text").contains("hydrant_test_reads"));
    }
}
