//! The API as a client sees it that has nothing but an address, a CA and a token: no generated code, only reflection.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokio_stream::StreamExt;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use trunkline_tests::cluster::Cluster;
use trunkline_tests::process::output;

/// The interpreter with grpcio that tests/setup.sh makes.
fn python() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let python = root.join("target/venv/bin/python");
    assert!(python.is_file(), "{} is missing: run tests/setup.sh", python.display());
    python
}

/// Python's gRPC: its reflection speaks v1alpha. The steps are in clients/api.py, which ends with an error at the first
/// one that goes wrong.
#[tokio::test]
async fn a_client_of_another_make_lists_creates_updates_and_is_told_all_its_mistakes() {
    let cluster = Cluster::start().await.unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/api.py");
    let args = [
        script.to_string_lossy().into_owned(),
        cluster.api_address().to_string(),
        cluster.control_dir().join("ca.pem").to_string_lossy().into_owned(),
        cluster.control_dir().join("admin.token").to_string_lossy().into_owned(),
    ];
    let interpreter = python().to_string_lossy().into_owned();
    let said = tokio::task::spawn_blocking(move || output(&interpreter, args))
        .await
        .unwrap()
        .unwrap();
    print!("{said}");
    assert!(said.ends_with("all steps passed\n"));
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn reflection_v1_lists_every_service_and_describes_them() {
    let cluster = Cluster::start().await.unwrap();
    let mut client = ServerReflectionClient::new(cluster.api().unwrap().channel());
    let ask = |request: MessageRequest| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let requests = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(
            "trunkline.v1.TrunkService.CreateTrunk".to_owned(),
        )),
    ];
    let answers = client
        .server_reflection_info(tokio_stream::iter(requests))
        .await
        .unwrap()
        .into_inner();
    let answers: Vec<ServerReflectionResponse> = answers.collect::<Result<_, _>>().await.unwrap();
    let [Some(services), Some(file)] = &answers.iter().map(|a| a.message_response.clone()).collect::<Vec<_>>()[..]
    else {
        panic!("{answers:?}")
    };
    let MessageResponse::ListServicesResponse(services) = services else {
        panic!("{services:?}")
    };
    let names: BTreeSet<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    for wanted in [
        "grpc.health.v1.Health",
        "trunkline.v1.AuditService",
        "trunkline.v1.CallService",
        "trunkline.v1.DigestCredentialService",
        "trunkline.v1.LineService",
        "trunkline.v1.RegistrationService",
        "trunkline.v1.RouteService",
        "trunkline.v1.SettingsService",
        "trunkline.v1.TokenService",
        "trunkline.v1.TrunkService",
        "trunkline.v1.WorkerService",
    ] {
        assert!(names.contains(wanted), "{wanted} is not in {names:?}");
    }
    let MessageResponse::FileDescriptorResponse(file) = file else {
        panic!("{file:?}")
    };
    let text = file.file_descriptor_proto.concat();
    assert!(
        text.windows(12).any(|window| window == b"ExplainAcces"),
        "the file that declares the method"
    );
    let nothing = [ask(MessageRequest::FileContainingSymbol(
        "trunkline.v1.Nothing".to_owned(),
    ))];
    let mut answer = client
        .server_reflection_info(tokio_stream::iter(nothing))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.message().await.unwrap_err().code(), tonic::Code::NotFound);
    cluster.finish().await.unwrap();
}

#[tokio::test]
async fn without_a_token_nothing_is_said() {
    let cluster = Cluster::start().await.unwrap();
    let ca = std::fs::read(cluster.control_dir().join("ca.pem")).unwrap();
    let tls = tonic::transport::ClientTlsConfig::new().ca_certificate(tonic::transport::Certificate::from_pem(ca));
    let endpoint = tonic::transport::Endpoint::from_shared(format!("https://{}", cluster.api_address())).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect_lazy();
    let mut trunks = trunkline_proto::v1::trunk_service_client::TrunkServiceClient::new(channel);
    let refused = trunks
        .list_trunks(trunkline_proto::v1::ListTrunksRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused:?}");
    cluster.finish().await.unwrap();
}
