use std::path::Path;

use bytes::Bytes;
use prost::Message as _;
use trunkline_proto::v1;

use super::super::scripted::{Scripted, WatchPeer, within};
use super::super::spool::Limits;
use super::super::{Boot, record, reports};
use super::*;
use crate::metrics::MetricsSet;
use crate::trace::CallTraces;

struct Worker {
    store: Arc<BindingStore>,
    journal: Arc<BindingJournal>,
    uplink: reports::ReportUplink,
    _thread: reports::SpoolThread,
    shutdown: CancellationToken,
}

fn worker(control: &Scripted, state: &Path) -> Worker {
    let store = Arc::new(BindingStore::default());
    let journal = Arc::new(BindingJournal::open(state, Arc::clone(&store), SystemTime::now()).unwrap());
    let metrics = Arc::new(MetricsSet::new());
    let (sender, uplink, thread) = reports::start_spool(
        state,
        Boot::begin(),
        Limits::default(),
        Arc::clone(&journal),
        CallTraces::default(),
        metrics,
    )
    .unwrap();
    let id = WorkerId::new("us").unwrap();
    let watch = BindingWatch::new(id, Arc::clone(&store), Arc::clone(&journal), sender);
    let shutdown = CancellationToken::new();
    tokio::spawn(watch.run(control.link(), shutdown.clone()));
    Worker {
        store,
        journal,
        uplink,
        _thread: thread,
        shutdown,
    }
}

/// One live binding that `worker` holds, or none.
fn change(user: &str, change_time_ms: i64, worker: Option<&str>) -> Bytes {
    let binding = |worker| v1::Binding {
        contact_uri: format!("sip:{user}@192.0.2.7:5060"),
        q_thousandths: 1000,
        expire_time: Some((SystemTime::now() + Duration::from_secs(3600)).into()),
        create_time: Some(SystemTime::now().into()),
        update_time: Some(SystemTime::now().into()),
        call_id: "c".into(),
        cseq: 1,
        protocol: v1::TransportProtocol::Udp.into(),
        source_address: "192.0.2.7:5060".into(),
        worker: format!("workers/{worker}"),
        ..v1::Binding::default()
    };
    trunkline_proto::dataplane::v1::AorBindings {
        trunk: "trunks/main".into(),
        user: user.into(),
        address_of_record: format!("sip:{user}@example.com"),
        bindings: worker.map(binding).into_iter().collect(),
        change_time_ms,
    }
    .encode_to_vec()
    .into()
}

async fn send(peer: &WatchPeer, revision: i64, changes: Vec<Bytes>) {
    peer.send(WatchBindingsResponse {
        revision,
        changes,
        reset: false,
        complete: false,
    })
    .await;
}

