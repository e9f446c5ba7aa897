use std::time::Duration;

use trunkline_shared::call::{AttemptTarget, CallState, DecidedBy};
use trunkline_shared::name::{ConversationId, RouteId, TrunkId};
use trunkline_shared::reject::Reject;

use super::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn attempt(line: &str, start: u64, sip_status: u16, decision: AttemptDecision) -> Attempt {
    Attempt {
        target: AttemptTarget::Line(format!("trunks/main/lines/{line}").parse().unwrap()),
        destination: "192.0.2.9:5060".into(),
        start_time: at(start),
        sip_status,
        q850_cause: None,
        decision: Some(decision),
    }
}

/// Tried one line, was answered by the next after 5 s, ended after 65.
fn call() -> (CallRecord, CallEnd) {
    let end = CallEnd {
        time: at(65),
        reason: EndReason::CallerBye,
        sip_status: 200,
        q850_cause: Some(16),
        decided_by: None,
    };
    let record = CallRecord {
        id: ConversationId::from_random([7; 16]),
        state: CallState::Ended(end.clone()),
        worker: None,
        call_id: "c".into(),
        from_uri: "sip:alice@example.com".into(),
        to_uri: "sip:bob@example.com".into(),
        request_uri: "sip:bob@example.com".into(),
        inbound_trunk: TrunkId::new("main").unwrap(),
        outbound_trunk: Some(TrunkId::new("out").unwrap()),
        route: Some(RouteId::new("abroad").unwrap()),
        language: None,
        start_time: at(0),
        ring_time: Some(at(3)),
        answer_time: Some(at(5)),
        attempts: vec![
            attempt("one", 1, 503, AttemptDecision::NextTarget),
            attempt("two", 2, 200, AttemptDecision::Answered),
        ],
        media: vec![
            MediaLegRecord {
                caller: true,
                ..MediaLegRecord::default()
            },
            MediaLegRecord::default(),
        ],
        authenticated_user: "alice".into(),
        source: "192.0.2.1:5060".parse().unwrap(),
    };
    (record, end)
}

fn attribute<'a>(part: &'a Part, key: &str) -> Option<&'a opentelemetry::Value> {
    part.attributes
        .iter()
        .find(|attribute| attribute.key.as_str() == key)
        .map(|attribute| &attribute.value)
}

#[test]
fn spans_have_the_times_they_really_had() {
    let (call, end) = call();
    let parts: Vec<_> = children(&call, &end)
        .iter()
        .map(|part| (part.name, part.from, part.until))
        .collect();
    let expected = [
        ("route", at(0), at(1)),
        ("attempt", at(1), at(2)),
        ("attempt", at(2), at(5)),
        ("media", at(5), at(65)),
        ("media", at(5), at(65)),
    ];
    assert_eq!(parts, expected);
    let root = root_part(&call, &end);
    assert_eq!((root.from, root.until, root.failure), (at(0), at(65), None));
}

#[test]
fn a_failed_attempt_and_a_refused_call_are_errors_with_their_cause() {
    let (mut call, mut end) = call();
    let parts = children(&call, &end);
    assert_eq!(
        (parts[1].failure.as_deref(), parts[2].failure.as_deref()),
        (Some("503"), None)
    );
    assert_eq!(
        attribute(&parts[1], "trunkline.target")
            .map(|value| value.as_str().into_owned())
            .as_deref(),
        Some("trunks/main/lines/one")
    );

    end.reason = EndReason::Rejected(Reject::MaxCalls);
    end.decided_by = Some(DecidedBy {
        trunk: call.inbound_trunk.clone(),
        setting: "max_calls".into(),
        value: "2".into(),
    });
    (call.attempts, call.answer_time) = (Vec::new(), None);
    let root = root_part(&call, &end);
    assert_eq!(root.failure.as_deref(), Some("max_calls"));
    let decided = attribute(&root, "trunkline.decided_by").map(|value| value.as_str().into_owned());
    assert_eq!(decided.as_deref(), Some("trunks/main max_calls=2"));
    assert_eq!(children(&call, &end).len(), 1, "routing, and nothing after it");
}

#[test]
fn a_clock_set_back_makes_no_span_end_before_it_began() {
    let (mut call, mut end) = call();
    end.time = at(0) - Duration::from_secs(60);
    call.attempts[1].start_time = at(0) - Duration::from_secs(5);
    assert!(
        children(&call, &end)
            .iter()
            .chain([&root_part(&call, &end)])
            .all(|part| part.until >= part.from)
    );
}

#[test]
fn a_trace_names_no_caller() {
    let (call, end) = call();
    for part in children(&call, &end).iter().chain([&root_part(&call, &end)]) {
        let text = format!("{:?}", part.attributes);
        assert!(!text.contains("alice") && !text.contains("192.0.2."), "{text}");
    }
}
