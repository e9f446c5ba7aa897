//! Everything the worker counts, in one place, under the prefix `trunkline_worker_`.
//!
//! Handles are resolved once; no message looks a label up. What somebody else knows already (calls, connections, ports) is
//! asked for when it is scraped. Label values are bounded: tokens of tables, and at most [`TRUNKS`] trunks.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter as Count;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use trunkline_engine::metrics::Counter;
use trunkline_media::relay::DropReason;
use trunkline_shared::call::CallRecord;
use trunkline_shared::name::TrunkId;
use trunkline_shared::reject::Reject;

use crate::control::spool::Backlog;
use crate::net::listener::ListenerReport;
use crate::relay::Relay;

/// Trunks with a label of their own; refusals of others are counted together.
const TRUNKS: usize = 1000;
/// Label value of trunks beyond [`TRUNKS`].
const OTHER_TRUNKS: &str = "other";

/// All metrics of the worker; one per process, shared.
pub struct MetricsSet {
    engine: [Count; Counter::ALL.len()],
    rejects: Arc<Rejects>,
    shard_overflows: Count,
    send_overflows: Count,
    relay_overflows: Count,
    connections_refused: Count,
    handshake_failures: Count,
    unreadable_streams: Family<ReasonLabel, Count>,
    calls_ended: Family<ReasonLabel, Count>,
    call_setup: Histogram,
    call_duration: Histogram,
    call_quality: Histogram,
    control_connected: Gauge,
    control_stream_ends: Family<ReasonLabel, Count>,
    pushes: Count,
    resources_refused: Count,
    applied_revision: Gauge,
    configuration_write_failures: Count,
    reports_spooled: Count,
    reports_refused: Count,
    report_batches_acknowledged: Count,
    registry: Mutex<Registry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierLabel {
    tier: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectLabels {
    reason: &'static str,
    trunk: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    trunk: String,
    address: String,
}

impl Default for MetricsSet {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MetricsSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsSet").finish_non_exhaustive()
    }
}

impl MetricsSet {
    /// Makes and registers everything that needs nobody else.
    pub fn new() -> Self {
        let mut set = Self {
            engine: std::array::from_fn(|_| Count::default()),
            rejects: Arc::default(),
            shard_overflows: Count::default(),
            send_overflows: Count::default(),
            relay_overflows: Count::default(),
            connections_refused: Count::default(),
            handshake_failures: Count::default(),
            unreadable_streams: Family::default(),
            calls_ended: Family::default(),
            // 50 ms to 100 s: a phone that rings at once to a dial timeout.
            call_setup: Histogram::new(exponential_buckets(0.05, 2.0, 12)),
            // 1 s to 9 h.
            call_duration: Histogram::new(exponential_buckets(1.0, 2.0, 16)),
            call_quality: Histogram::new([1.0, 2.0, 2.5, 3.0, 3.5, 4.0, 4.25, 4.5]),
            control_connected: Gauge::default(),
            control_stream_ends: Family::default(),
            pushes: Count::default(),
            resources_refused: Count::default(),
            applied_revision: Gauge::default(),
            configuration_write_failures: Count::default(),
            reports_spooled: Count::default(),
            reports_refused: Count::default(),
            report_batches_acknowledged: Count::default(),
            registry: Mutex::default(),
        };
        let mut registry = Registry::with_prefix("trunkline_worker");
        set.register_signalling(&mut registry);
        set.register_control(&mut registry);
        set.registry = Mutex::new(registry);
        set
    }

