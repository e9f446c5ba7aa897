//! Logs to standard error, and traces to an OTLP collector when there is one.
//!
//! A collector that hangs costs nothing but the spans: they wait in a bounded queue, are dropped when it is full, and are
//! sent by a thread and a runtime of their own. The trace of a call has the conversation id as its trace id:
//! [`in_conversation`].

use std::cell::Cell;
use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;
use std::time::Duration;

use opentelemetry::trace::{Link, SpanId, SpanKind, TraceContextExt, TraceId, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
pub use opentelemetry_sdk::trace::SdkTracer;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, SamplingResult,
    SdkTracerProvider, ShouldSample,
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt as log};

use crate::name::ConversationId;

/// Spans that wait for the collector; more are dropped and counted by the SDK. About 1 KiB each.
const QUEUE: usize = 4096;
/// Spans of one export.
const BATCH: usize = 512;
/// How long spans gather before they are sent.
const EXPORT_EVERY: Duration = Duration::from_secs(2);
/// How long one export may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last spans have when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people: a line an event.
    #[default]
    Text,
    /// For machines: a JSON object an event.
    Json,
}

/// A text that names no log format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither `text` nor `json`")]
pub struct UnknownLogFormat(String);

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, UnknownLogFormat> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownLogFormat(text.into())),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// What to log and where to send traces.
#[derive(Debug, Clone)]
pub struct Options {
    /// Form of the log.
    pub log_format: LogFormat,
    /// Filter directives, e.g. `info,trunkline_engine=debug`. `None`: the variable `RUST_LOG`, or `info`.
    pub log_filter: Option<String>,
    /// `http://host:port` of a collector that speaks OTLP over gRPC. `None`: no traces.
    pub otlp_endpoint: Option<String>,
    /// Share of traces that are kept, 0-1, chosen by trace id so that all spans of a call share their fate.
    pub sample_ratio: f64,
    /// Tells apart processes of one service: the worker id, the host name.
    pub instance: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Text,
            log_filter: None,
            otlp_endpoint: None,
            sample_ratio: 1.0,
            instance: String::new(),
        }
    }
}

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter directives are no such thing.
    #[error("read the log filter")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The endpoint is no http URL.
    #[error("set up the OTLP exporter")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The runtime of the exporter did not start.
    #[error("start the OTLP runtime")]
    Runtime(#[from] std::io::Error),
    /// Telemetry was started before.
    #[error("install the subscriber")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts logs and traces for the process; call it once, before anything logs. Keep the guard until the end: dropping
/// it sends the last spans, for 2 s at most.
pub fn init(service: &'static str, options: &Options) -> Result<TelemetryGuard, TelemetryError> {
    let filter = match &options.log_filter {
        Some(directives) => EnvFilter::try_new(directives)?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
    };
    let traces = match &options.otlp_endpoint {
        Some(endpoint) => Some(Traces::to_collector(service, endpoint, options)?),
        None => None,
    };
    let base = log::layer().with_writer(std::io::stderr);
    let logs = match options.log_format {
        LogFormat::Text => base
            .with_ansi(std::io::stderr().is_terminal())
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => base.json().flatten_event(true).with_filter(filter).boxed(),
    };
    tracing_subscriber::registry()
        .with(logs)
        .with(traces.as_ref().map(|traces| traces.layer(service)))
        .try_init()?;
    Ok(TelemetryGuard { traces })
}

/// Keeps the exporter alive.
#[must_use = "dropping the guard ends the traces"]
#[derive(Debug)]
pub struct TelemetryGuard {
    traces: Option<Traces>,
}

impl TelemetryGuard {
    /// Whether traces are sent somewhere.
    pub fn traces_enabled(&self) -> bool {
        self.traces.is_some()
    }

    /// A tracer for spans whose times are past, as those of a call that is over; `None` when traces go nowhere. The root
    /// of such a trace starts inside [`in_trace`].
    pub fn tracer(&self, name: &'static str) -> Option<SdkTracer> {
        self.traces.as_ref().map(|traces| traces.provider.tracer(name))
    }
}

/// Makes a span that starts the trace of a conversation: its trace id is the conversation id. `make` must create a root
/// span (`parent: None`); spans below it follow. Costs a thread-local when there are no traces.
///
/// ```
/// # use trunkline_shared::{name::ConversationId, runtime::telemetry::in_conversation};
/// let id = ConversationId::from_random([1; 16]);
/// let span = in_conversation(id, || tracing::info_span!(parent: None, "call", conversation = %id));
/// # drop(span);
/// ```
pub fn in_conversation(id: ConversationId, make: impl FnOnce() -> Span) -> Span {
    in_trace(id, || {
        let span = make();
        // Spans start when their context is first asked for, and take their trace id then.
        let _: Context = span.context();
        span
    })
}

/// Calls `start`; a root span it starts has the conversation id as its trace id.
pub fn in_trace<T>(id: ConversationId, start: impl FnOnce() -> T) -> T {
    NEXT_TRACE.set(Some(TraceId::from_bytes(id.trace_id())));
    let started = start();
    NEXT_TRACE.set(None);
    started
}

thread_local! {
    /// Trace id of the next root span that starts on this thread.
    static NEXT_TRACE: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// Random ids, but for the root spans of [`in_conversation`].
#[derive(Debug, Default)]
struct ConversationIds(RandomIdGenerator);

impl IdGenerator for ConversationIds {
    fn new_trace_id(&self) -> TraceId {
        NEXT_TRACE.take().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}

/// Keeps a share of the traces by the first four octets of the trace id. The SDK's own sampler looks at the last eight,
/// of which a UUID fixes the two highest bits.
#[derive(Debug, Clone)]
struct TraceShare {
    /// Trace ids whose first four octets are below are kept; 2^32 keeps all.
    below: u64,
}

impl TraceShare {
    fn new(ratio: f64) -> Self {
        let full = 4_294_967_296.0_f64;
        // Saturates, and NaN becomes 0.
        Self {
            below: (ratio.clamp(0.0, 1.0) * full) as u64,
        }
    }

    fn keeps(&self, trace_id: TraceId) -> bool {
        let [a, b, c, d, ..] = trace_id.to_bytes();
        u64::from(u32::from_be_bytes([a, b, c, d])) < self.below
    }
}

impl ShouldSample for TraceShare {
    fn should_sample(
        &self,
        parent_context: Option<&Context>,
        trace_id: TraceId,
        _name: &str,
        _span_kind: &SpanKind,
        _attributes: &[KeyValue],
        _links: &[Link],
    ) -> SamplingResult {
        SamplingResult {
            decision: if self.keeps(trace_id) {
                SamplingDecision::RecordAndSample
            } else {
                SamplingDecision::Drop
            },
            attributes: Vec::new(),
            trace_state: parent_context
                .map(|context| context.span().span_context().trace_state().clone())
                .unwrap_or_default(),
        }
    }
}

/// The tracer provider with the runtime its exporter works on.
#[derive(Debug)]
struct Traces {
    provider: SdkTracerProvider,
    runtime: Option<tokio::runtime::Runtime>,
    flush_timeout: Duration,
}

impl Traces {
    fn to_collector(service: &'static str, endpoint: &str, options: &Options) -> Result<Self, TelemetryError> {
        // Of its own: a runtime that is busy or blocked must not keep spans, nor spans keep it.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp")
            .enable_all()
            .build()?;
        let exporter = {
            let _entered = runtime.enter();
            SpanExporter::builder()
                .with_tonic()
                .with_endpoint(endpoint)
                .with_timeout(EXPORT_TIMEOUT)
                .build()?
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(EXPORT_EVERY)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attribute(KeyValue::new("service.instance.id", options.instance.clone()))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_id_generator(ConversationIds::default())
            .with_sampler(Sampler::ParentBased(Box::new(TraceShare::new(options.sample_ratio))))
            .with_resource(resource)
            .build();
        Ok(Self {
            provider,
            runtime: Some(runtime),
            flush_timeout: FLUSH_TIMEOUT,
        })
    }

    /// Our own spans only: those of the libraries the exporter uses would make new spans of every export.
    fn layer<S>(&self, service: &'static str) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(service))
            .with_location(false)
            .with_threads(false)
            .with_filter(tracing_subscriber::filter::filter_fn(|metadata| {
                metadata.target().starts_with("trunkline") && *metadata.level() <= tracing::Level::DEBUG
            }))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // A collector that does not answer in time loses the last spans; there is nobody left to tell.
        let _ = self.provider.shutdown_with_timeout(self.flush_timeout);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests;
