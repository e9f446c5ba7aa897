//! Everything the control plane counts, in one place.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// Handles of all metrics; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// API requests without a valid token.
    pub authentication_failures: Counter,
    /// Workers with an open configuration stream.
    pub workers_connected: Gauge,
    /// Configuration streams that ended, by cause.
    pub streams_ended: Family<StreamEndLabels, Counter>,
    /// Configuration pushes sent.
    pub pushes: Counter,
    /// From sending a push to its answer.
    pub push_latency: Histogram,
    /// Resources that workers refused.
    pub rejections: Counter,
    /// Revision the streams serve.
    pub catalogue_revision: Gauge,
    /// From a commit being published to the streams serving it.
    pub catalogue_build: Histogram,
    /// Commands to workers, by outcome.
    pub commands: Family<CommandLabels, Counter>,
    /// Reports stored, by kind.
    pub reports: Family<ReportLabels, Counter>,
    /// Reports that had been stored before.
    pub reports_repeated: Counter,
    /// Sequence numbers a worker's spool skipped: reports that were lost before they reached us.
    pub reports_missing: Counter,
    /// Time to store one batch of reports.
    pub report_batch: Histogram,
    /// Active calls.
    pub calls_active: Gauge,
    /// Addresses of record with a binding.
    pub registrations: Gauge,
    registry: Arc<Registry>,
}

/// Labels of [`Metrics::streams_ended`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StreamEndLabels {
    /// Word of a [`StreamEnd`].
    pub cause: &'static str,
}

/// Why a configuration stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamEnd {
    /// The worker left or the connection broke.
    PeerLeft,
    /// A newer stream of the same worker took over.
    Superseded,
    /// Nothing was heard of the worker for three heartbeats.
    Silent,
    /// A push was not answered in time, or the worker does not read.
    Slow,
    /// The worker broke the protocol.
    Protocol,
    /// The worker was deleted.
    Deleted,
    /// The control plane stops.
    Shutdown,
}

impl StreamEnd {
    /// Label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeerLeft => "peer_left",
            Self::Superseded => "superseded",
            Self::Silent => "silent",
            Self::Slow => "slow",
            Self::Protocol => "protocol",
            Self::Deleted => "deleted",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Labels of [`Metrics::commands`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CommandLabels {
    /// `done`, `refused`, `timeout`, `unavailable`.
    pub outcome: &'static str,
}

/// Labels of [`Metrics::reports`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReportLabels {
    /// `call`, `registration`, `booted`, `authentication_failure`.
    pub kind: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Makes and registers them.
    pub fn new() -> Self {
        // 1 ms to 16 s: a push over a WAN takes tens of milliseconds, a stalled one is ended after 30 s.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let mut metrics = Self {
            authentication_failures: Counter::default(),
            workers_connected: Gauge::default(),
            streams_ended: Family::default(),
            pushes: Counter::default(),
            push_latency: seconds(),
            rejections: Counter::default(),
            catalogue_revision: Gauge::default(),
            catalogue_build: seconds(),
            commands: Family::default(),
            reports: Family::default(),
            reports_repeated: Counter::default(),
            reports_missing: Counter::default(),
            report_batch: seconds(),
            calls_active: Gauge::default(),
            registrations: Gauge::default(),
            registry: Arc::default(),
        };
        let mut registry = Registry::with_prefix("trunkline_control");
        metrics.register(&mut registry);
        metrics.registry = Arc::new(registry);
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        let Self {
            authentication_failures,
            workers_connected,
            streams_ended,
            pushes,
            push_latency,
            rejections,
            catalogue_revision,
            catalogue_build,
            commands,
            reports,
            reports_repeated,
            reports_missing,
            report_batch,
            calls_active,
            registrations,
            registry: _,
        } = self;
        registry.register(
            "authentication_failures",
            "API requests without a valid token",
            authentication_failures.clone(),
        );
        registry.register(
            "workers_connected",
            "Workers with an open configuration stream",
            workers_connected.clone(),
        );
        registry.register(
            "streams_ended",
            "Configuration streams that ended, by cause",
            streams_ended.clone(),
        );
        registry.register("pushes", "Configuration pushes sent", pushes.clone());
        registry.register_with_unit(
            "push_latency",
            "From sending a push to its answer",
            Unit::Seconds,
            push_latency.clone(),
        );
        registry.register("rejections", "Resources that workers refused", rejections.clone());
        registry.register(
            "catalogue_revision",
            "Revision the streams serve",
            catalogue_revision.clone(),
        );
        registry.register_with_unit(
            "catalogue_build",
            "Time to take a revision over from the store",
            Unit::Seconds,
            catalogue_build.clone(),
        );
        registry.register("commands", "Commands to workers, by outcome", commands.clone());
        registry.register("reports", "Reports stored, by kind", reports.clone());
        registry.register(
            "reports_repeated",
            "Reports that had been stored before",
            reports_repeated.clone(),
        );
        registry.register(
            "reports_missing",
            "Sequence numbers that spools skipped",
            reports_missing.clone(),
        );
        registry.register_with_unit(
            "report_batch",
            "Time to store one batch of reports",
            Unit::Seconds,
            report_batch.clone(),
        );
        registry.register("calls_active", "Active calls", calls_active.clone());
        registry.register(
            "registrations",
            "Addresses of record with a binding",
            registrations.clone(),
        );
    }

    /// All values in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(8 * 1024);
        // Writing to a String fails only when a metric's own encoder does, and ours are the library's.
        if text::encode(&mut out, &self.registry).is_err() {
            out.clear();
        }
        out
    }

    /// Seconds of a duration, as histograms take them.
    pub fn seconds(duration: Duration) -> f64 {
        duration.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_registered_under_its_name() {
        let metrics = Metrics::new();
        metrics.pushes.inc();
        metrics
            .streams_ended
            .get_or_create(&StreamEndLabels {
                cause: StreamEnd::Silent.as_str(),
            })
            .inc();
        metrics.push_latency.observe(0.01);
        let text = metrics.encode();
        for line in [
            "trunkline_control_pushes_total 1",
            "trunkline_control_streams_ended_total{cause=\"silent\"} 1",
            "trunkline_control_push_latency_seconds_count 1",
            "trunkline_control_workers_connected 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
