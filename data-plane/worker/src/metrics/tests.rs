use std::net::SocketAddr;
use std::time::SystemTime;

use trunkline_shared::call::{CallEnd, CallState, EndReason, MediaLegRecord};
use trunkline_shared::name::ConversationId;

use super::*;
use crate::net::listener::ListenerState;

fn trunk(id: &str) -> TrunkId {
    TrunkId::new(id).unwrap()
}

fn lines_of(set: &MetricsSet, name: &str) -> Vec<String> {
    let wanted = format!("trunkline_worker_{name}");
    set.encode()
        .unwrap()
        .lines()
        .filter(|line| line.starts_with(&wanted))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_counter_of_the_engine_is_shown() {
    let set = MetricsSet::new();
    for (times, counter) in (1..).zip(Counter::ALL) {
        (0..times).for_each(|_| set.count(counter));
    }
    for (times, counter) in (1..).zip(Counter::ALL) {
        let expected = format!("trunkline_worker_{}_total {times}", counter.name());
        assert_eq!(lines_of(&set, &format!("{}_total", counter.name())), [expected]);
    }
}

#[test]
fn refusals_have_reason_and_trunk() {
    for (index, reject) in Reject::ALL.into_iter().enumerate() {
        assert_eq!(reject as usize, index, "the table is in the order of the enum");
    }
    let set = MetricsSet::new();
    set.count_reject(Reject::MaxCalls, Some(&trunk("main")));
    set.count_reject(Reject::MaxCalls, Some(&trunk("main")));
    set.count_reject(Reject::BadRequest, None);
    let mut lines = lines_of(&set, "rejects_total");
    lines.sort();
    let expected = [
        r#"trunkline_worker_rejects_total{reason="bad_request",trunk=""} 1"#,
        r#"trunkline_worker_rejects_total{reason="max_calls",trunk="main"} 2"#,
    ];
    assert_eq!(lines, expected);
}

#[test]
fn trunks_beyond_the_bound_are_counted_together() {
    let set = MetricsSet::new();
    for number in 0..TRUNKS + 5 {
        set.count_reject(Reject::AclDenied, Some(&trunk(&format!("t{number}"))));
    }
    let lines = lines_of(&set, "rejects_total");
    assert_eq!(lines.len(), TRUNKS + 1);
    assert!(lines.contains(&r#"trunkline_worker_rejects_total{reason="acl_denied",trunk="other"} 5"#.to_owned()));
}

#[test]
fn watched_figures_are_read_at_every_scrape() {
    let set = MetricsSet::new();
    let calls = Arc::new(AtomicU64::new(3));
    let read = Arc::clone(&calls);
    set.watch_gauge("active_calls", "Active calls", move || {
        read.load(Ordering::Relaxed) as i64
    });
    assert_eq!(lines_of(&set, "active_calls "), ["trunkline_worker_active_calls 3"]);
    calls.store(5, Ordering::Relaxed);
    assert_eq!(lines_of(&set, "active_calls "), ["trunkline_worker_active_calls 5"]);
}

#[test]
fn listeners_show_whether_they_are_bound() {
    let address: SocketAddr = "192.0.2.1:5060".parse().unwrap();
    let state = |id, error| ListenerState {
        trunk: trunk(id),
        address,
        error,
        since: SystemTime::UNIX_EPOCH,
    };
    let states = [
        state("a", None),
        state("b", Some(("ADDRESS_IN_USE", "in use".to_owned()))),
    ];
    let report = ListenerReport {
        listeners: Arc::default(),
        states: states.into(),
    };
    let set = MetricsSet::new();
    set.watch_listeners(watch::channel(report).1);
    let expected = [
        r#"trunkline_worker_listener_bound{trunk="a",address="192.0.2.1:5060"} 1"#,
        r#"trunkline_worker_listener_bound{trunk="b",address="192.0.2.1:5060"} 0"#,
    ];
    assert_eq!(lines_of(&set, "listener_bound{"), expected);
}

#[test]
fn a_call_that_is_over_is_measured_and_one_that_is_not_is_not() {
    let start = SystemTime::UNIX_EPOCH;
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut call = CallRecord {
        id: ConversationId::from_random([7; 16]),
        state: CallState::Answered,
        worker: None,
        call_id: "".into(),
        from_uri: "".into(),
        to_uri: "".into(),
        request_uri: "".into(),
        inbound_trunk: trunk("main"),
        outbound_trunk: None,
        route: None,
        language: None,
        start_time: start,
        ring_time: Some(at(2)),
        answer_time: Some(at(10)),
        attempts: Vec::new(),
        media: vec![
            MediaLegRecord {
                mos_hundredths: 420,
                ..MediaLegRecord::default()
            },
            MediaLegRecord::default(),
        ],
        authenticated_user: "".into(),
        source: "192.0.2.1:5060".parse().unwrap(),
    };
    let set = MetricsSet::new();
    set.note_call(&call);
    assert_eq!(lines_of(&set, "calls_finished_total"), [""; 0]);
    let end = CallEnd {
        time: at(70),
        reason: EndReason::CallerBye,
        sip_status: 200,
        q850_cause: None,
        decided_by: None,
    };
    call.state = CallState::Ended(end);
    set.note_call(&call);
    let expected = [r#"trunkline_worker_calls_finished_total{reason="caller_bye"} 1"#];
    assert_eq!(lines_of(&set, "calls_finished_total"), expected);
    assert_eq!(
        lines_of(&set, "call_setup_seconds_sum"),
        ["trunkline_worker_call_setup_seconds_sum 2.0"]
    );
    assert_eq!(
        lines_of(&set, "call_duration_seconds_sum"),
        ["trunkline_worker_call_duration_seconds_sum 60.0"]
    );
    assert_eq!(
        lines_of(&set, "call_quality_mos_count"),
        ["trunkline_worker_call_quality_mos_count 1"]
    );
}
