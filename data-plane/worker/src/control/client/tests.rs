use std::num::NonZeroUsize;

use tempfile::TempDir;
use tokio::task::JoinHandle;
use trunkline_proto::dataplane::v1::{HangUp, HeldResource, PushResult, resource};
use trunkline_proto::v1;
use trunkline_shared::name::TrunkId;

use super::super::scripted::{ConfigurationPeer, Scripted, key, push, trunk, within};
use super::ToControl as FromWorker;
use super::*;
use crate::net::listener::ListenerState;
use crate::shard::input::Input;

/// Longer than any test: nothing stalls unless the test says so.
const CALM: Duration = Duration::from_secs(600);
/// Short enough to wait for, long enough for a busy machine.
const NERVOUS: Duration = Duration::from_millis(500);

struct Worker {
    _state: TempDir,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    listeners: watch::Sender<ListenerReport>,
    inboxes: Vec<mpsc::Receiver<Input>>,
    boot: Boot,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

fn worker(control: &Scripted, heartbeat: Duration) -> Worker {
    let state = tempfile::tempdir().unwrap();
    let (configuration, snapshots) = Configuration::load(state.path()).unwrap();
    let (listeners, reports) = watch::channel(ListenerReport::default());
    let (shards, inboxes) = Shards::new(NonZeroUsize::new(2).unwrap());
    let boot = Boot::begin();
    let sources = Sources {
        boot,
        listeners: reports,
        media_tier: Tier::Epoll,
        shards,
        active_calls: Arc::new(|| 7),
        metrics: Arc::default(),
    };
    let mut client = ControlClient::new(control.link(), configuration, sources);
    client.heartbeat = heartbeat;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(client.run(shutdown.clone()));
    Worker {
        _state: state,
        snapshots,
        listeners,
        inboxes,
        boot,
        shutdown,
        running,
    }
}

impl Worker {
    async fn port_of(&mut self, id: &str, port: u16) {
        let id = TrunkId::new(id).unwrap();
        let has = |snapshot: &Arc<Snapshot>| snapshot.trunk(&id).is_some_and(|trunk| trunk.listen_port == port);
        within(self.snapshots.wait_for(has)).await.unwrap();
    }
}

fn held(resources: &[(&str, i64)]) -> Vec<HeldResource> {
    resources
        .iter()
        .map(|(id, version)| HeldResource {
            key: Some(key(id)),
            version: *version,
        })
        .collect()
}

/// Pushes two trunks and waits for the ACK.
async fn configured(control: &mut Scripted) -> ConfigurationPeer {
    let (mut peer, hello) = control.hello().await;
    assert_eq!((hello.held.len(), hello.store_id.as_str()), (0, ""));
    peer.push(push(1, 4, vec![trunk("a", 8060, 3), trunk("b", 8070, 4)]))
        .await;
    let result = peer.push_result().await;
    assert_eq!((result.nonce, result.revision, result.rejections.len()), (1, 4, 0));
    peer
}

#[tokio::test]
async fn the_hello_says_who_we_are_and_a_push_is_in_force_when_it_is_answered() {
    let mut control = Scripted::start().await;
    let worker = worker(&control, CALM);
    let (mut peer, hello) = control.hello().await;
    assert_eq!(hello.boot_id, worker.boot.id.to_string());
    assert_eq!(
        (hello.media_tier.as_str(), hello.software_version.as_str()),
        ("epoll", env!("CARGO_PKG_VERSION"))
    );
    peer.push(push(1, 4, vec![trunk("a", 8060, 3)])).await;
    let result = peer.push_result().await;
    assert_eq!(result, acknowledgement(1, 4));
    assert_eq!(worker.snapshots.borrow().revision(), 4);
    worker.shutdown.cancel();
    within(worker.running).await.unwrap();
}

fn acknowledgement(nonce: u64, revision: i64) -> PushResult {
    PushResult {
        nonce,
        revision,
        rejections: Vec::new(),
    }
}

#[tokio::test]
async fn a_refused_resource_is_named_and_the_old_one_keeps_serving() {
    let mut control = Scripted::start().await;
    let mut worker = worker(&control, CALM);
    let mut peer = configured(&mut control).await;
    // The port of `a` is that of `b`; `c` is good.
    peer.push(push(2, 6, vec![trunk("a", 8070, 5), trunk("c", 8080, 6)]))
        .await;
    let result = peer.push_result().await;
    let [rejection] = &result.rejections[..] else {
        panic!("{result:?}")
    };
    assert_eq!((rejection.key.as_ref(), rejection.version), (Some(&key("a")), 5));
    assert!(
        rejection.error.contains("8070") && rejection.error.contains('b'),
        "{}",
        rejection.error
    );
    worker.port_of("a", 8060).await;
    worker.port_of("c", 8080).await;
}

#[tokio::test]
async fn a_reconnect_presents_what_is_held_and_takes_removals() {
    let mut control = Scripted::start().await;
    let mut worker = worker(&control, CALM);
    drop(configured(&mut control).await);
    let (mut peer, hello) = control.hello().await;
    assert_eq!(
        (hello.held, hello.store_id.as_str()),
        (held(&[("a", 3), ("b", 4)]), "store-1")
    );
    peer.push(ConfigurationPush {
        removals: vec![key("a")],
        ..push(1, 9, Vec::new())
    })
    .await;
    assert_eq!(peer.push_result().await, acknowledgement(1, 9));
    let gone = TrunkId::new("a").unwrap();
    within(worker.snapshots.wait_for(|snapshot| snapshot.trunk(&gone).is_none()))
        .await
        .unwrap();
    drop(peer);
    let (_, hello) = control.hello().await;
    assert_eq!(hello.held, held(&[("b", 4)]));
}

#[tokio::test]
async fn a_control_plane_that_comes_back_is_found() {
    let mut control = Scripted::start().await;
    let address = control.address;
    let _worker = worker(&control, CALM);
    drop(configured(&mut control).await);
    drop(control);
    let mut control = loop {
        // The port may take a moment to be free again.
        match std::net::TcpListener::bind(address) {
            Ok(probe) => {
                drop(probe);
                break Scripted::start_at(address).await;
            }
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let (_, hello) = control.hello().await;
    assert_eq!(hello.held, held(&[("a", 3), ("b", 4)]));
}

#[tokio::test]
async fn a_silent_stream_is_given_up_for_a_new_one() {
    let mut control = Scripted::start().await;
    let _worker = worker(&control, NERVOUS);
    let peer = configured(&mut control).await;
    // Open, and not a word.
    peer.ended().await;
    let (_, hello) = control.hello().await;
    assert_eq!(hello.held.len(), 2);
}

#[tokio::test]
async fn a_stream_that_speaks_of_revisions_it_does_not_bring_is_given_up() {
    let mut control = Scripted::start().await;
    let _worker = worker(&control, CALM);
    let peer = configured(&mut control).await;
    for _ in 0..3 {
        peer.heartbeat(5).await;
    }
    peer.ended().await;
    let (_, hello) = control.hello().await;
    assert_eq!(hello.held.len(), 2);
}

#[tokio::test]
async fn a_resource_that_can_be_used_now_is_told_by_a_new_hello() {
    let mut control = Scripted::start().await;
    let mut worker = worker(&control, CALM);
    let mut peer = configured(&mut control).await;
    peer.push(push(2, 5, vec![trunk("a", 8070, 5)])).await;
    assert_eq!(peer.push_result().await.rejections.len(), 1);
    // `b` makes room.
    peer.push(push(3, 6, vec![trunk("b", 8090, 6)])).await;
    assert_eq!(peer.push_result().await.rejections.len(), 0);
    worker.port_of("a", 8070).await;
    let (_, hello) = control.hello().await;
    assert_eq!(hello.held, held(&[("a", 5), ("b", 6)]));
}

#[tokio::test]
async fn heartbeats_tell_the_revision_and_the_calls() {
    let mut control = Scripted::start().await;
    let _worker = worker(&control, 2 * NERVOUS);
    let mut peer = configured(&mut control).await;
    let beat = |message| match message {
        FromWorker::Heartbeat(beat) => Some((beat.revision, beat.active_calls)),
        _ => None,
    };
    assert_eq!(peer.next_where(beat).await, (4, 7));
}

#[tokio::test]
async fn listener_states_and_unknown_properties_are_told_as_they_change() {
    let mut control = Scripted::start().await;
    let worker = worker(&control, CALM);
    let mut peer = configured(&mut control).await;
    let status = |message| match message {
        FromWorker::Status(status) => Some(status),
        _ => None,
    };
    let state = |error| ListenerState {
        trunk: TrunkId::new("a").unwrap(),
        address: "192.0.2.1:8060".parse().unwrap(),
        error,
        since: SystemTime::UNIX_EPOCH,
    };
    let report = |error| ListenerReport {
        listeners: Arc::default(),
        states: [state(error)].into(),
    };
    worker
        .listeners
        .send_replace(report(Some(("ADDRESS_IN_USE", "taken".to_owned()))));
    let told = peer.next_where(status).await;
    let listener = &told.listeners[0];
    assert_eq!(
        (listener.trunk.as_str(), listener.address.as_str()),
        ("trunks/a", "192.0.2.1:8060")
    );
    assert_eq!(
        (listener.bound, listener.error_code.as_str()),
        (false, "ADDRESS_IN_USE")
    );
    worker.listeners.send_replace(report(None));
    assert!(peer.next_where(status).await.listeners[0].bound);

    let mut odd = trunk("a", 8060, 5);
    if let Some(resource::Body::Trunk(trunk)) = &mut odd.body {
        trunk.custom_properties = vec![v1::CustomProperty {
            name: "nobody.knows".into(),
            value: Some(v1::custom_property::Value::TextValue("x".into())),
        }];
    }
    peer.push(push(2, 5, vec![odd])).await;
    let told = peer.next_where(status).await;
    assert_eq!(
        (told.unrecognised[0].trunk.as_str(), &told.unrecognised[0].names[..]),
        ("trunks/a", &["nobody.knows".to_owned()][..])
    );
}

#[tokio::test]
async fn a_command_reaches_the_shard_that_has_the_call() {
    let mut control = Scripted::start().await;
    let mut worker = worker(&control, CALM);
    let mut peer = configured(&mut control).await;
    let call = ConversationId::from_random([9; 16]);
    // The second shard has it.
    for (mut inbox, has) in worker.inboxes.drain(..).zip([false, true]) {
        tokio::spawn(async move {
            while let Some(input) = inbox.recv().await {
                let Input::HangUp(asked, answer) = input else {
                    panic!("{input:?}")
                };
                answer.send(has && asked == call).unwrap();
            }
        });
    }
    let hang_up = |id, call: String| {
        FromControl::Command(Command {
            id,
            command: Some(command::Command::HangUp(HangUp { call })),
        })
    };
    peer.send(hang_up(1, call.to_string())).await;
    peer.send(hang_up(2, ConversationId::from_random([8; 16]).to_string()))
        .await;
    peer.send(hang_up(3, "nonsense".into())).await;
    peer.send(FromControl::Command(Command { id: 4, command: None })).await;
    let mut results = std::collections::BTreeMap::new();
    while results.len() < 4 {
        let result = |message| match message {
            FromWorker::CommandResult(result) => Some(result),
            _ => None,
        };
        let CommandResult { id, error } = peer.next_where(result).await;
        results.insert(id, error);
    }
    let errors: Vec<&str> = results.values().map(String::as_str).collect();
    assert_eq!(errors, ["", "NOT_FOUND", "INVALID_ARGUMENT", "UNIMPLEMENTED"]);
}
