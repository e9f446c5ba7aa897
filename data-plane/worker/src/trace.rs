//! The trace of a call, made from its record when it is over.
//!
//! One trace per call, with the conversation id as trace id: the call, the routing, every attempt, and the media of every
//! leg, each with the times it really had. Made on the thread that writes the record to disk, so that no message pays for
//! it, and only when there is a collector.

use std::time::SystemTime;

use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};
use trunkline_shared::call::{Attempt, AttemptDecision, CallEnd, CallRecord, EndReason, MediaLegRecord};
use trunkline_shared::runtime::telemetry::{self, SdkTracer};

/// Makes traces of calls, or does nothing.
#[derive(Debug, Clone, Default)]
pub struct CallTraces(Option<SdkTracer>);

impl CallTraces {
    /// With the tracer of the process, when traces go somewhere.
    pub fn new(tracer: Option<SdkTracer>) -> Self {
        Self(tracer)
    }

    /// Whether traces go anywhere.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Makes the trace of a call that is over.
    pub fn record(&self, call: &CallRecord) {
        let (Some(tracer), Some(end)) = (&self.0, call.end()) else {
            return;
        };
        let root = telemetry::in_trace(call.id, || {
            start(tracer, root_part(call, end), SpanKind::Server, &Context::new())
        });
        let context = Context::new().with_span(root);
        for part in children(call, end) {
            let kind = if part.outbound {
                SpanKind::Client
            } else {
                SpanKind::Internal
            };
            let until = part.until;
            start(tracer, part, kind, &context).end_with_timestamp(until);
        }
        let root = context.span();
        let moments = [("ringing", call.ring_time), ("answered", call.answer_time)];
        for (name, time) in moments {
            if let Some(time) = time {
                root.add_event_with_timestamp(name, time, Vec::new());
            }
        }
        root.end_with_timestamp(end.time.max(call.start_time));
    }
}

/// One span to be.
#[derive(Debug, Clone, PartialEq)]
struct Part {
    name: &'static str,
    from: SystemTime,
    until: SystemTime,
    /// To somebody else.
    outbound: bool,
    failure: Option<String>,
    attributes: Vec<KeyValue>,
}

fn start(
    tracer: &SdkTracer,
    part: Part,
    kind: SpanKind,
    parent: &Context,
) -> <SdkTracer as opentelemetry::trace::Tracer>::Span {
    let builder = SpanBuilder::from_name(part.name)
        .with_kind(kind)
        .with_start_time(part.from)
        .with_attributes(part.attributes);
    let mut span = tracer.build_with_context(builder, parent);
    if let Some(failure) = part.failure {
        span.set_status(Status::error(failure));
    }
    span
}

fn root_part(call: &CallRecord, end: &CallEnd) -> Part {
    // No addresses and no user names: a trace goes to more people than a call record.
    let mut attributes = vec![
        KeyValue::new("trunkline.conversation", call.id.to_string()),
        KeyValue::new("trunkline.inbound_trunk", call.inbound_trunk.to_string()),
        KeyValue::new("trunkline.end_reason", end.reason.token()),
        KeyValue::new("sip.status", i64::from(end.sip_status)),
    ];
    if let Some(trunk) = &call.outbound_trunk {
        attributes.push(KeyValue::new("trunkline.outbound_trunk", trunk.to_string()));
    }
    if let Some(cause) = end.q850_cause {
        attributes.push(KeyValue::new("q850.cause", i64::from(cause)));
    }
    if let Some(decided) = &end.decided_by {
        let setting = format!("trunks/{} {}={}", decided.trunk, decided.setting, decided.value);
        attributes.push(KeyValue::new("trunkline.decided_by", setting));
    }
    let failed = matches!(
        end.reason,
        EndReason::Rejected(_) | EndReason::WorkerStopped | EndReason::MediaFailed
    );
    Part {
        name: "call",
        from: call.start_time,
        until: end.time.max(call.start_time),
        outbound: false,
        failure: failed.then(|| end.reason.token().to_owned()),
        attributes,
    }
}

fn children(call: &CallRecord, end: &CallEnd) -> Vec<Part> {
    let mut parts = vec![route_part(call, end)];
    for (index, attempt) in call.attempts.iter().enumerate() {
        parts.push(attempt_part(call, end, attempt, call.attempts.get(index + 1)));
    }
    if let Some(answered) = call.answer_time {
        parts.extend(call.media.iter().map(|leg| media_part(leg, answered, end.time)));
    }
    parts
}

/// From the INVITE to the first attempt, or to the refusal.
fn route_part(call: &CallRecord, end: &CallEnd) -> Part {
    let until = call.attempts.first().map_or(end.time, |attempt| attempt.start_time);
    let route = call
        .route
        .as_ref()
        .map_or_else(|| "phones".to_owned(), |route| route.name());
    Part {
        name: "route",
        from: call.start_time,
        until: until.max(call.start_time),
        outbound: false,
        failure: None,
        attributes: vec![KeyValue::new("trunkline.route", route)],
    }
}

/// Until it was answered, the next one began, or the call was over.
fn attempt_part(call: &CallRecord, end: &CallEnd, attempt: &Attempt, next: Option<&Attempt>) -> Part {
    let answered = call
        .answer_time
        .filter(|_| attempt.decision == Some(AttemptDecision::Answered));
    let until = answered.or(next.map(|next| next.start_time)).unwrap_or(end.time);
    let mut attributes = vec![
        KeyValue::new("trunkline.target", attempt.target.to_string()),
        KeyValue::new("sip.status", i64::from(attempt.sip_status)),
    ];
    if let Some(decision) = attempt.decision {
        attributes.push(KeyValue::new("trunkline.decision", decision.token()));
    }
    let failed = matches!(
        attempt.decision,
        Some(AttemptDecision::NextTarget | AttemptDecision::Ended)
    );
    Part {
        name: "attempt",
        from: attempt.start_time,
        until: until.max(attempt.start_time),
        outbound: true,
        failure: failed.then(|| attempt.sip_status.to_string()),
        attributes,
    }
}

fn media_part(leg: &MediaLegRecord, from: SystemTime, until: SystemTime) -> Part {
    let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Part {
        name: "media",
        from,
        until: until.max(from),
        outbound: false,
        failure: None,
        attributes: vec![
            KeyValue::new("trunkline.leg", if leg.caller { "caller" } else { "callee" }),
            KeyValue::new("media.stream", i64::from(leg.stream)),
            KeyValue::new("media.codec", leg.codec.to_string()),
            KeyValue::new("media.path", leg.path.token()),
            KeyValue::new("media.srtp", leg.srtp_suite.is_some()),
            KeyValue::new("media.packets_received", count(leg.packets_received)),
            KeyValue::new("media.packets_lost", leg.packets_lost),
            KeyValue::new("media.packets_sent", count(leg.packets_sent)),
            KeyValue::new("media.packets_rejected", count(leg.packets_rejected)),
            KeyValue::new("media.jitter_ms", leg.jitter.as_secs_f64() * 1000.0),
            KeyValue::new("media.mos", f64::from(leg.mos_hundredths) / 100.0),
        ],
    }
}

#[cfg(test)]
mod tests;