    fn register_signalling(&self, registry: &mut Registry) {
        for counter in Counter::ALL {
            registry.register(counter.name(), help(counter), self.engine[counter as usize].clone());
        }
        registry.register_collector(Box::new(Arc::clone(&self.rejects)));
        let counts = [
            (
                "shard_overflows",
                "Inputs lost because a shard's queue was full",
                &self.shard_overflows,
            ),
            (
                "send_overflows",
                "Datagrams the kernel had no room for",
                &self.send_overflows,
            ),
            (
                "relay_overflows",
                "Relay commands lost because too many waited",
                &self.relay_overflows,
            ),
            (
                "connections_refused",
                "Connections closed because there were too many",
                &self.connections_refused,
            ),
            (
                "tls_handshake_failures",
                "Inbound TLS handshakes that failed",
                &self.handshake_failures,
            ),
        ];
        for (name, help, count) in counts {
            registry.register(name, help, count.clone());
        }
        let unreadable = "Connections that sent what cannot be cut into messages";
        registry.register("unreadable_streams", unreadable, self.unreadable_streams.clone());
        registry.register(
            "calls_finished",
            "Calls that are over, by end reason",
            self.calls_ended.clone(),
        );
        let setup = "From INVITE to the first 18x, or to the answer when there was none";
        registry.register("call_setup_seconds", setup, self.call_setup.clone());
        registry.register(
            "call_duration_seconds",
            "From answer to end",
            self.call_duration.clone(),
        );
        registry.register(
            "call_quality_mos",
            "Estimated listening quality of legs, 1-4.5",
            self.call_quality.clone(),
        );
    }

    fn register_control(&self, registry: &mut Registry) {
        let connected = "Whether the configuration stream is open";
        registry.register("control_connected", connected, self.control_connected.clone());
        let ends = "Configuration streams that ended or could not be opened";
        registry.register("control_stream_ends", ends, self.control_stream_ends.clone());
        registry.register(
            "applied_revision",
            "Revision of the configuration in force",
            self.applied_revision.clone(),
        );
        let counts = [
            ("configuration_pushes", "Configuration pushes applied", &self.pushes),
            (
                "resources_refused",
                "Resources of pushes that were refused",
                &self.resources_refused,
            ),
            (
                "configuration_write_failures",
                "Failures to keep the configuration",
                &self.configuration_write_failures,
            ),
            ("reports_spooled", "Reports written to the spool", &self.reports_spooled),
            (
                "reports_refused",
                "Reports lost for want of room",
                &self.reports_refused,
            ),
            (
                "report_acknowledgements",
                "Acknowledgements of report batches",
                &self.report_batches_acknowledged,
            ),
        ];
        for (name, help, count) in counts {
            registry.register(name, help, count.clone());
        }
    }

    /// Adds one to a counter of the engine.
    pub fn count(&self, counter: Counter) {
        self.engine[counter as usize].inc();
    }

    /// Counts a refusal; the trunk when one decided.
    pub fn count_reject(&self, reject: Reject, trunk: Option<&TrunkId>) {
        self.rejects.count(reject, trunk);
    }

    /// An input was lost because a shard's queue was full.
    pub fn count_shard_overflow(&self) {
        self.shard_overflows.inc();
    }

    /// A datagram was lost because the kernel's send buffer was full.
    pub fn count_send_overflow(&self) {
        self.send_overflows.inc();
    }

    /// A relay command was lost because too many waited.
    pub fn count_relay_overflow(&self) {
        self.relay_overflows.inc();
    }

    /// A connection was closed because there were too many.
    pub fn count_connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// An inbound TLS handshake failed.
    pub fn count_handshake_failure(&self) {
        self.handshake_failures.inc();
    }