/// A message is taken in whole before its revision is noted.
async fn reaches(worker: &Worker, revision: i64) {
    within(async {
        while worker.journal.revision() != revision {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn users(store: &BindingStore) -> Vec<String> {
    let live = |view: &AorBindings| !view.bindings.is_empty();
    let mut users: Vec<String> = store
        .views()
        .into_iter()
        .filter(live)
        .map(|view| view.aor.user.to_string())
        .collect();
    users.sort();
    users
}

#[tokio::test]
async fn a_full_set_then_changes_are_taken_and_the_later_change_wins() {
    let state = tempfile::tempdir().unwrap();
    let mut control = Scripted::start().await;
    let worker = worker(&control, state.path());
    let peer = control.watch().await;
    assert_eq!(peer.revision, 0);
    let first = vec![change("alice", 10, Some("other")), change("bob", 10, Some("other"))];
    peer.send(WatchBindingsResponse {
        revision: 3,
        changes: first,
        reset: true,
        complete: false,
    })
    .await;
    let rest = vec![change("carol", 10, Some("other"))];
    peer.send(WatchBindingsResponse {
        revision: 7,
        changes: rest,
        reset: false,
        complete: true,
    })
    .await;
    reaches(&worker, 7).await;
    assert_eq!(users(&worker.store), ["alice", "bob", "carol"]);
    send(&peer, 9, vec![change("alice", 9, None), change("bob", 11, None)]).await;
    reaches(&worker, 9).await;
    assert_eq!(users(&worker.store), ["alice", "carol"]);
}

#[tokio::test]
async fn a_new_stream_and_a_new_process_go_on_where_the_last_one_was() {
    let state = tempfile::tempdir().unwrap();
    let mut control = Scripted::start().await;
    let first = worker(&control, state.path());
    let peer = control.watch().await;
    send(&peer, 5, vec![change("alice", 10, Some("other"))]).await;
    reaches(&first, 5).await;
    drop(peer);
    let peer = control.watch().await;
    assert_eq!(peer.revision, 5);
    first.shutdown.cancel();
    drop(peer);

    let second = worker(&control, state.path());
    assert_eq!(users(&second.store), ["alice"], "before anybody told");
    let peer = control.watch().await;
    assert_eq!(peer.revision, 5);
}

#[tokio::test]
async fn a_full_set_that_broke_off_is_asked_for_again() {
    let state = tempfile::tempdir().unwrap();
    let mut control = Scripted::start().await;
    let worker = worker(&control, state.path());
    let peer = control.watch().await;
    let part = vec![change("alice", 10, Some("other"))];
    peer.send(WatchBindingsResponse {
        revision: 3,
        changes: part,
        reset: true,
        complete: false,
    })
    .await;
    drop(peer);
    assert_eq!(control.watch().await.revision, 0);
    assert_eq!(worker.journal.revision(), 0);
}

#[tokio::test]
async fn a_full_set_removes_what_it_lacks_but_ours_which_is_told_again() {
    let state = tempfile::tempdir().unwrap();
    let mut control = Scripted::start().await;
    let worker = worker(&control, state.path());
    let peer = control.watch().await;
    let before = vec![
        change("theirs", 10, Some("other")),
        change("ours", 10, Some("us")),
        change("kept", 10, Some("other")),
    ];
    send(&peer, 5, before).await;
    reaches(&worker, 5).await;
    let set = vec![change("kept", 10, Some("other"))];
    peer.send(WatchBindingsResponse {
        revision: 900,
        changes: set,
        reset: true,
        complete: true,
    })
    .await;
    reaches(&worker, 900).await;
    assert_eq!(users(&worker.store), ["kept", "ours"]);
    let mut backlog = worker.uplink.backlog();
    // The boot and the registration.
    within(backlog.wait_for(|backlog| backlog.reports == 2)).await.unwrap();
    let spool = std::fs::read_dir(state.path().join("spool")).unwrap();
    let reported = spool.filter_map(|entry| std::fs::read(entry.unwrap().path()).ok()).any(|content| {
        content.get(36..).is_some_and(|records| {
            record::Reader::new(records).any(|payload| {
                let report = trunkline_proto::dataplane::v1::Report::decode(payload).unwrap();
                matches!(report.event, Some(trunkline_proto::dataplane::v1::report::Event::Registration(view)) if view.user == "ours")
            })
        })
    });
    assert!(reported);
}

#[tokio::test]
async fn a_change_that_cannot_be_read_harms_no_other() {
    let state = tempfile::tempdir().unwrap();
    let mut control = Scripted::start().await;
    let worker = worker(&control, state.path());
    let peer = control.watch().await;
    let mut odd = change("odd", 10, Some("other"));
    let mut message = wire::AorBindings::decode(&*odd).unwrap();
    message.bindings[0].source_address = "nonsense".into();
    odd = message.encode_to_vec().into();
    send(&peer, 5, vec![odd, change("alice", 10, Some("other"))]).await;
    reaches(&worker, 5).await;
    assert_eq!(users(&worker.store), ["alice"]);
}
