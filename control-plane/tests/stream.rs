//! The configuration stream between the API and a worker.

#![allow(clippy::unwrap_used, reason = "in a test, an unwrap is an assertion")]
#![allow(
    clippy::disallowed_methods,
    reason = "the far end of a real control plane has a real clock"
)]

mod support;

use std::time::{Duration, Instant};

use support::{Control, Stream, eventually, held, hello, names, rejection, upserted, within};
use tonic::Code;
use trunkline_control::stream::session::Limits;
use trunkline_proto::{
    dataplane::v1::{
        CommandResult, Hello, ResourceType, StreamConfigurationRequest, TrunkListener, UnrecognisedProperties,
        WorkerStatus, resource::Body, stream_configuration_request::Message as ToControl,
        stream_configuration_response::Message as FromControl,
    },
    v1::{self, DrainWorkerRequest, GetTrunkRequest, ResumeWorkerRequest, SyncState},
};

#[tokio::test]
async fn a_change_over_the_api_reaches_the_worker_and_so_does_a_removal() {
    let control = Control::start().await;
    control.create_trunk("a", 8060).await;
    let worker = control.enroll("edge").await;
    let mut stream = Stream::open(&control, &worker, hello("b1")).await.unwrap();
    let snapshot = stream.push().await;
    assert_eq!(upserted(&snapshot), ["workers/edge", "trunks/a"]);
    assert!(!snapshot.store_id.is_empty());
    stream.accept(&snapshot).await;

    let began = Instant::now();
    control.rename_trunk("a", "Reception").await;
    let push = stream.push().await;
    println!(
        "a change reached the worker {:?} after the request was made",
        began.elapsed()
    );
    assert_eq!(upserted(&push), ["trunks/a"]);
    let Some(Body::Trunk(trunk)) = &push.upserts[0].body else {
        panic!("no trunk")
    };
    assert_eq!(trunk.display_name, "Reception");
    stream.accept(&push).await;

    control.delete_trunk("a").await;
    let push = stream.push().await;
    assert_eq!(names(&push.removals), ["trunks/a"]);
    stream.accept(&push).await;
    eventually(|| async { (control.worker("edge").await.sync_state() == SyncState::Synced).then_some(()) }).await;
}

#[tokio::test]
async fn a_reconnect_presents_what_is_held_and_gets_only_the_difference() {
    let control = Control::start().await;
    for (id, port) in [("a", 8060), ("b", 8061), ("c", 8062)] {
        control.create_trunk(id, port).await;
    }
    let worker = control.enroll("edge").await;
    let mut stream = Stream::open(&control, &worker, hello("b1")).await.unwrap();
    let snapshot = stream.push().await;
    stream.accept(&snapshot).await;
    drop(stream);
    control.rename_trunk("b", "Back office").await;
    control.delete_trunk("c").await;

    let again = Hello {
        held: snapshot.upserts.iter().map(held).collect(),
        store_id: snapshot.store_id.clone(),
        ..hello("b1")
    };
    let mut stream = Stream::open(&control, &worker, again).await.unwrap();
    let push = stream.push().await;
    assert_eq!(
        (upserted(&push), names(&push.removals)),
        (vec!["trunks/b"], vec!["trunks/c"])
    );
}

#[tokio::test]
async fn a_refusal_is_seen_and_the_rest_stays_in_force() {
    let control = Control::start().await;
    control.create_trunk("a", 8060).await;
    control.create_trunk("b", 8061).await;
    let worker = control.enroll("edge").await;
    let mut stream = Stream::open(&control, &worker, hello("b1")).await.unwrap();
    let snapshot = stream.push().await;
    stream.accept(&snapshot).await;
    control.rename_trunk("a", "Refused").await;
    let push = stream.push().await;
    let refused = push.upserts[0].clone();
    stream.refuse(&push, vec![rejection(&refused, "no such codec")]).await;

    let seen = eventually(|| async {
        let worker = control.worker("edge").await;
        (worker.sync_state() == SyncState::Error).then_some(worker)
    })
    .await;
    let resource = &seen.resources[0];
    assert_eq!(
        (resource.resource.as_str(), resource.state()),
        ("trunks/a", SyncState::Error)
    );
    assert_eq!(
        (resource.error.as_str(), resource.rejected_version),
        ("no such codec", refused.version)
    );
    assert!(resource.accepted_version > 0 && resource.error_time.is_some());
    let others = seen.resources.iter().skip(1);
    assert!(
        others
            .map(v1::ResourceSync::state)
            .all(|state| state == SyncState::Synced)
    );

    // Known to the next process, and not offered again to the same one.
    drop(stream);
    let control = control.restart().await;
    assert_eq!(control.worker("edge").await.resources[0].error, "no such codec");
    let again = Hello {
        held: snapshot.upserts.iter().map(held).collect(),
        store_id: snapshot.store_id.clone(),
        ..hello("b1")
    };
    let mut stream = Stream::open(&control, &worker, again).await.unwrap();
    assert_eq!(upserted(&stream.push().await), [""; 0]);
}

