use std::collections::BTreeMap;

use tempfile::TempDir;
use trunkline_proto::dataplane::v1 as dataplane;
use trunkline_proto::dataplane::v1::report::Event;
use trunkline_shared::binding::Aor;
use trunkline_shared::binding::AorBindings;
use trunkline_shared::call::{CallEnd, CallRecord, EndReason};
use trunkline_shared::name::{ConversationId, TrunkId};

use super::super::scripted::{ReportPeer, Scripted, within};
use super::*;
use crate::env::bindings::BindingStore;

fn call(number: u8, state: CallState) -> Report {
    Report::Call(Box::new(CallRecord {
        id: ConversationId::from_random([number; 16]),
        state,
        worker: None,
        call_id: format!("call-{number}").into(),
        from_uri: "sip:a@example.com".into(),
        to_uri: "sip:b@example.com".into(),
        request_uri: "sip:b@example.com".into(),
        inbound_trunk: TrunkId::new("main").unwrap(),
        outbound_trunk: None,
        route: None,
        language: None,
        start_time: SystemTime::UNIX_EPOCH,
        ring_time: None,
        answer_time: None,
        attempts: Vec::new(),
        media: Vec::new(),
        authenticated_user: "".into(),
        source: "192.0.2.1:5060".parse().unwrap(),
    }))
}

fn ended() -> CallState {
    CallState::Ended(CallEnd {
        time: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        reason: EndReason::CallerBye,
        sip_status: 200,
        q850_cause: None,
        decided_by: None,
    })
}

fn registration(user: &str, change_time_ms: i64) -> Report {
    Report::Registration(AorBindings {
        aor: Aor {
            trunk: TrunkId::new("main").unwrap(),
            user: user.into(),
        },
        address_of_record: "sip:alice@example.com".into(),
        bindings: Vec::new(),
        change_time_ms,
    })
}

fn failure() -> Report {
    Report::AuthenticationFailure {
        trunk: TrunkId::new("main").unwrap(),
        source: "192.0.2.1:5060".parse().unwrap(),
        username: "eve".into(),
        reason: "bad_credentials",
    }
}

struct Worker {
    sender: ReportSender,
    uplink: Option<ReportUplink>,
    thread: SpoolThread,
    boot: Boot,
    metrics: Arc<MetricsSet>,
}

fn worker(state: &TempDir) -> Worker {
    let boot = Boot::begin();
    let metrics = Arc::new(MetricsSet::new());
    let store = Arc::new(BindingStore::default());
    let journal = Arc::new(BindingJournal::open(state.path(), store, SystemTime::now()).unwrap());
    let traces = CallTraces::default();
    let (sender, uplink, thread) = start_spool(
        state.path(),
        boot,
        Limits::default(),
        journal,
        traces,
        Arc::clone(&metrics),
    )
    .unwrap();
    Worker {
        sender,
        uplink: Some(uplink),
        thread,
        boot,
        metrics,
    }
}

fn encoded(report: &Report) -> (Kind, Weight, Vec<u8>, usize) {
    let mut message = Vec::new();
    let (kind, weight, key) = encode(report, &mut message);
    (kind, weight, message, key)
}

/// What a report is, in a word.
fn word(report: &dataplane::Report) -> String {
    match report.event.as_ref().unwrap() {
        Event::Booted(booted) => format!("booted {}", booted.boot_id),
        Event::Call(call) => format!("{} {:?}", call.call_id, call.state()),
        Event::Registration(view) => format!("{} {}", view.user, view.change_time_ms),
        Event::AuthenticationFailure(failure) => failure.username.clone(),
    }
}

/// Receives as the control plane stores: by spool, each sequence number once.
#[derive(Default)]
struct Stored(BTreeMap<String, Vec<String>>);

impl Stored {
    fn take(&mut self, request: &dataplane::StreamReportsRequest) -> u64 {
        assert_eq!(request.spool_id, request.boot_id);
        let spool = self.0.entry(request.spool_id.clone()).or_default();
        for report in &request.reports {
            let report = &dataplane::Report::decode(&**report).unwrap();
            let known = spool.len() as u64;
            assert!(
                report.sequence <= known + 1,
                "no gaps: {} after {known}",
                report.sequence
            );
            if report.sequence == known + 1 {
                spool.push(word(report));
            }
        }
        spool.len() as u64
    }