    /// A connection sent what cannot be cut into messages.
    pub fn count_unreadable_stream(&self, reason: &'static str) {
        self.unreadable_streams.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Takes the figures of a call that is over. Not for a shard's thread: it looks a label up.
    pub fn note_call(&self, call: &CallRecord) {
        let Some(end) = call.end() else { return };
        self.calls_ended
            .get_or_create(&ReasonLabel {
                reason: end.reason.token(),
            })
            .inc();
        let seconds =
            |from, until: std::time::SystemTime| until.duration_since(from).as_ref().map_or(0.0, Duration::as_secs_f64);
        if let Some(first) = call.ring_time.or(call.answer_time) {
            self.call_setup.observe(seconds(call.start_time, first));
        }
        if let Some(answered) = call.answer_time {
            self.call_duration.observe(seconds(answered, end.time));
        }
        for leg in call.media.iter().filter(|leg| leg.mos_hundredths > 0) {
            self.call_quality.observe(f64::from(leg.mos_hundredths) / 100.0);
        }
    }

    /// Whether the configuration stream is open.
    pub fn set_control_connected(&self, connected: bool) {
        self.control_connected.set(i64::from(connected));
    }

    /// A configuration stream ended, or could not be opened.
    pub fn count_control_stream_end(&self, reason: &'static str) {
        self.control_stream_ends.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A push was applied.
    pub fn note_push(&self, revision: i64, refused: usize) {
        self.pushes.inc();
        self.resources_refused.inc_by(refused as u64);
        self.set_applied_revision(revision);
    }

    /// Revision in force, as loaded from disk or pushed.
    pub fn set_applied_revision(&self, revision: i64) {
        self.applied_revision.set(revision);
    }

    /// The configuration could not be written to disk.
    pub fn count_configuration_write_failure(&self) {
        self.configuration_write_failures.inc();
    }

    /// Reports are in the spool.
    pub fn count_reports_spooled(&self, reports: u64) {
        self.reports_spooled.inc_by(reports);
    }

    /// Reports are lost.
    pub fn count_reports_refused(&self, reports: u64) {
        self.reports_refused.inc_by(reports);
    }

    /// The control plane acknowledged.
    pub fn count_report_batches_acknowledged(&self) {
        self.report_batches_acknowledged.inc();
    }

    /// Shows a figure somebody else has, asked for at every scrape. `name` without prefix; register it once.
    pub fn watch_gauge(&self, name: &'static str, help: &'static str, read: impl Fn() -> i64 + Send + Sync + 'static) {
        self.add(Watched(move |mut encoder: DescriptorEncoder<'_>| {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            metric.encode_gauge(&read())
        }));
    }

    /// Shows the packets of the media plane and its sessions.
    pub fn watch_relay(&self, relay: Relay) {
        self.add(Watched(move |mut encoder: DescriptorEncoder<'_>| {
            let counters = relay.counters();
            let sent = [
                ("relay_packets", "Media packets sent on", counters.forwarded()),
                (
                    "relay_octets",
                    "Octets of media sent on, without IP and UDP headers",
                    counters.octets(),
                ),
                (
                    "relay_send_failures",
                    "Media packets the system would not send",
                    counters.send_failures(),
                ),
            ];
            for (name, help, value) in sent {
                let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
                metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
            }
            let tier = TierLabel {
                tier: relay.tier().name(),
            };
            encoder
                .encode_descriptor(
                    "media_tier",
                    "1 for the tier of the media plane in use",
                    None,
                    MetricType::Gauge,
                )?
                .encode_family(&tier)?
                .encode_gauge(&1_i64)?;
            encoder
                .encode_descriptor("relay_sessions", "Relay sessions alive", None, MetricType::Gauge)?
                .encode_gauge(&(counters.sessions() as i64))?;
            let help = "Media packets dropped, by reason";
            let mut dropped = encoder.encode_descriptor("relay_packets_dropped", help, None, MetricType::Counter)?;
            for reason in DropReason::ALL {
                let labels = ReasonLabel { reason: reason.label() };
                let count = counters.dropped(reason);
                dropped
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
            }
            Ok(())
        }));
    }

    /// Shows for every wanted listener whether it is bound.
    pub fn watch_listeners(&self, listeners: watch::Receiver<ListenerReport>) {
        self.add(Watched(move |mut encoder: DescriptorEncoder<'_>| {
            let help = "Whether a listener of a trunk is bound";
            let mut bound = encoder.encode_descriptor("listener_bound", help, None, MetricType::Gauge)?;
            for state in listeners.borrow().states.iter() {
                let labels = ListenerLabels {
                    trunk: state.trunk.to_string(),
                    address: state.address.to_string(),
                };
                bound
                    .encode_family(&labels)?
                    .encode_gauge(&i64::from(state.error.is_none()))?;
            }
            Ok(())
        }));
    }

