use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as Exporter};

use super::*;

#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl Exporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

fn traces_to(kept: &Kept) -> Traces {
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(kept.clone())
        .with_id_generator(ConversationIds::default())
        .build();
    Traces {
        provider,
        runtime: None,
        flush_timeout: FLUSH_TIMEOUT,
    }
}

#[test]
fn the_trace_of_a_call_has_its_conversation_id() {
    let kept = Kept::default();
    let traces = traces_to(&kept);
    let id = ConversationId::from_random([0x5a; 16]);
    let subscriber = tracing_subscriber::registry().with(traces.layer("trunkline-test"));
    tracing::subscriber::with_default(subscriber, || {
        let call = in_conversation(
            id,
            || tracing::info_span!(target: "trunkline_test", parent: None, "call"),
        );
        drop(tracing::info_span!(target: "trunkline_test", parent: &call, "leg"));
        drop(call);
        drop(tracing::info_span!(target: "trunkline_test", parent: None, "other"));
        drop(tracing::info_span!(target: "h2", parent: None, "library"));
    });
    let spans = kept.0.lock().unwrap();
    let trace = |name: &str| {
        spans
            .iter()
            .find(|span| span.name == name)
            .unwrap()
            .span_context
            .trace_id()
    };
    assert_eq!(trace("call"), TraceId::from_bytes(id.trace_id()));
    assert_eq!(trace("leg"), trace("call"));
    assert_ne!(trace("other"), trace("call"));
    let call = spans.iter().find(|span| span.name == "call").unwrap();
    assert_eq!(
        call.parent_span_id,
        SpanId::INVALID,
        "a root, not the child of something unseen"
    );
    assert_eq!(spans.len(), 3, "spans of libraries are left out");
}

#[test]
fn without_traces_a_conversation_costs_no_span_id() {
    let id = ConversationId::from_random([1; 16]);
    let span = in_conversation(id, || tracing::info_span!(parent: None, "call"));
    assert!(!span.context().span().span_context().is_valid());
    assert_eq!(NEXT_TRACE.get(), None);
}

#[test]
fn a_hung_collector_costs_only_spans() {
    // Accepts in the kernel's backlog and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let mut traces = Traces::to_collector("trunkline-test", &endpoint, &Options::default()).unwrap();
    traces.flush_timeout = Duration::from_millis(200);
    let subscriber = tracing_subscriber::registry().with(traces.layer("trunkline-test"));
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..5 * QUEUE {
                drop(tracing::info_span!(target: "trunkline_test", parent: None, "call", number));
            }
        });
        drop(traces);
        done.send(()).unwrap();
    });
    // Far above what it takes, far below what waiting for the collector would (an export times out after 5 s, and
    // 40 of them are due).
    finished.recv_timeout(Duration::from_secs(20)).unwrap();
}

#[test]
fn a_share_of_the_traces_is_kept() {
    let trace = |first: u32| {
        let mut octets = [1; 16];
        octets[..4].copy_from_slice(&first.to_be_bytes());
        TraceId::from_bytes(octets)
    };
    for (ratio, first, kept) in [
        (1.0, u32::MAX, true),
        (0.0, 0, false),
        (0.5, u32::MAX / 2, true),
        (0.5, u32::MAX / 2 + 1, false),
        (7.0, u32::MAX, true),
        (f64::NAN, 0, false),
    ] {
        assert_eq!(TraceShare::new(ratio).keeps(trace(first)), kept, "{ratio} {first}");
    }
}

#[test]
fn wrong_options_are_errors() {
    let options = Options {
        log_filter: Some("trunkline=loud".into()),
        ..Options::default()
    };
    assert!(matches!(
        init("trunkline-test", &options),
        Err(TelemetryError::Filter(_))
    ));
    let options = Options {
        otlp_endpoint: Some("not a url".into()),
        ..Options::default()
    };
    assert!(matches!(
        init("trunkline-test", &options),
        Err(TelemetryError::Exporter(_))
    ));
    assert!("xml".parse::<LogFormat>().is_err());
    assert_eq!("json".parse::<LogFormat>().unwrap().to_string(), "json");
}
