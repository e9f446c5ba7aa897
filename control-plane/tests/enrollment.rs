//! How callers and workers prove who they are.

#![allow(clippy::unwrap_used, reason = "in a test, an unwrap is an assertion")]

mod support;

use rcgen::KeyPair;
use support::{Bearer, Control, Stream, certificate_request, eventually, hello, within};
use tonic::{Code, transport::Endpoint};
use trunkline_proto::{
    dataplane::v1::{RenewRequest, enrollment_service_client::EnrollmentServiceClient},
    v1::{
        CreateTokenRequest, DeleteTokenRequest, DeleteWorkerRequest, GetWorkerRequest, ListTrunksRequest, Role, Token,
        token_service_client::TokenServiceClient, trunk_service_client::TrunkServiceClient,
    },
};

#[tokio::test]
async fn a_join_token_enrolls_as_many_workers_as_it_says() {
    let control = Control::start().await;
    let token = control.join_token().await;
    let key = KeyPair::generate().unwrap();
    assert_eq!(
        control.enroll_with(&token, &key, "edge").await.unwrap().worker,
        "workers/edge"
    );
    let refused = control.enroll_with(&token, &key, "edge").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let another = control.join_token().await;
    let second = control.enroll_with(&another, &key, "edge").await.unwrap();
    assert_eq!(second.worker, "workers/edge-2", "the id was taken");
}

#[tokio::test]
async fn what_is_no_join_token_enrolls_nobody() {
    let control = Control::start().await;
    let key = KeyPair::generate().unwrap();
    let good = control.join_token().await;
    let (head, secret) = good.rsplit_once('.').unwrap();
    let flipped = format!("{head}.{}", secret.chars().rev().collect::<String>());
    for token in ["", "join", flipped.as_str(), control.admin_token().as_str()] {
        let refused = control.enroll_with(token, &key, "edge").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    }
    let mut client = EnrollmentServiceClient::new(control.worker_channel(None).await);
    let request = trunkline_proto::dataplane::v1::EnrollRequest {
        join_token: good.clone(),
        certificate_request_der: b"no request".to_vec(),
        ..Default::default()
    };
    assert_eq!(client.enroll(request).await.unwrap_err().code(), Code::InvalidArgument);
    assert!(
        control.enroll_with(&good, &key, "edge").await.is_ok(),
        "a failed attempt does not use the token up"
    );
}

#[tokio::test]
async fn a_worker_renews_its_certificate_and_nobody_else_does() {
    let control = Control::start().await;
    let worker = control.enroll("edge").await;
    let next = KeyPair::generate().unwrap();
    let request = RenewRequest {
        certificate_request_der: certificate_request(&next),
    };

    let mut stranger = EnrollmentServiceClient::new(control.worker_channel(None).await);
    assert_eq!(
        stranger.renew(request.clone()).await.unwrap_err().code(),
        Code::Unauthenticated
    );

    let mut client = EnrollmentServiceClient::new(control.worker_channel(Some(worker.identity())).await);
    let certificate = client.renew(request).await.unwrap().into_inner().certificate.unwrap();
    assert!(certificate.renew_after.unwrap().seconds < certificate.not_after.unwrap().seconds);
    let renewed = support::WorkerKey {
        chain_pem: certificate.chain_pem,
        key_pem: next.serialize_pem(),
    };
    let mut stream = Stream::open(&control, &renewed, hello("b1")).await.unwrap();
    stream.push().await;
}

#[tokio::test]
async fn a_deleted_worker_is_let_go_and_its_certificate_refused_even_when_the_id_lives_on() {
    let control = Control::start().await;
    let worker = control.enroll("edge").await;
    let mut stream = Stream::open(&control, &worker, hello("b1")).await.unwrap();
    let push = stream.push().await;
    stream.accept(&push).await;
    let mut api = control.workers().await;
    api.delete_worker(DeleteWorkerRequest {
        name: "workers/edge".into(),
    })
    .await
    .unwrap();
    assert_eq!(stream.ended().await.code(), Code::PermissionDenied);
    control.enroll("edge").await;
    let refused = Stream::open(&control, &worker, hello("b1")).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let missing = GetWorkerRequest {
        name: "workers/edge".into(),
    };
    assert!(
        !api.get_worker(missing)
            .await
            .unwrap()
            .into_inner()
            .worker
            .unwrap()
            .connected
    );
}