    /// Shows what the control plane has not stored yet.
    pub fn watch_spool(&self, backlog: watch::Receiver<Backlog>) {
        let octets = backlog.clone();
        let reports = move || backlog.borrow().reports as i64;
        self.watch_gauge("spool_reports", "Reports the control plane has not stored yet", reports);
        let octets = move || octets.borrow().octets as i64;
        self.watch_gauge("spool_octets", "Octets of the spool on disk", octets);
    }

    /// The text of a scrape (OpenMetrics 1.0).
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.lock())?;
        Ok(out)
    }

    fn add(&self, collector: impl Collector) {
        self.lock().register_collector(Box::new(collector));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        // A registry is a list that only grows: whole, whoever panicked.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn help(counter: Counter) -> &'static str {
    match counter {
        Counter::MessagesReceived => "SIP messages parsed",
        Counter::MessagesSent => "SIP messages handed to the transport, retransmissions included",
        Counter::MessagesDropped => "SIP messages that could not be read at all",
        Counter::MessagesMalformed => "SIP messages that could be answered with 400 but not read",
        Counter::RetransmissionsReceived => "Requests absorbed as retransmissions",
        Counter::RetransmissionsSent => "Messages sent again",
        Counter::StrayResponses => "Responses that belong to nothing",
        Counter::RegistrationsAccepted => "REGISTERs answered with 200",
        Counter::CallsReceived => "Initial INVITEs",
        Counter::CallsAnswered => "Calls answered with 200",
        Counter::CallsEnded => "Answered calls that ended",
        Counter::AttemptsStarted => "INVITEs sent to targets",
        Counter::AttemptsRetried => "Attempts that were followed by another target",
        Counter::ChallengesSent => "Digest challenges sent",
        Counter::AuthenticationFailures => "Digest failures",
        Counter::RequestsProxied => "Requests proxied outside of calls",
    }
}

/// Asked at every scrape.
struct Watched<F>(F);

impl<F> fmt::Debug for Watched<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl<F: Fn(DescriptorEncoder<'_>) -> fmt::Result + Send + Sync + 'static> Collector for Watched<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(encoder)
    }
}

/// Refusals by reason and trunk.
#[derive(Debug, Default)]
struct Rejects {
    by_trunk: DashMap<TrunkId, ByReject>,
    /// Of trunks beyond [`TRUNKS`].
    other: ByReject,
    /// No trunk decided.
    none: ByReject,
}

#[derive(Debug)]
struct ByReject([AtomicU64; Reject::ALL.len()]);

impl Default for ByReject {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl ByReject {
    fn count(&self, reject: Reject) {
        self.0[reject as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Rejects {
    fn count(&self, reject: Reject, trunk: Option<&TrunkId>) {
        let Some(trunk) = trunk else {
            return self.none.count(reject);
        };
        if let Some(counts) = self.by_trunk.get(trunk) {
            return counts.count(reject);
        }
        // Two shards may both find room for the last one: one trunk too many does no harm.
        if self.by_trunk.len() < TRUNKS {
            self.by_trunk.entry(trunk.clone()).or_default().count(reject);
        } else {
            self.other.count(reject);
        }
    }
}

impl Collector for Rejects {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests refused, by reason and by the trunk that decided";
        let mut metric = encoder.encode_descriptor("rejects", help, None, MetricType::Counter)?;
        let mut show = |trunk: &str, counts: &ByReject| -> fmt::Result {
            for (reject, count) in Reject::ALL.iter().zip(&counts.0) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = RejectLabels {
                        reason: reject.token(),
                        trunk: trunk.to_owned(),
                    };
                    metric
                        .encode_family(&labels)?
                        .encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
                }
            }
            Ok(())
        };
        show("", &self.none)?;
        show(OTHER_TRUNKS, &self.other)?;
        for entry in &self.by_trunk {
            show(entry.key().as_str(), entry.value())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
