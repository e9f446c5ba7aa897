//! Reports from workers: stored once, shown live.

#![allow(clippy::unwrap_used, reason = "in a test, an unwrap is an assertion")]
#![allow(
    clippy::disallowed_methods,
    reason = "the far end of a real control plane has a real clock"
)]

mod support;

use std::{collections::BTreeSet, time::SystemTime};

use prost::Message as _;
use support::{Bearer, Control, Stream, WorkerKey, eventually, hello, within};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use trunkline_proto::{
    dataplane::v1::{
        AorBindings, CommandResult, Report, StreamReportsRequest, StreamReportsResponse, WatchBindingsRequest,
        WatchBindingsResponse, WorkerBooted, binding_service_client::BindingServiceClient, command, report::Event,
        report_service_client::ReportServiceClient, stream_configuration_request::Message as ToControl,
        stream_configuration_response::Message as FromControl,
    },
    v1::{
        Binding, Call, CallState, GetCallRequest, GetRegistrationRequest, HangUpCallRequest, ListCallsRequest,
        ListRegistrationsRequest, UnregisterRequest, WatchCallsRequest, call_service_client::CallServiceClient,
        registration_service_client::RegistrationServiceClient,
    },
};

struct Spool {
    outgoing: mpsc::Sender<StreamReportsRequest>,
    incoming: Streaming<StreamReportsResponse>,
}

impl Spool {
    async fn open(control: &Control, key: &WorkerKey) -> Self {
        let channel = control.worker_channel(Some(key.identity())).await;
        let (outgoing, requests) = mpsc::channel(8);
        let mut client = ReportServiceClient::new(channel);
        let incoming = within(client.stream_reports(ReceiverStream::new(requests)))
            .await
            .unwrap()
            .into_inner();
        Self { outgoing, incoming }
    }

    async fn send(&self, boot_id: &str, reports: Vec<Report>) {
        let batch = StreamReportsRequest {
            spool_id: "spool-1".into(),
            boot_id: boot_id.into(),
            reports: reports.iter().map(|report| report.encode_to_vec().into()).collect(),
        };
        within(self.outgoing.send(batch)).await.unwrap();
    }

    async fn acknowledged(&mut self) -> u64 {
        within(self.incoming.message())
            .await
            .unwrap()
            .unwrap()
            .acknowledged_sequence
    }

    async fn report(&mut self, boot_id: &str, reports: Vec<Report>) -> u64 {
        self.send(boot_id, reports).await;
        self.acknowledged().await
    }
}

const CALL: &str = "calls/6f1d6f0e-1111-4222-8333-444455556666";
const OTHER_CALL: &str = "calls/6f1d6f0e-1111-4222-8333-444455557777";

fn call(name: &str, state: CallState) -> Event {
    Event::Call(Call {
        name: name.into(),
        state: state as i32,
        inbound_trunk: "trunks/a".into(),
        call_id: "abc@phone".into(),
        start_time: Some(SystemTime::now().into()),
        ..Call::default()
    })
}

fn report(sequence: u64, event: Event) -> Report {
    Report {
        sequence,
        time: Some(SystemTime::now().into()),
        event: Some(event),
    }
}

fn registered(user: &str, change_time_ms: i64, contacts: &[&str]) -> Event {
    let expire_time = Some((SystemTime::now() + std::time::Duration::from_secs(3600)).into());
    Event::Registration(AorBindings {
        trunk: "trunks/a".into(),
        user: user.into(),
        address_of_record: format!("sip:{user}@example.com"),
        bindings: contacts
            .iter()
            .map(|contact| Binding {
                contact_uri: (*contact).into(),
                expire_time,
                ..Binding::default()
            })
            .collect(),
        change_time_ms,
    })
}

async fn calls(control: &Control) -> CallServiceClient<support::Api> {
    CallServiceClient::with_interceptor(control.api_channel().await, Bearer(control.admin_token()))
}

async fn registrations(control: &Control) -> RegistrationServiceClient<support::Api> {
    RegistrationServiceClient::with_interceptor(control.api_channel().await, Bearer(control.admin_token()))
}