#[tokio::test]
async fn a_worker_that_does_not_answer_is_let_go_and_holds_nobody_up() {
    let limits = Limits {
        heartbeat: Duration::from_millis(100),
        silence: Duration::from_secs(60),
        push_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let control = Control::start_with(limits).await;
    control.create_trunk("a", 8060).await;
    let (slow, quick) = (control.enroll("slow").await, control.enroll("quick").await);
    // Opened and never read.
    let mut stuck = Stream::open(&control, &slow, hello("b1")).await.unwrap();
    let mut stream = Stream::open(&control, &quick, hello("b2")).await.unwrap();
    let push = stream.push().await;
    stream.accept(&push).await;
    for turn in 0..20 {
        control.rename_trunk("a", &format!("Turn {turn}")).await;
        let push = stream.push().await;
        stream.accept(&push).await;
    }
    eventually(|| async { (!control.worker("slow").await.connected).then_some(()) }).await;
    assert!(control.worker("quick").await.connected);
    assert_eq!(stuck.ended().await.code(), Code::ResourceExhausted);
    let (_, metrics) = control.http("/metrics").await;
    assert!(metrics.contains("streams_ended_total{cause=\"slow\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_silent_worker_is_let_go() {
    let limits = Limits {
        heartbeat: Duration::from_millis(100),
        silence: Duration::from_millis(300),
        ..Limits::default()
    };
    let control = Control::start_with(limits).await;
    let worker = control.enroll("edge").await;
    let mut stream = Stream::open(&control, &worker, hello("b1")).await.unwrap();
    let push = stream.push().await;
    stream.accept(&push).await;
    assert_eq!(stream.ended().await.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn of_two_streams_of_one_worker_the_newer_wins() {
    let control = Control::start().await;
    let worker = control.enroll("edge").await;
    let mut old = Stream::open(&control, &worker, hello("b1")).await.unwrap();
    let push = old.push().await;
    old.accept(&push).await;
    let mut new = Stream::open(&control, &worker, hello("b1")).await.unwrap();
    new.push().await;
    assert_eq!(old.ended().await.code(), Code::Aborted);
    assert!(control.worker("edge").await.connected);
}

#[tokio::test]
async fn a_stream_that_does_not_begin_with_a_hello_is_refused() {
    let control = Control::start().await;
    let worker = control.enroll("edge").await;
    let channel = control.worker_channel(Some(worker.identity())).await;
    let mut client =
        trunkline_proto::dataplane::v1::configuration_service_client::ConfigurationServiceClient::new(channel);
    let request = StreamConfigurationRequest {
        message: Some(ToControl::CommandResult(CommandResult::default())),
    };
    let mut incoming = client
        .stream_configuration(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        within(incoming.message()).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
}

#[tokio::test]
async fn a_tls_trunk_and_its_certificate_arrive_in_one_push() {
    let control = Control::start().await;
    let worker = control.enroll("edge").await;
    let mut stream = Stream::open(&control, &worker, hello("b1")).await.unwrap();
    let push = stream.push().await;
    stream.accept(&push).await;
    let trunk = v1::Trunk {
        display_name: "Secure".into(),
        protocol: v1::TransportProtocol::Tls as i32,
        ..v1::Trunk::default()
    };
    control.create("secure", trunk).await;
    let push = stream.push().await;
    let types: Vec<_> = push
        .upserts
        .iter()
        .map(|resource| resource.key.as_ref().unwrap().r#type())
        .collect();
    assert_eq!(types, [ResourceType::Trunk, ResourceType::TlsIdentity]);
    let Some(Body::TlsIdentity(identity)) = &push.upserts[1].body else {
        panic!("no identity")
    };
    assert!(!identity.private_key_der.is_empty() && identity.certificate_chain_der.len() == 1);
}

#[tokio::test]
async fn drain_and_resume_reach_the_worker_as_settings() {
    let control = Control::start().await;
    let worker = control.enroll("edge").await;
    let mut stream = Stream::open(&control, &worker, hello("b1")).await.unwrap();
    let push = stream.push().await;
    let Some(Body::WorkerSettings(settings)) = &push.upserts[0].body else {
        panic!("no settings")
    };
    assert!(!settings.drain && settings.nonce_keys[0].len() == 32);
    stream.accept(&push).await;
    let mut api = control.workers().await;
    let name = "workers/edge".to_owned();
    for drain in [true, false] {
        let shown = if drain {
            api.drain_worker(DrainWorkerRequest { name: name.clone() })
                .await
                .unwrap()
                .into_inner()
                .worker
        } else {
            api.resume_worker(ResumeWorkerRequest { name: name.clone() })
                .await
                .unwrap()
                .into_inner()
                .worker
        };
        assert_eq!(shown.unwrap().draining, drain);
        let push = stream.push().await;
        let Some(Body::WorkerSettings(settings)) = &push.upserts[0].body else {
            panic!("no settings")
        };
        assert_eq!(settings.drain, drain);
        stream.accept(&push).await;
    }
}

#[tokio::test]
async fn what_the_worker_says_of_its_listeners_is_the_trunks_status() {
    let control = Control::start().await;
    control.create_trunk("a", 8060).await;
    let worker = control.enroll("edge").await;
    let mut stream = Stream::open(&control, &worker, hello("b1")).await.unwrap();
    let push = stream.push().await;
    stream.accept(&push).await;
    let listener = |bound: bool| TrunkListener {
        trunk: "trunks/a".into(),
        address: "192.0.2.1:8060".into(),
        bound,
        error_code: if bound { String::new() } else { "ADDRESS_IN_USE".into() },
        ..TrunkListener::default()
    };
    let unrecognised = vec![UnrecognisedProperties {
        trunk: "trunks/a".into(),
        names: vec!["x.y".into()],
    }];
    for bound in [false, true] {
        let status = WorkerStatus {
            listeners: vec![listener(bound)],
            unrecognised: unrecognised.clone(),
        };
        stream.send(ToControl::Status(status)).await;
        let status = eventually(|| async {
            let request = GetTrunkRequest {
                name: "trunks/a".into(),
            };
            let trunk = control
                .trunks()
                .await
                .get_trunk(request)
                .await
                .unwrap()
                .into_inner()
                .trunk
                .unwrap();
            trunk
                .status
                .filter(|status| status.listeners.iter().any(|listener| listener.bound == bound))
        })
        .await;
        assert_eq!(status.connected, bound);
        assert_eq!(status.listeners[0].worker, "workers/edge");
        assert_eq!(
            status.listeners[0].error.as_ref().map(|error| error.code.as_str()),
            (!bound).then_some("ADDRESS_IN_USE")
        );
        assert_eq!(status.unrecognised_properties, ["x.y"]);
    }
}

#[tokio::test]
async fn heartbeats_carry_the_revision_and_tell_of_the_worker() {
    let limits = Limits {
        heartbeat: Duration::from_millis(50),
        ..Limits::default()
    };
    let control = Control::start_with(limits).await;
    let worker = control.enroll("edge").await;
    let mut stream = Stream::open(&control, &worker, hello("b1")).await.unwrap();
    let push = stream.push().await;
    stream.accept(&push).await;
    let FromControl::Heartbeat(heartbeat) = stream.message().await.unwrap() else {
        panic!("no heartbeat")
    };
    assert_eq!(heartbeat.revision, push.revision);
    stream.heartbeat(push.revision).await;
    let seen = eventually(|| async {
        let worker = control.worker("edge").await;
        (worker.active_calls == 3 && !worker.version.is_empty()).then_some(worker)
    })
    .await;
    assert_eq!((seen.version.as_str(), seen.media_tier.as_str()), ("1.2.3", "epoll"));
    assert_eq!(
        (seen.applied_revision, seen.current_revision),
        (push.revision, push.revision)
    );
}

#[tokio::test]
async fn going_down_tells_the_workers() {
    let control = Control::start().await;
    let worker = control.enroll("edge").await;
    let mut stream = Stream::open(&control, &worker, hello("b1")).await.unwrap();
    let push = stream.push().await;
    stream.accept(&push).await;
    let began = Instant::now();
    let (control, status) = tokio::join!(control.restart(), stream.ended());
    assert_eq!(status.code(), Code::Unavailable);
    assert!(began.elapsed() < Duration::from_secs(9), "nothing had to be cut off");
    let mut stream = Stream::open(&control, &worker, hello("b1")).await.unwrap();
    stream.push().await;
}