    /// Takes and acknowledges until `count` reports of `boot` are stored.
    async fn until(&mut self, peer: &mut ReportPeer, boot: &Boot, count: usize) {
        while self.of(boot).len() < count {
            let request = peer.next().await;
            let sequence = self.take(&request);
            peer.acknowledge(sequence).await;
        }
    }

    fn of(&self, boot: &Boot) -> &[String] {
        self.0.get(&boot.id.to_string()).map_or(&[], Vec::as_slice)
    }
}

#[tokio::test]
async fn reports_arrive_in_order_after_the_boot() {
    let state = tempfile::tempdir().unwrap();
    let mut control = Scripted::start().await;
    let mut worker = worker(&state);
    let uplink = worker.uplink.take().unwrap();
    let mut backlog = uplink.backlog();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(uplink.run(control.link(), shutdown.clone()));
    let now = SystemTime::now();
    for report in [
        call(1, CallState::Trying),
        registration("alice", 5),
        failure(),
        call(2, ended()),
    ] {
        worker.sender.send(now, report);
    }
    let mut stored = Stored::default();
    stored.until(&mut control.report_stream().await, &worker.boot, 5).await;
    let booted = format!("booted {}", worker.boot.id);
    assert_eq!(
        stored.of(&worker.boot),
        [&booted, "call-1 Trying", "alice 5", "eve", "call-2 Ended"]
    );
    within(backlog.wait_for(|backlog| backlog.reports == 0)).await.unwrap();
    worker.thread.finish();
    shutdown.cancel();
    within(running).await.unwrap();
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_and_stored_once() {
    let state = tempfile::tempdir().unwrap();
    let mut control = Scripted::start().await;
    let mut worker = worker(&state);
    let uplink = worker.uplink.take().unwrap();
    tokio::spawn(uplink.run(control.link(), CancellationToken::new()));
    let now = SystemTime::now();
    let mut stored = Stored::default();

    // Stored, and the connection breaks before the acknowledgement.
    worker.sender.send(now, call(1, ended()));
    let mut peer = control.report_stream().await;
    while stored.of(&worker.boot).len() < 2 {
        let request = peer.next().await;
        stored.take(&request);
    }
    drop(peer);

    worker.sender.send(now, call(2, ended()));
    let mut peer = control.report_stream().await;
    let first = peer.next().await;
    let report = dataplane::Report::decode(&*first.reports[0]).unwrap();
    assert_eq!(report.sequence, 1, "from the last acknowledgement on");
    let sequence = stored.take(&first);
    peer.acknowledge(sequence).await;
    stored.until(&mut peer, &worker.boot, 3).await;
    let booted = format!("booted {}", worker.boot.id);
    assert_eq!(stored.of(&worker.boot), [&booted, "call-1 Ended", "call-2 Ended"]);
}

#[tokio::test]
async fn a_killed_worker_leaves_its_reports_to_the_next_one() {
    let state = tempfile::tempdir().unwrap();
    let first = worker(&state);
    let now = SystemTime::now();
    for number in 1..=3 {
        first.sender.send(now, call(number, ended()));
    }
    let mut written = first.uplink.as_ref().unwrap().backlog();
    within(written.wait_for(|backlog| backlog.reports == 4)).await.unwrap();
    // Killed: nobody finishes anything.
    std::mem::forget(first.thread);

    let mut control = Scripted::start().await;
    let mut second = worker(&state);
    second.sender.send(now, call(4, ended()));
    tokio::spawn(
        second
            .uplink
            .take()
            .unwrap()
            .run(control.link(), CancellationToken::new()),
    );
    let mut stored = Stored::default();
    let mut peer = control.report_stream().await;
    stored.until(&mut peer, &first.boot, 4).await;
    assert!(stored.of(&second.boot).is_empty(), "in order: the old ones first");
    stored.until(&mut peer, &second.boot, 2).await;
    assert_eq!(
        stored.of(&first.boot)[1..],
        ["call-1 Ended", "call-2 Ended", "call-3 Ended"]
    );
    assert_eq!(
        stored.of(&second.boot),
        [format!("booted {}", second.boot.id), "call-4 Ended".into()]
    );
}

#[tokio::test]
async fn a_registration_that_passes_is_on_disk_for_the_next_start() {
    let state = tempfile::tempdir().unwrap();
    let worker = worker(&state);
    worker.sender.send(SystemTime::now(), registration("alice", 5));
    worker.thread.finish();
    let content = std::fs::read(state.path().join("bindings/journal")).unwrap();
    assert!(content.windows(5).any(|octets| octets == b"alice"));
}

#[tokio::test]
async fn the_last_reports_are_flushed_at_the_end() {
    let state = tempfile::tempdir().unwrap();
    let mut control = Scripted::start().await;
    let mut worker = worker(&state);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(worker.uplink.take().unwrap().run(control.link(), shutdown.clone()));
    let mut peer = control.report_stream().await;
    worker.sender.send(SystemTime::now(), call(1, ended()));
    worker.thread.finish();
    shutdown.cancel();
    let mut stored = Stored::default();
    stored.until(&mut peer, &worker.boot, 2).await;
    within(running).await.unwrap();
    assert_eq!(stored.of(&worker.boot)[1], "call-1 Ended");
}

#[test]
fn after_the_end_a_report_is_refused_and_counted() {
    let state = tempfile::tempdir().unwrap();
    let worker = worker(&state);
    worker.thread.finish();
    worker.sender.send(SystemTime::now(), failure());
    assert!(
        worker
            .metrics
            .encode()
            .unwrap()
            .contains("trunkline_worker_reports_refused_total 1")
    );
}

#[tokio::test]
async fn a_worker_killed_before_its_spool_thread_came_by_loses_nothing() {
    let state = tempfile::tempdir().unwrap();
    let (dead, now) = (Boot::begin(), SystemTime::now());
    let dir = state.path().join("spool");
    drop(Spool::open(&dir, dead.id, Limits::default(), None).unwrap());
    {
        // As a shard leaves it: no thread ever takes it.
        let (intake, _taken) = Intake::create(&dir, dead.id).unwrap();
        for report in [call(1, CallState::Answered), registration("alice", 5), call(1, ended())] {
            let (kind, weight, message, key) = encoded(&report);
            intake.put(&Entry::new(kind, weight, now, &message, key)).unwrap();
        }
    }
    let mut control = Scripted::start().await;
    let mut worker = worker(&state);
    let uplink = worker.uplink.take().unwrap();
    tokio::spawn(uplink.run(control.link(), CancellationToken::new()));
    let mut peer = control.report_stream().await;
    let first = peer.next().await;
    assert_eq!(first.boot_id, dead.id.to_string(), "the calls are of that process");
    assert_ne!(first.spool_id, first.boot_id, "and the numbers are not of its spool");
    let words: Vec<String> = first
        .reports
        .iter()
        .map(|report| word(&dataplane::Report::decode(&**report).unwrap()))
        .collect();
    assert_eq!(words, ["call-1 Answered", "alice 5", "call-1 Ended"]);
    peer.acknowledge(3).await;
    let mut stored = Stored::default();
    stored.until(&mut peer, &worker.boot, 1).await;
    let content = std::fs::read(state.path().join("bindings/journal")).unwrap();
    assert!(content.windows(5).any(|octets| octets == b"alice"));
}

#[test]
fn of_a_subject_the_last_word_is_kept_where_it_was_said() {
    let reports = [
        call(1, CallState::Trying),
        failure(),
        registration("alice", 1),
        call(2, CallState::Trying),
        failure(),
        call(1, ended()),
        registration("bob", 1),
        registration("alice", 2),
    ];
    let all: Vec<_> = reports.iter().map(encoded).collect();
    let entries = all
        .iter()
        .map(|(kind, weight, message, key)| Entry::new(*kind, *weight, SystemTime::now(), message, *key));
    let kept: Vec<&[u8]> = last_words(entries).iter().map(|entry| entry.message).collect();
    let expected: Vec<&[u8]> = [1, 3, 4, 5, 6, 7].iter().map(|at| &*all[*at].2).collect();
    assert_eq!(kept, expected);
}

#[test]
fn the_key_of_a_report_is_what_it_is_of() {
    let key = |report: &Report| {
        let (_, _, message, key) = encoded(report);
        message[..key].to_vec()
    };
    assert_eq!(key(&call(1, CallState::Trying)), key(&call(1, ended())));
    assert_ne!(key(&call(1, ended())), key(&call(2, ended())));
    assert_eq!(key(&registration("alice", 1)), key(&registration("alice", 2)));
    assert_ne!(key(&registration("alice", 1)), key(&registration("alicf", 1)));
    let long = "x".repeat(300);
    assert_eq!(key(&registration(&long, 1)), key(&registration(&long, 2)));
    assert!(key(&registration(&long, 1)).len() > 300);
    assert!(key(&failure()).is_empty());
}
