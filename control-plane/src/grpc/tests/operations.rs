//! Tokens, workers, registrations and calls.

use trunkline_proto::dataplane::v1 as dataplane;

use super::*;
use crate::{
    identity::WorkerIdentity,
    store::{self, BindingNews, now_ms},
};

const CALL: &str = "0192e4a1-7d5c-7c6e-9a55-0a5fd2b6a111";

async fn worker(api: &Api, id: &str) {
    let mut tx = api.store.write().await.unwrap();
    let identity = WorkerIdentity {
        worker: id.to_owned(),
        enrollment: "e1".into(),
    };
    store::worker::insert(&mut tx, &identity, "edge-1.example.com", now_ms() + 1000)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

async fn call(api: &Api, id: &str, state: v1::CallState, start_s: i64) {
    let call = v1::Call {
        name: format!("calls/{id}"),
        state: state.into(),
        worker: "workers/edge-1".into(),
        inbound_trunk: "trunks/main".into(),
        start_time: Some(prost_types::Timestamp {
            seconds: start_s,
            nanos: 0,
        }),
        end_time: (state == v1::CallState::Ended).then_some(prost_types::Timestamp {
            seconds: start_s + 5,
            nanos: 0,
        }),
        ..Default::default()
    };
    let mut tx = api.store.write().await.unwrap();
    let row = store::call::CallRow::new(call, &"boot".into());
    store::call::upsert_many(&mut tx, &[row]).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_tokens_secret_is_shown_once_and_stored_nowhere() {
    let api = Api::start().await;
    let create = |id: &str, role: v1::Role| v1::CreateTokenRequest {
        token_id: id.to_owned(),
        token: Some(v1::Token {
            display_name: "CI".into(),
            role: role.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let made = api
        .tokens()
        .create_token(create("ci", v1::Role::Admin))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(made.token.as_ref().unwrap().name, "tokens/ci");
    let secret = made.secret.rsplit('.').next().unwrap();
    assert_eq!(secret.len(), 64);
    assert!(!contains(&api.disk(), secret));
    assert!(!format!("{made:?}").contains(secret));

    assert_eq!(
        refusal(api.tokens().create_token(create("ci", v1::Role::Admin)).await).0,
        Code::AlreadyExists
    );
    let wrong = v1::CreateTokenRequest {
        token: Some(v1::Token::default()),
        ttl: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        ..Default::default()
    };
    assert_eq!(
        violated(api.tokens().create_token(wrong).await),
        ["token.display_name", "token.role", "ttl"]
    );

    api.tokens().create_token(create("ui", v1::Role::Viewer)).await.unwrap();
    let delete = |id: &str| v1::DeleteTokenRequest {
        name: format!("tokens/{id}"),
    };
    assert_eq!(
        refusal(api.tokens().delete_token(delete("ci")).await).1,
        "LAST_ADMIN_TOKEN"
    );
    api.tokens().delete_token(delete("ui")).await.unwrap();
    let left = api
        .tokens()
        .list_tokens(v1::ListTokensRequest::default())
        .await
        .unwrap()
        .into_inner()
        .tokens;
    assert_eq!(left.len(), 1, "the last admin token is still there");
}

#[tokio::test]
async fn a_worker_shows_its_record_and_what_it_does_now() {
    let api = Api::start().await;
    worker(&api, "edge-1").await;
    let get = async || {
        let request = v1::GetWorkerRequest {
            name: "workers/edge-1".into(),
        };
        api.workers()
            .get_worker(request)
            .await
            .unwrap()
            .into_inner()
            .worker
            .unwrap()
    };
    let away = get().await;
    assert_eq!((away.connected, away.sync_state()), (false, v1::SyncState::Stale));

    let sync = |resource: &str, state: v1::SyncState| v1::ResourceSync {
        resource: resource.to_owned(),
        state: state.into(),
        ..Default::default()
    };
    let live = LiveWorker {
        connected: true,
        sync_state: v1::SyncState::Error,
        applied_revision: 1,
        active_calls: 3,
        resources: vec![
            sync("trunks/a", v1::SyncState::Synced),
            sync("trunks/b", v1::SyncState::Error),
        ],
        ..Default::default()
    };
    api.live.workers.lock().unwrap().push(("edge-1".into(), live));
    let shown = get().await;
    assert_eq!(
        (shown.connected, shown.active_calls, shown.resources.len()),
        (true, 3, 2)
    );
    assert_eq!(shown.hostname, "edge-1.example.com");
    let listed = api
        .workers()
        .list_workers(v1::ListWorkersRequest::default())
        .await
        .unwrap()
        .into_inner()
        .workers;
    assert_eq!(listed[0].resources.len(), 1, "only what is not in step");
}

#[tokio::test]
async fn draining_is_configuration_and_audited() {
    let api = Api::start().await;
    worker(&api, "edge-1").await;
    let before = api.store.revision();
    let drain = || v1::DrainWorkerRequest {
        name: "workers/edge-1".into(),
    };
    assert!(
        api.workers()
            .drain_worker(drain())
            .await
            .unwrap()
            .into_inner()
            .worker
            .unwrap()
            .draining
    );
    assert_eq!(api.store.revision(), before + 1);
    api.workers().drain_worker(drain()).await.unwrap();
    assert_eq!(api.store.revision(), before + 1, "it was draining");
    let resume = v1::ResumeWorkerRequest {
        name: "workers/edge-1".into(),
    };
    assert!(
        !api.workers()
            .resume_worker(resume)
            .await
            .unwrap()
            .into_inner()
            .worker
            .unwrap()
            .draining
    );
    let actions: Vec<String> = api
        .audit("workers/edge-1")
        .await
        .into_iter()
        .map(|entry| entry.action)
        .collect();
    assert_eq!(actions, ["ResumeWorker", "DrainWorker", "DrainWorker"]);

    let delete = || v1::DeleteWorkerRequest {
        name: "workers/edge-1".into(),
    };
    api.workers().delete_worker(delete()).await.unwrap();
    assert_eq!(*api.live.deleted.lock().unwrap(), ["edge-1"]);
    assert_eq!(refusal(api.workers().delete_worker(delete()).await).0, Code::NotFound);
}

#[tokio::test]
async fn a_join_token_has_bounds() {
    let api = Api::start().await;
    let request = |seconds, max_uses| v1::CreateJoinTokenRequest {
        ttl: Some(prost_types::Duration { seconds, nanos: 0 }),
        max_uses,
    };
    assert_eq!(
        violated(api.workers().create_join_token(request(1, 1001)).await),
        ["max_uses", "ttl"]
    );
    let made = api
        .workers()
        .create_join_token(request(3600, 5))
        .await
        .unwrap()
        .into_inner();
    assert!(made.token.starts_with("join."));
    let seconds = made.expire_time.unwrap().seconds - now_ms() / 1000;
    assert!((3590..=3601).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn registrations_are_read_and_removed() {
    let api = Api::start().await;
    api.trunk("main", 8060).await;
    let mut tx = api.store.write().await.unwrap();
    for user in ["alice", "bob smith"] {
        let binding = v1::Binding {
            contact_uri: format!("sip:{user}@192.0.2.9"),
            expire_time: Some(prost_types::Timestamp {
                seconds: now_ms() / 1000 + 600,
                nanos: 0,
            }),
            ..Default::default()
        };
        let bindings = dataplane::AorBindings {
            trunk: "trunks/main".into(),
            user: user.into(),
            address_of_record: format!("sip:{user}@example.com"),
            bindings: vec![binding],
            change_time_ms: now_ms(),
        };
        store::registration::upsert_many(&mut tx, &[bindings]).await.unwrap();
    }
    tx.commit().await.unwrap();

    let mut names = Vec::new();
    let mut page_token = String::new();
    for _ in 0..3 {
        let request = v1::ListRegistrationsRequest {
            parent: "trunks/-".into(),
            page_size: 1,
            page_token,
        };
        let page = api
            .registrations()
            .list_registrations(request)
            .await
            .unwrap()
            .into_inner();
        names.extend(page.registrations.into_iter().map(|registration| registration.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(
        names,
        [
            "trunks/main/registrations/alice",
            "trunks/main/registrations/bob%20smith"
        ]
    );

    let unregister = || v1::UnregisterRequest {
        name: "trunks/main/registrations/bob%20smith".into(),
    };
    let mut news = api.store.binding_news();
    api.registrations().unregister(unregister()).await.unwrap();
    assert!(matches!(news.try_recv(), Ok(BindingNews::Changed)));
    assert_eq!(
        refusal(api.registrations().unregister(unregister()).await).0,
        Code::NotFound
    );
    let get = v1::GetRegistrationRequest {
        name: "trunks/main/registrations/bob%20smith".into(),
    };
    assert_eq!(
        refusal(api.registrations().get_registration(get).await).0,
        Code::NotFound
    );
    assert_eq!(api.store.revision(), 1, "registrations are not configuration");
}

#[tokio::test]
async fn calls_are_listed_newest_first_and_filtered() {
    let api = Api::start().await;
    let id = |last: u32| format!("0192e4a1-7d5c-7c6e-9a55-0a5fd2b6a{last:03}");
    for last in 0..5 {
        let state = if last < 3 {
            v1::CallState::Ended
        } else {
            v1::CallState::Answered
        };
        call(&api, &id(last), state, 1000 + i64::from(last)).await;
    }
    let list = async |filter: v1::CallFilter, page_token: &str| {
        let request = v1::ListCallsRequest {
            page_size: 2,
            page_token: page_token.to_owned(),
            filter: Some(filter),
        };
        api.calls().list_calls(request).await.map(tonic::Response::into_inner)
    };
    let ended = || v1::CallFilter {
        activity: v1::CallActivity::Ended.into(),
        ..Default::default()
    };
    let first = list(ended(), "").await.unwrap();
    let names: Vec<&str> = first.calls.iter().map(|call| call.name.as_str()).collect();
    assert_eq!(names, [format!("calls/{}", id(2)), format!("calls/{}", id(1))]);
    let second = list(ended(), &first.next_page_token).await.unwrap();
    assert_eq!((second.calls.len(), second.next_page_token.as_str()), (1, ""));
    let other = list(v1::CallFilter::default(), &first.next_page_token).await;
    assert_eq!(violated(other), ["page_token"], "the token of another filter");
    assert_eq!(
        violated(
            list(
                v1::CallFilter {
                    trunk: "main".into(),
                    ..Default::default()
                },
                ""
            )
            .await
        ),
        ["filter.trunk"]
    );
}

#[tokio::test]
async fn hanging_up_reaches_the_worker_of_the_call() {
    let api = Api::start().await;
    call(&api, CALL, v1::CallState::Answered, 1000).await;
    let request = || v1::HangUpCallRequest {
        name: format!("calls/{CALL}"),
    };
    api.calls().hang_up_call(request()).await.unwrap();
    assert_eq!(
        *api.live.hung_up.lock().unwrap(),
        [("edge-1".to_owned(), CALL.to_owned())]
    );

    for (error, code, reason) in [
        (CommandError::Away, Code::Unavailable, "WORKER_AWAY"),
        (CommandError::TimedOut, Code::Unavailable, "WORKER_SILENT"),
        (
            CommandError::Refused("NOT_FOUND".into()),
            Code::FailedPrecondition,
            "CALL_ENDED",
        ),
    ] {
        *api.live.hang_up.lock().unwrap() = Err(error);
        assert_eq!(
            refusal(api.calls().hang_up_call(request()).await),
            (code, reason.into())
        );
    }
    let results: Vec<String> = api
        .audit(&format!("calls/{CALL}"))
        .await
        .into_iter()
        .map(|entry| entry.result)
        .collect();
    assert_eq!(results, ["FAILED_PRECONDITION", "UNAVAILABLE", "UNAVAILABLE", "OK"]);

    call(&api, CALL, v1::CallState::Ended, 1000).await;
    assert_eq!(refusal(api.calls().hang_up_call(request()).await).1, "CALL_ENDED");
    let unknown = v1::HangUpCallRequest {
        name: "calls/0192e4a1-7d5c-7c6e-9a55-0a5fd2b6a999".into(),
    };
    assert_eq!(refusal(api.calls().hang_up_call(unknown).await).0, Code::NotFound);
}

#[tokio::test]
async fn a_watcher_gets_the_active_calls_a_mark_and_every_change_of_its_trunk() {
    let api = Api::start().await;
    let call = |trunk: &str, state: v1::CallState| {
        Arc::new(v1::Call {
            inbound_trunk: trunk.to_owned(),
            state: state.into(),
            ..Default::default()
        })
    };
    api.live.active.lock().unwrap().extend([
        call("trunks/a", v1::CallState::Answered),
        call("trunks/b", v1::CallState::Answered),
    ]);
    let request = v1::WatchCallsRequest {
        trunk: "trunks/a".into(),
    };
    let mut stream = api.calls().watch_calls(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(first.call.unwrap().inbound_trunk, "trunks/a");
    assert!(stream.message().await.unwrap().unwrap().initial_done);
    api.live.changes.send(call("trunks/b", v1::CallState::Ended)).unwrap();
    api.live.changes.send(call("trunks/a", v1::CallState::Ended)).unwrap();
    let change = stream.message().await.unwrap().unwrap().call.unwrap();
    assert_eq!(
        (change.inbound_trunk.as_str(), change.state()),
        ("trunks/a", v1::CallState::Ended)
    );

    for _ in 0..20 {
        api.live.changes.send(call("trunks/a", v1::CallState::Ringing)).unwrap();
    }
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "it fell behind and is told so");
}

#[tokio::test]
async fn reflection_lists_the_public_services_in_both_versions() {
    use tokio_stream::StreamExt as _;
    use tonic_reflection::pb::{v1 as r1, v1alpha as r1a};
    let api = Api::start().await;
    let expected = [
        "trunkline.v1.TrunkService",
        "trunkline.v1.WorkerService",
        "grpc.health.v1.Health",
    ];

    let list = r1::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = r1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(list),
    };
    let mut client = r1::server_reflection_client::ServerReflectionClient::new(api.channel(Role::Viewer));
    let stream = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = stream
        .map(Result::unwrap)
        .next()
        .await
        .unwrap()
        .message_response
        .unwrap();
    let r1::server_reflection_response::MessageResponse::ListServicesResponse(services) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<String> = services.service.into_iter().map(|service| service.name).collect();
    for name in expected {
        assert!(names.iter().any(|known| known == name), "{names:?}");
    }
    assert!(names.iter().all(|name| !name.contains("dataplane")), "{names:?}");

    let list = r1a::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = r1a::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(list),
    };
    let mut client = r1a::server_reflection_client::ServerReflectionClient::new(api.channel(Role::Viewer));
    let stream = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = stream
        .map(Result::unwrap)
        .next()
        .await
        .unwrap()
        .message_response
        .unwrap();
    assert!(
        matches!(answer, r1a::server_reflection_response::MessageResponse::ListServicesResponse(list) if list.service.len() >= 11)
    );
}
