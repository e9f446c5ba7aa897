use std::collections::BTreeMap;

use tempfile::TempDir;
use trunkline_proto::dataplane::v1 as dataplane;
use trunkline_shared::binding::AorBindings;
use trunkline_shared::call::{CallEnd, CallRecord, EndReason};
use trunkline_shared::name::TrunkId;

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
        call(1, ended()),
    ] {
        worker.sender.send(now, report);
    }
    let mut stored = Stored::default();
    stored.until(&mut control.report_stream().await, &worker.boot, 5).await;
    let booted = format!("booted {}", worker.boot.id);
    assert_eq!(
        stored.of(&worker.boot),
        [&booted, "call-1 Trying", "alice 5", "eve", "call-1 Ended"]
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
    assert_eq!(first.reports[0].sequence, 1, "from the last acknowledgement on");
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

#[test]
fn beyond_the_queue_the_last_report_of_a_subject_counts_and_nothing_overtakes() {
    let intake = Intake {
        state: Mutex::default(),
        ready: Condvar::new(),
        metrics: Arc::new(MetricsSet::new()),
    };
    let now = SystemTime::now();
    for change in 0..QUEUE as i64 {
        intake.put(now, registration("queued", change));
    }
    intake.put(now, call(1, CallState::Trying));
    intake.put(now, registration("alice", 1));
    intake.put(now, call(1, CallState::Answered));
    intake.put(now, registration("alice", 2));
    intake.put(now, call(1, ended()));
    intake.put(now, failure());
    let taken = intake.take(None).unwrap();
    assert_eq!(taken.len(), QUEUE + 2);
    let in_order = |(index, (_, report)): (usize, &(SystemTime, Report))| matches!(report, Report::Registration(view) if view.change_time_ms == index as i64);
    assert!(taken[..QUEUE].iter().enumerate().all(in_order));
    for (_, report) in &taken[QUEUE..] {
        match report {
            Report::Call(call) => assert!(call.end().is_some()),
            Report::Registration(view) => assert_eq!(view.change_time_ms, 2),
            Report::AuthenticationFailure { .. } => panic!("a digest failure does not wait"),
        }
    }
    assert!(intake.metrics.encode().unwrap().contains("reports_refused_total 1"));
    intake.put(now, failure());
    assert_eq!(intake.take(None).unwrap().len(), 1, "with room again everything queues");
}

#[test]
fn the_overflow_is_bounded() {
    let intake = Intake {
        state: Mutex::default(),
        ready: Condvar::new(),
        metrics: Arc::new(MetricsSet::new()),
    };
    let now = SystemTime::now();
    for user in 0..QUEUE + OVERFLOW + 3 {
        intake.put(now, registration(&user.to_string(), 1));
    }
    // Room for a subject that is there already.
    intake.put(now, registration(&(QUEUE + 1).to_string(), 2));
    assert_eq!(intake.take(None).unwrap().len(), QUEUE + OVERFLOW);
    assert!(intake.metrics.encode().unwrap().contains("reports_refused_total 3"));
}
