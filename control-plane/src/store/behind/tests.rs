use trunkline_proto::dataplane::v1::{AorBindings, Report, WorkerBooted, report::Event as Wire};

use super::*;
use crate::store::KeyFile;

async fn open(directory: &tempfile::TempDir) -> Store {
    Store::open(&directory.path().join("control.db"), KeyFile::from_key([7; 32]))
        .await
        .unwrap()
}

fn call(number: u32, state: v1::CallState) -> Wire {
    Wire::Call(v1::Call {
        name: format!("calls/00000000-0000-4000-8000-{number:012}"),
        state: state.into(),
        ..Default::default()
    })
}

/// Registered with a contact named after the time of the change, or unregistered.
fn registration(user: &str, change_time_ms: i64, registered: bool) -> Wire {
    let binding = v1::Binding {
        contact_uri: format!("sip:at-{change_time_ms}"),
        worker: "workers/edge".into(),
        expire_time: Some(crate::store::timestamp(i64::MAX / 2_000)),
        ..Default::default()
    };
    Wire::Registration(AorBindings {
        trunk: "trunks/a".into(),
        user: user.into(),
        change_time_ms,
        bindings: Vec::from_iter(registered.then_some(binding)),
        ..Default::default()
    })
}

fn batch(boot_id: &str, first: u64, events: impl IntoIterator<Item = Wire>) -> StreamReportsRequest {
    let report = |(sequence, event)| Report {
        sequence,
        time: None,
        event: Some(event),
    };
    StreamReportsRequest {
        spool_id: "spool".into(),
        boot_id: boot_id.into(),
        reports: (first..)
            .zip(events)
            .map(report)
            .map(|report| report.encode_to_vec().into())
            .collect(),
    }
}

async fn report(store: &Store, batch: StreamReportsRequest) -> Taken {
    let known = |trunk: &str| trunk == "trunks/a";
    store.take_reports("edge", batch, &known).await.unwrap()
}

async fn state(store: &Store, number: u32) -> Option<v1::CallState> {
    let mut view = store.read().await.unwrap();
    let name = format!("calls/00000000-0000-4000-8000-{number:012}");
    let found = call::find(view.conn(), &name).await.unwrap();
    found.map(|call| call.state())
}

async fn contact(store: &Store, user: &str) -> Option<String> {
    let mut view = store.read().await.unwrap();
    let found = registration::find(view.conn(), "trunks/a", user, 0).await.unwrap();
    found.map(|registration| registration.bindings[0].contact_uri.clone())
}

#[tokio::test]
async fn the_tables_show_the_last_word_once_they_are_settled() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let taken = report(
        &store,
        batch(
            "b1",
            1,
            [
                call(1, v1::CallState::Trying),
                call(1, v1::CallState::Ended),
                call(1, v1::CallState::Answered),
                call(2, v1::CallState::Trying),
                registration("alice", 20, true),
                registration("alice", 10, false),
                registration("bob", 20, true),
                registration("bob", 20, false),
            ],
        ),
    )
    .await;
    assert_eq!((taken.sequence, taken.missing, taken.repeated), (8, 0, 0));
    assert_eq!(taken.kinds, [("call", 4), ("registration", 4)]);
    assert_eq!(state(&store, 2).await, None, "not yet");
    store.settle().await.unwrap();
    assert_eq!(
        state(&store, 1).await,
        Some(v1::CallState::Ended),
        "it does not come back"
    );
    assert_eq!(state(&store, 2).await, Some(v1::CallState::Trying));
    assert_eq!(
        contact(&store, "alice").await.as_deref(),
        Some("sip:at-20"),
        "the later change"
    );
    assert_eq!(
        contact(&store, "bob").await,
        None,
        "the last to arrive of two at the same time"
    );
    assert_eq!(store.active_calls().await, 1);
    let mut view = store.read().await.unwrap();
    assert_eq!(
        report::logged_after(view.conn(), 0).await.unwrap(),
        [],
        "the log is empty"
    );
    // What the tables have stays, too.
    let late = [registration("alice", 19, false), call(1, v1::CallState::Ringing)];
    report(&store, batch("b1", 9, late)).await;
    store.settle().await.unwrap();
    assert_eq!(state(&store, 1).await, Some(v1::CallState::Ended));
    assert_eq!(contact(&store, "alice").await.as_deref(), Some("sip:at-20"));
    assert_eq!(store.active_calls().await, 1);
}