async fn listed(control: &Control) -> Vec<Call> {
    calls(control)
        .await
        .list_calls(ListCallsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .calls
}

async fn watch_bindings(control: &Control, key: &WorkerKey, revision: i64) -> Streaming<WatchBindingsResponse> {
    let channel = control.worker_channel(Some(key.identity())).await;
    let mut client = BindingServiceClient::new(channel);
    within(client.watch_bindings(WatchBindingsRequest { revision }))
        .await
        .unwrap()
        .into_inner()
}

/// The next message with changes, and these.
async fn next(stream: &mut Streaming<WatchBindingsResponse>) -> (WatchBindingsResponse, Vec<AorBindings>) {
    loop {
        let message = within(stream.message()).await.unwrap().unwrap();
        let changes: Vec<_> = message
            .changes
            .iter()
            .map(|change| AorBindings::decode(&**change).unwrap())
            .collect();
        if message.complete || !changes.is_empty() {
            return (message, changes);
        }
    }
}

#[tokio::test]
async fn reports_are_stored_once_across_a_restart_of_the_control_plane() {
    let control = Control::start().await;
    control.create_trunk("a", 8060).await;
    let worker = control.enroll("edge").await;
    let mut spool = Spool::open(&control, &worker).await;
    let batch = vec![
        report(1, call(CALL, CallState::Trying)),
        report(2, registered("alice", 1_000, &["sip:alice@192.0.2.7"])),
    ];
    assert_eq!(spool.report("b1", batch.clone()).await, 2);

    // The acknowledgement was lost with the control plane: everything comes again, with what happened meanwhile.
    let control = control.restart().await;
    let mut spool = Spool::open(&control, &worker).await;
    let mut again = batch;
    again.push(report(3, call(CALL, CallState::Answered)));
    again.push(report(4, call(OTHER_CALL, CallState::Trying)));
    assert_eq!(spool.report("b1", again.clone()).await, 4);
    assert_eq!(spool.report("b1", again).await, 4);

    let found = listed(&control).await;
    assert_eq!(found.len(), 2);
    let answered = found.iter().find(|found| found.name == CALL).unwrap();
    assert_eq!(
        (answered.state(), answered.worker.as_str()),
        (CallState::Answered, "workers/edge")
    );
    let (_, metrics) = control.http("/metrics").await;
    assert!(
        metrics.contains("trunkline_control_reports_repeated_total 6"),
        "{metrics}"
    );
    assert!(metrics.contains("trunkline_control_calls_active 2"), "{metrics}");
}

#[tokio::test]
async fn an_ended_call_stays_ended_and_the_calls_of_a_dead_process_end_with_it() {
    let control = Control::start().await;
    let worker = control.enroll("edge").await;
    let mut spool = Spool::open(&control, &worker).await;
    let batch = vec![
        report(1, Event::Booted(WorkerBooted { boot_id: "b1".into() })),
        report(2, call(CALL, CallState::Ended)),
        report(3, call(CALL, CallState::Answered)),
        report(4, call(OTHER_CALL, CallState::Answered)),
    ];
    assert_eq!(spool.report("b1", batch).await, 4);
    assert_eq!(
        spool
            .report(
                "b2",
                vec![report(5, Event::Booted(WorkerBooted { boot_id: "b2".into() }))]
            )
            .await,
        5
    );
    let mut api = calls(&control).await;
    let get = async |api: &mut CallServiceClient<support::Api>, name: &str| {
        api.get_call(GetCallRequest { name: name.into() })
            .await
            .unwrap()
            .into_inner()
            .call
            .unwrap()
    };
    assert_eq!(get(&mut api, CALL).await.state(), CallState::Ended);
    assert_eq!(get(&mut api, CALL).await.end, None);
    let lost = get(&mut api, OTHER_CALL).await;
    assert_eq!(
        (lost.state(), lost.end.unwrap().reason.as_str()),
        (CallState::Ended, "worker_lost")
    );
    assert!(lost.end_time.is_some());
}

#[tokio::test]
async fn calls_are_watched_from_the_active_ones_on() {
    let control = Control::start().await;
    let worker = control.enroll("edge").await;
    let mut spool = Spool::open(&control, &worker).await;
    spool.report("b1", vec![report(1, call(CALL, CallState::Trying))]).await;
    let mut watch = calls(&control)
        .await
        .watch_calls(WatchCallsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let first = within(watch.message()).await.unwrap().unwrap();
    assert_eq!(first.call.unwrap().name, CALL);
    assert!(within(watch.message()).await.unwrap().unwrap().initial_done);
    spool.report("b1", vec![report(2, call(CALL, CallState::Ended))]).await;
    let change = within(watch.message()).await.unwrap().unwrap().call.unwrap();
    assert_eq!((change.name.as_str(), change.state()), (CALL, CallState::Ended));
}

#[tokio::test]
async fn a_batch_that_is_too_large_is_refused() {
    let control = Control::start().await;
    let worker = control.enroll("edge").await;
    let mut spool = Spool::open(&control, &worker).await;
    spool
        .send(
            "b1",
            (1..=1001)
                .map(|sequence| report(sequence, call(CALL, CallState::Trying)))
                .collect(),
        )
        .await;
    assert_eq!(
        within(spool.incoming.message()).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert!(listed(&control).await.is_empty());
}

#[tokio::test]
async fn registrations_reach_the_other_workers_whole_and_then_change_by_change() {
    let control = Control::start().await;
    control.create_trunk("a", 8060).await;
    let (first, second) = (control.enroll("one").await, control.enroll("two").await);
    let mut spool = Spool::open(&control, &first).await;
    spool
        .report(
            "b1",
            vec![report(1, registered("alice", 1_000, &["sip:alice@192.0.2.7"]))],
        )
        .await;

    let mut watch = watch_bindings(&control, &second, 0).await;
    let (set, changes) = next(&mut watch).await;
    assert!(set.reset && set.complete);
    assert_eq!(changes[0].user, "alice");
    assert_eq!(changes[0].bindings[0].worker, "workers/one", "who holds the flow");

    spool
        .report("b1", vec![report(2, registered("bob", 1_000, &["sip:bob@192.0.2.8"]))])
        .await;
    let (told, changes) = next(&mut watch).await;
    assert!(!told.reset && !told.complete && told.revision >= set.revision);
    assert_eq!(changes[0].user, "bob");

    // An earlier change that arrives late does not win.
    spool.report("b1", vec![report(3, registered("bob", 900, &[]))]).await;
    let mut api = registrations(&control).await;
    let name = "trunks/a/registrations/bob".to_owned();
    let found = api
        .get_registration(GetRegistrationRequest { name: name.clone() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.registration.unwrap().bindings[0].contact_uri, "sip:bob@192.0.2.8");

    // From the API the same way.
    api.unregister(UnregisterRequest { name }).await.unwrap();
    let (_, changes) = next(&mut watch).await;
    let cleared = changes.last().unwrap();
    assert_eq!((cleared.user.as_str(), cleared.bindings.len()), ("bob", 0));
    let request = ListRegistrationsRequest {
        parent: "trunks/-".into(),
        ..Default::default()
    };
    let left = api
        .list_registrations(request)
        .await
        .unwrap()
        .into_inner()
        .registrations;
    assert_eq!(
        left.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(),
        ["trunks/a/registrations/alice"]
    );

    // A watcher that comes back goes on where it was.
    let mut again = watch_bindings(&control, &second, set.revision).await;
    let (rest, changes) = next(&mut again).await;
    assert!(!rest.reset && rest.revision > set.revision);
    let users: Vec<_> = changes.iter().map(|change| change.user.as_str()).collect();
    assert_eq!(users, ["bob"]);
}

#[tokio::test]
async fn an_empty_set_of_registrations_is_complete_at_once() {
    let control = Control::start().await;
    control.create_trunk("a", 8060).await;
    let (worker, watcher) = (control.enroll("edge").await, control.enroll("other").await);
    let mut watch = watch_bindings(&control, &watcher, 0).await;
    let (set, changes) = next(&mut watch).await;
    assert!(set.reset && set.complete && changes.is_empty() && set.revision > 0);
    let mut spool = Spool::open(&control, &worker).await;
    spool
        .report("b1", vec![report(1, registered("alice", 1_000, &["sip:a@192.0.2.7"]))])
        .await;
    assert_eq!(next(&mut watch).await.1[0].user, "alice");
}

#[tokio::test]
async fn a_deleted_trunk_takes_its_registrations_along() {
    let control = Control::start().await;
    control.create_trunk("a", 8060).await;
    let worker = control.enroll("edge").await;
    let mut spool = Spool::open(&control, &worker).await;
    spool
        .report("b1", vec![report(1, registered("alice", 1_000, &["sip:a@192.0.2.7"]))])
        .await;
    let mut watch = watch_bindings(&control, &worker, 0).await;
    assert_eq!(next(&mut watch).await.1.len(), 1);
    control.delete_trunk("a").await;
    assert!(next(&mut watch).await.1[0].bindings.is_empty());
}

#[tokio::test]
async fn a_workers_own_registrations_come_back_to_it_only_when_it_asks_anew() {
    let control = Control::start().await;
    control.create_trunk("a", 8060).await;
    let (first, second) = (control.enroll("one").await, control.enroll("two").await);
    let mut watch = watch_bindings(&control, &first, 0).await;
    let (set, _) = next(&mut watch).await;
    let (mut one, mut two) = (
        Spool::open(&control, &first).await,
        Spool::open(&control, &second).await,
    );
    one.report("b1", vec![report(1, registered("own", 1_000, &["sip:a@192.0.2.7"]))])
        .await;
    two.report("b2", vec![report(1, registered("other", 1_000, &["sip:b@192.0.2.8"]))])
        .await;
    let (_, changes) = next(&mut watch).await;
    let users: Vec<_> = changes.iter().map(|change| change.user.as_str()).collect();
    assert_eq!(users, ["other"]);
    let mut again = watch_bindings(&control, &first, set.revision).await;
    let (_, changes) = next(&mut again).await;
    let users: BTreeSet<_> = changes.iter().map(|change| change.user.as_str()).collect();
    assert_eq!(users, BTreeSet::from(["own", "other"]));
}

#[tokio::test]
async fn what_was_reported_and_not_read_yet_survives_the_death_of_the_control_plane() {
    let control = Control::start().await;
    control.create_trunk("a", 8060).await;
    let worker = control.enroll("edge").await;
    let mut spool = Spool::open(&control, &worker).await;
    let batch = vec![
        report(1, call(CALL, CallState::Trying)),
        report(2, call(CALL, CallState::Ended)),
        report(3, call(OTHER_CALL, CallState::Ringing)),
        report(4, registered("alice", 2_000, &["sip:a@192.0.2.7", "sip:a@192.0.2.8"])),
        report(5, registered("alice", 1_000, &[])),
    ];
    assert_eq!(spool.report("b1", batch).await, 5);
    // Nobody read anything: all of it is in the log only.
    let control = control.crash().await;
    let found = listed(&control).await;
    let states: BTreeSet<_> = found.iter().map(|found| (found.name.as_str(), found.state())).collect();
    assert_eq!(
        states,
        BTreeSet::from([(CALL, CallState::Ended), (OTHER_CALL, CallState::Ringing)])
    );
    let name = "trunks/a/registrations/alice".to_owned();
    let mut api = registrations(&control).await;
    let found = api.get_registration(GetRegistrationRequest { name }).await.unwrap();
    assert_eq!(found.into_inner().registration.unwrap().bindings.len(), 2);
    // And its numbers are known.
    let mut spool = Spool::open(&control, &worker).await;
    assert_eq!(
        spool.report("b1", vec![report(5, call(CALL, CallState::Trying))]).await,
        5
    );
}

#[tokio::test]
async fn a_hang_up_goes_to_the_worker_of_the_call_and_brings_its_answer() {
    let control = Control::start().await;
    let worker = control.enroll("edge").await;
    let mut spool = Spool::open(&control, &worker).await;
    spool
        .report("b1", vec![report(1, call(CALL, CallState::Answered))])
        .await;
    let mut api = calls(&control).await;
    let request = HangUpCallRequest { name: CALL.into() };
    assert_eq!(
        api.hang_up_call(request.clone()).await.unwrap_err().code(),
        Code::Unavailable,
        "nobody is there"
    );

    let mut stream = Stream::open(&control, &worker, hello("b1")).await.unwrap();
    let push = stream.push().await;
    stream.accept(&push).await;
    for (error, expected) in [("", None), ("NOT_FOUND", Some(Code::FailedPrecondition))] {
        let asked = tokio::spawn({
            let (mut api, request) = (api.clone(), request.clone());
            async move { api.hang_up_call(request).await }
        });
        let command = loop {
            match stream.message().await.unwrap() {
                FromControl::Command(command) => break command,
                FromControl::Heartbeat(heartbeat) => stream.heartbeat(heartbeat.revision).await,
                FromControl::Push(push) => stream.accept(&push).await,
            }
        };
        let Some(command::Command::HangUp(hang_up)) = command.command else {
            panic!("no hang-up")
        };
        assert_eq!(hang_up.call, CALL.trim_start_matches("calls/"));
        stream
            .send(ToControl::CommandResult(CommandResult {
                id: command.id,
                error: error.into(),
            }))
            .await;
        assert_eq!(within(asked).await.unwrap().err().map(|status| status.code()), expected);
    }
}

#[tokio::test]
async fn what_a_report_says_of_its_worker_does_not_count() {
    let control = Control::start().await;
    let worker = control.enroll("edge").await;
    let mut spool = Spool::open(&control, &worker).await;
    let Event::Call(forged) = call(CALL, CallState::Trying) else {
        unreachable!()
    };
    let forged = Call {
        worker: "workers/another".into(),
        ..forged
    };
    let nameless = Call {
        name: "calls/not-a-uuid".into(),
        ..forged.clone()
    };
    spool
        .report(
            "b1",
            vec![report(1, Event::Call(forged)), report(2, Event::Call(nameless))],
        )
        .await;
    let found = eventually(|| async { Some(listed(&control).await).filter(|found| !found.is_empty()) }).await;
    assert_eq!(
        found.iter().map(|found| found.worker.as_str()).collect::<Vec<_>>(),
        ["workers/edge"]
    );
}