#[tokio::test]
async fn a_stream_without_a_client_certificate_is_refused() {
    let control = Control::start().await;
    let channel = control.worker_channel(None).await;
    let mut client = trunkline_proto::dataplane::v1::report_service_client::ReportServiceClient::new(channel);
    let refused = client.stream_reports(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn the_api_is_closed_to_callers_without_a_good_token() {
    let control = Control::start().await;
    let channel = control.api_channel().await;
    let mut bare = TrunkServiceClient::new(channel.clone());
    assert_eq!(
        bare.list_trunks(ListTrunksRequest::default()).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    for token in [
        "",
        "x",
        "trunkline.admin.0",
        &control.admin_token().replace("admin", "other"),
    ] {
        let mut client = TrunkServiceClient::with_interceptor(channel.clone(), Bearer(token.to_owned()));
        let refused = client.list_trunks(ListTrunksRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{token}");
    }
    assert!(
        control
            .trunks()
            .await
            .list_trunks(ListTrunksRequest::default())
            .await
            .is_ok()
    );
    let (_, metrics) = control.http("/metrics").await;
    assert!(
        metrics.contains("trunkline_control_authentication_failures_total 5"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_deleted_token_is_refused_at_once() {
    let control = Control::start().await;
    let channel = control.api_channel().await;
    let mut tokens = TokenServiceClient::with_interceptor(channel.clone(), Bearer(control.admin_token()));
    let token = Token {
        display_name: "CI".into(),
        role: Role::Viewer as i32,
        ..Token::default()
    };
    let request = CreateTokenRequest {
        token_id: "ci".into(),
        token: Some(token),
        ttl: None,
    };
    let created = tokens.create_token(request).await.unwrap().into_inner();
    let mut viewer = TrunkServiceClient::with_interceptor(channel, Bearer(created.secret));
    assert!(viewer.list_trunks(ListTrunksRequest::default()).await.is_ok());
    tokens
        .delete_token(DeleteTokenRequest {
            name: "tokens/ci".into(),
        })
        .await
        .unwrap();
    let refused = viewer.list_trunks(ListTrunksRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn the_api_speaks_tls_only() {
    let control = Control::start().await;
    let endpoint = Endpoint::from_shared(format!("http://{}", control.app.api)).unwrap();
    let plain = match within(endpoint.connect()).await {
        Ok(channel) => {
            let mut client = TrunkServiceClient::with_interceptor(channel, Bearer(control.admin_token()));
            within(client.list_trunks(ListTrunksRequest::default()))
                .await
                .map(drop)
                .map_err(drop)
        }
        Err(_) => Err(()),
    };
    assert!(plain.is_err());
}

#[tokio::test]
async fn the_admin_token_is_written_once_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let control = Control::start().await;
    for file in ["admin.token", "ca.key", "store.key"] {
        let mode = std::fs::metadata(control.directory.path().join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let copy = control.directory.path().join("ca-copy.pem");
    assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(
        std::fs::read(&copy).unwrap(),
        std::fs::read(control.directory.path().join("ca.pem")).unwrap()
    );
    let token = control.admin_token();
    let control = control.restart().await;
    assert_eq!(control.admin_token(), token);
    assert!(
        control
            .trunks()
            .await
            .list_trunks(ListTrunksRequest::default())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn the_probes_tell_a_running_control_plane() {
    let control = Control::start().await;
    assert_eq!(control.http("/livez").await, (200, "ok\n".into()));
    assert_eq!(control.http("/readyz").await, (200, "ok\n".into()));
    let worker = control.enroll("edge").await;
    let mut stream = Stream::open(&control, &worker, hello("b1")).await.unwrap();
    let push = stream.push().await;
    stream.accept(&push).await;
    eventually(|| async {
        let (_, text) = control.http("/metrics").await;
        let all = [
            "trunkline_control_workers_connected 1",
            "trunkline_control_push_latency_seconds_count 1",
        ];
        all.iter().all(|line| text.contains(line)).then_some(())
    })
    .await;
}