#[tokio::test]
async fn numbers_are_known_before_and_after_settling_and_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let events = || [call(1, v1::CallState::Trying), call(2, v1::CallState::Trying)];
    report(&store, batch("b1", 1, events())).await;
    assert_eq!(report(&store, batch("b1", 1, events())).await.repeated, 2);
    store.settle().await.unwrap();
    assert_eq!(report(&store, batch("b1", 1, events())).await.repeated, 2);
    let taken = report(&store, batch("b1", 2, events())).await;
    assert_eq!((taken.sequence, taken.repeated), (3, 1));
    // Another store on the same files: as after a death.
    let store = open(&directory).await;
    let taken = report(&store, batch("b1", 3, events())).await;
    assert_eq!((taken.sequence, taken.repeated, taken.missing), (4, 1, 0));
    let taken = report(&store, batch("b1", 9, [call(3, v1::CallState::Trying)])).await;
    assert_eq!((taken.sequence, taken.missing), (9, 4));
}

#[tokio::test]
async fn what_is_reported_between_two_steps_comes_after_what_was() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let many = (0..2500).map(|user| registration(&format!("user-{user}"), 10, true));
    report(&store, batch("b1", 1, many)).await;
    store.inner.behind.state.lock().await.step(&store).await.unwrap();
    assert!(
        store.inner.behind.state.lock().await.settling.is_some(),
        "there is more"
    );
    let all = (0..2500).map(|user| registration(&format!("user-{user}"), 11, true));
    // Each batch takes a step, too.
    report(&store, batch("b1", 2501, all)).await;
    store.settle().await.unwrap();
    for user in [0, 1, 1234, 2499] {
        let found = contact(&store, &format!("user-{user}")).await;
        assert_eq!(found.as_deref(), Some("sip:at-11"));
    }
    let mut view = store.read().await.unwrap();
    assert_eq!(registration::registered(view.conn()).await.unwrap(), 2500);
    assert_eq!(report::logged_after(view.conn(), 0).await.unwrap(), []);
}

#[tokio::test]
async fn calls_of_an_earlier_process_end_when_the_next_begins_and_watchers_see_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    report(&store, batch("b1", 1, [call(1, v1::CallState::Answered)])).await;
    let (active, mut changes) = store.watch_calls().await.unwrap();
    assert_eq!(active.len(), 1);
    let booted = Wire::Booted(WorkerBooted { boot_id: "b2".into() });
    report(&store, batch("b2", 2, [booted, call(2, v1::CallState::Trying)])).await;
    let seen: Vec<_> = std::iter::from_fn(|| changes.try_recv().ok())
        .map(|call| (call.state(), call.worker.clone()))
        .collect();
    assert_eq!(
        seen,
        [
            (v1::CallState::Trying, "workers/edge".into()),
            (v1::CallState::Ended, "workers/edge".into()),
        ]
    );
    assert_eq!(state(&store, 1).await, Some(v1::CallState::Ended));
    assert_eq!(store.active_calls().await, 1);
    store.close_call_watches();
    assert!(changes.recv().await.is_err());
}

#[tokio::test]
async fn a_trunk_that_is_not_there_has_no_phones() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let known = |_: &str| false;
    let reported = batch("b1", 1, [registration("alice", 1, true)]);
    let taken = store.take_reports("edge", reported, &known).await.unwrap();
    assert_eq!(taken.sequence, 1, "it counts as taken");
    store.settle().await.unwrap();
    assert_eq!(contact(&store, "alice").await, None);
}
