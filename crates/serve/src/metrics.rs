//! What the serving half counts and measures.
//!
//! Made once by `control` on its registry and handed to the parts.

use std::time::Duration;
use weft_telemetry::{Counter, Family, Gauge, Histogram, Registry};
use weft_wire::services::Code;

/// Buckets of the propagation time, seconds. The bound that is promised for 2,000 streams is one second.
const PROPAGATION: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Every metric of the serving half. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    streams: Family<Gauge>,
    messages: Family<Counter>,
    propagation: Family<Histogram>,
    refused: Family<Counter>,
    connections: Family<Gauge>,
    connections_refused: Family<Counter>,
    certificates: Family<Counter>,
    limits: Family<Counter>,
}

/// The metrics of one method's streams.
#[derive(Clone)]
pub(crate) struct MethodMetrics {
    pub(crate) streams: Gauge,
    pub(crate) messages: Counter,
    pub(crate) propagation: Histogram,
}

impl Metrics {
    /// Registers the families.
    pub fn new(registry: &Registry) -> Self {
        Self {
            registry: registry.clone(),
            streams: registry.gauges("control_plane_streams", "Open streams of proxies."),
            messages: registry.counters("control_plane_messages_total", "Messages sent on streams."),
            propagation: registry.histograms(
                "control_plane_propagation_seconds",
                "Time from a change's arrival to its hand-over to one stream.",
                PROPAGATION,
            ),
            refused: registry.counters("control_plane_calls_refused_total", "Calls refused, by gRPC code."),
            connections: registry.gauges("control_plane_connections", "Open connections of proxies."),
            connections_refused: registry
                .counters("control_plane_connections_refused_total", "Connections refused, by cause."),
            certificates: registry.counters(
                "control_plane_certificates_total",
                "Certify calls by outcome: issued, or a gRPC code.",
            ),
            limits: registry
                .counters("weft_limit_reached_total", "Times a limit was reached (docs/limits.md)."),
        }
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn method(&self, method: &str) -> MethodMetrics {
        let labels = [("method", method)];
        MethodMetrics {
            streams: self.streams.series(&labels),
            messages: self.messages.series(&labels),
            propagation: self.propagation.series(&labels),
        }
    }

    pub(crate) fn call_refused(&self, code: Code) {
        self.refused.series(&[("code", code.name())]).inc();
    }

    pub(crate) fn connections(&self, identified: &str) -> Gauge {
        self.connections.series(&[("identified", identified)])
    }

    pub(crate) fn connection_refused(&self, cause: &str) {
        self.connections_refused.series(&[("cause", cause)]).inc();
    }

    /// Counts a limit that was met, by its name in docs/limits.md.
    pub fn limit_reached(&self, limit: &str) {
        self.limits.series(&[("limit", limit)]).inc();
    }

    pub(crate) fn certified(&self, outcome: &str) {
        self.certificates.series(&[("outcome", outcome)]).inc();
    }
}

impl MethodMetrics {
    pub(crate) fn propagated(&self, age: Duration) {
        self.propagation.observe_seconds(age);
    }
}
