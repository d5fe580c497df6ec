//! How metrics are defined: a [`Metric`] is a name, a unit and a help text; a module lists its own
//! as constants in one place and makes them with [`Instruments`]. Labels are few and bounded: a
//! tenant, a view, a method, never a key or a message.

use opentelemetry::metrics::{AsyncInstrument, Counter, Gauge, Histogram, Meter, MeterProvider as _, UpDownCounter};
use opentelemetry_sdk::metrics::SdkMeterProvider;

/// One metric. Names are dotted (`hydrant.log.append.duration`); Prometheus sees underscores, the
/// unit, and `_total` behind counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    /// As in UCUM: one of the constants here.
    pub unit: &'static str,
    pub help: &'static str,
}

impl Metric {
    /// Of what is simply counted: no unit is put behind the name.
    pub const COUNT: &'static str = "";
    pub const SECONDS: &'static str = "s";
    pub const BYTES: &'static str = "By";
}

/// In seconds, from 10 µs.
pub const LATENCY_BUCKETS: [f64; 22] = [
    0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.000_75, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

/// For rows of a request, bytes of a message: powers of four.
pub const SIZE_BUCKETS: [f64; 15] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
];

/// Makes instruments out of metrics' definitions.
#[derive(Clone, Debug)]
pub struct Instruments {
    meter: Meter,
}

impl Instruments {
    pub(super) fn new(meter: Meter) -> Self {
        Self { meter }
    }

    /// Instruments that nobody reads.
    pub fn unread() -> Self {
        Self { meter: SdkMeterProvider::builder().build().meter("unread") }
    }

    /// Only ever rises.
    pub fn counter(&self, metric: &Metric) -> Counter<u64> {
        self.meter.u64_counter(metric.name).with_unit(metric.unit).with_description(metric.help).build()
    }

    /// Rises and falls by what is added to it, such as requests in flight.
    pub fn up_down(&self, metric: &Metric) -> UpDownCounter<i64> {
        self.meter.i64_up_down_counter(metric.name).with_unit(metric.unit).with_description(metric.help).build()
    }

    /// Holds what was last recorded.
    pub fn gauge(&self, metric: &Metric) -> Gauge<f64> {
        self.meter.f64_gauge(metric.name).with_unit(metric.unit).with_description(metric.help).build()
    }

    /// A count that is kept elsewhere and asked for when metrics are collected.
    pub fn observed_count(&self, metric: &Metric, count: impl Fn() -> u64 + Send + Sync + 'static) {
        let builder = self.meter.u64_observable_counter(metric.name).with_unit(metric.unit);
        let observe = move |observed: &dyn AsyncInstrument<u64>| observed.observe(count(), &[]);
        let _kept_by_the_meter = builder.with_description(metric.help).with_callback(observe).build();
    }

    /// The same, told apart by labels.
    pub fn observed_counts(
        &self,
        metric: &Metric,
        observe: impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static,
    ) {
        let builder = self.meter.u64_observable_counter(metric.name).with_unit(metric.unit);
        let _kept_by_the_meter = builder.with_description(metric.help).with_callback(observe).build();
    }

    /// A gauge that is asked when metrics are collected.
    pub fn observed(&self, metric: &Metric, observe: impl Fn(&dyn AsyncInstrument<f64>) + Send + Sync + 'static) {
        let builder = self.meter.f64_observable_gauge(metric.name).with_unit(metric.unit);
        let _kept_by_the_meter = builder.with_description(metric.help).with_callback(observe).build();
    }

    /// Durations, recorded in seconds.
    pub fn latency(&self, metric: &Metric) -> Histogram<f64> {
        self.histogram(metric, &LATENCY_BUCKETS)
    }

    /// Rows or bytes.
    pub fn sizes(&self, metric: &Metric) -> Histogram<f64> {
        self.histogram(metric, &SIZE_BUCKETS)
    }

    /// Seconds or numbers for which others are of use.
    pub fn buckets(&self, metric: &Metric, buckets: &[f64]) -> Histogram<f64> {
        self.histogram(metric, buckets)
    }

    fn histogram(&self, metric: &Metric, buckets: &[f64]) -> Histogram<f64> {
        let builder = self.meter.f64_histogram(metric.name).with_unit(metric.unit);
        builder.with_description(metric.help).with_boundaries(buckets.to_vec()).build()
    }
}
