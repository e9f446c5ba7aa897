use std::os::unix::fs::PermissionsExt as _;

use clap::Parser as _;
use rcgen::{CertificateSigningRequestParams, Issuer, KeyUsagePurpose};
use rustls_pki_types::CertificateSigningRequestDer;
use tempfile::TempDir;

use super::super::scripted::{CertificateRequest, Scripted, within};
use super::*;

/// Signs what workers ask for.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    fn sign(&self, request: &CertificateRequest, from: SystemTime, until: SystemTime) -> WorkerCertificate {
        let der = CertificateSigningRequestDer::from(request.der.as_slice());
        let mut request = CertificateSigningRequestParams::from_der(&der).unwrap();
        request.params.not_before = from.into();
        request.params.not_after = until.into();
        WorkerCertificate {
            chain_pem: request.signed_by(&self.issuer).unwrap().pem(),
            ca_pem: self.pem.clone(),
            not_after: Some(until.into()),
            renew_after: Some((from + until.duration_since(from).unwrap() * 2 / 3).into()),
        }
    }

    /// Valid from now on.
    fn sign_for(&self, request: &CertificateRequest, validity: Duration) -> WorkerCertificate {
        self.sign(request, SystemTime::now(), SystemTime::now() + validity)
    }
}

const DAY: Duration = Duration::from_secs(86_400);

fn options(control: &Scripted, state: &TempDir, with_token: bool) -> Options {
    let state_dir = state.path().to_str().unwrap();
    let mut arguments = vec!["worker".to_owned(), "--control".into(), control.control()];
    arguments.extend([
        "--state-dir".into(),
        state_dir.into(),
        "--worker-id".into(),
        "edge".into(),
    ]);
    if with_token {
        arguments.extend(["--ca-file".into(), format!("{state_dir}/given-ca.pem")]);
        arguments.extend(["--join-token-file".into(), format!("{state_dir}/token")]);
    }
    Options::parse_from(arguments)
}

fn write_bootstrap(state: &TempDir, authority: &Authority) {
    std::fs::write(state.path().join("given-ca.pem"), &authority.pem).unwrap();
    std::fs::write(state.path().join("token"), "join.t1.secret\n").unwrap();
}

async fn enrolled(control: &mut Scripted, state: &TempDir, authority: &Authority, validity: Duration) -> Identity {
    write_bootstrap(state, authority);
    let options = options(control, state, true);
    let enrolling = tokio::spawn(async move { Identity::load_or_enroll(&options).await });
    let request = within(control.certificates.recv()).await.unwrap();
    assert_eq!(
        request.enrollment,
        Some(("join.t1.secret".to_owned(), "edge".to_owned()))
    );
    request
        .answer
        .send(Ok(authority.sign_for(&request, validity)))
        .await
        .unwrap();
    within(enrolling).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_worker_enrolls_once_and_then_starts_from_disk_alone() {
    let state = tempfile::tempdir().unwrap();
    let mut control = Scripted::start().await;
    let identity = enrolled(&mut control, &state, &Authority::new(), DAY).await;
    assert_eq!(identity.worker().as_str(), "edge-1");
    let dir = state.path().join(DIRECTORY);
    for name in [CA_FILE, WORKER_FILE, NAME_FILE] {
        assert_eq!(
            std::fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777,
            0o600,
            "{name}"
        );
    }
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    let options = options(&control, &state, false);
    drop(control);
    let again = within(Identity::load_or_enroll(&options)).await.unwrap();
    assert_eq!(again.worker(), identity.worker());
    assert_eq!(*again.credentials.borrow(), *identity.credentials.borrow());
    let difference = again
        .renew_after
        .duration_since(identity.renew_after)
        .unwrap_or_default();
    assert!(difference < Duration::from_secs(2), "certificates have whole seconds");
}

#[tokio::test]
async fn without_anything_to_enroll_with_it_says_what_is_missing() {
    let state = tempfile::tempdir().unwrap();
    let control = Scripted::start().await;
    let error = within(Identity::load_or_enroll(&options(&control, &state, false)))
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains("--join-token-file"), "{error:#}");
}

#[tokio::test]
async fn enrolling_waits_for_the_files_and_for_a_better_token() {
    let state = tempfile::tempdir().unwrap();
    let mut control = Scripted::start().await;
    let authority = Authority::new();
    let options = options(&control, &state, true);
    let enrolling = tokio::spawn(async move { Identity::load_or_enroll(&options).await });
    write_bootstrap(&state, &authority);
    let request = within(control.certificates.recv()).await.unwrap();
    request
        .answer
        .send(Err(tonic::Status::unauthenticated("the join token is not valid")))
        .await
        .unwrap();
    let request = within(control.certificates.recv()).await.unwrap();
    request
        .answer
        .send(Ok(authority.sign_for(&request, DAY)))
        .await
        .unwrap();
    within(enrolling).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refusal_that_waiting_cannot_change_ends_the_attempt() {
    let state = tempfile::tempdir().unwrap();
    let mut control = Scripted::start().await;
    write_bootstrap(&state, &Authority::new());
    let options = options(&control, &state, true);
    let enrolling = tokio::spawn(async move { Identity::load_or_enroll(&options).await });
    let request = within(control.certificates.recv()).await.unwrap();
    request
        .answer
        .send(Err(tonic::Status::invalid_argument("worker_id: a letter first")))
        .await
        .unwrap();
    let error = within(enrolling).await.unwrap().unwrap_err();
    assert!(format!("{error:#}").contains("a letter first"), "{error:#}");
}

#[tokio::test]
async fn a_certificate_is_renewed_when_due_with_a_new_key_and_a_failure_is_tried_again() {
    let state = tempfile::tempdir().unwrap();
    let mut control = Scripted::start().await;
    let authority = Authority::new();
    let mut identity = enrolled(&mut control, &state, &authority, DAY).await;
    // Due now, not ended.
    identity.renew_after = SystemTime::now() - Duration::from_secs(1);
    let before = identity.credentials.borrow().clone();
    let mut credentials = identity.credentials.subscribe();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(identity.keep_renewed(shutdown.clone()));
    let request = within(control.certificates.recv()).await.unwrap();
    assert_eq!(request.enrollment, None, "a renewal needs no token");
    request
        .answer
        .send(Err(tonic::Status::unavailable("try again")))
        .await
        .unwrap();
    let request = within(control.certificates.recv()).await.unwrap();
    request
        .answer
        .send(Ok(authority.sign_for(&request, DAY)))
        .await
        .unwrap();
    let after = within(credentials.wait_for(|now| **now != *before))
        .await
        .unwrap()
        .clone();
    let stored = load(&state.path().join(DIRECTORY)).unwrap().unwrap();
    assert_eq!(stored.credentials, *after);
    shutdown.cancel();
    within(running).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_ended_while_the_control_plane_was_away_is_replaced_by_enrolling_again() {
    let state = tempfile::tempdir().unwrap();
    let mut control = Scripted::start().await;
    let authority = Authority::new();
    let mut identity = enrolled(&mut control, &state, &authority, DAY).await;
    identity.renew_after = SystemTime::now() - DAY;
    identity.not_after = SystemTime::now() - Duration::from_secs(1);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(identity.keep_renewed(shutdown.clone()));
    let request = within(control.certificates.recv()).await.unwrap();
    assert_eq!(
        request.enrollment.as_ref().map(|(_, wished)| wished.as_str()),
        Some("edge")
    );
    shutdown.cancel();
    within(running).await.unwrap();
}

#[tokio::test]
async fn half_an_identity_is_reported_not_replaced() {
    let state = tempfile::tempdir().unwrap();
    let mut control = Scripted::start().await;
    enrolled(&mut control, &state, &Authority::new(), DAY).await;
    std::fs::remove_file(state.path().join(DIRECTORY).join(WORKER_FILE)).unwrap();
    let error = within(Identity::load_or_enroll(&options(&control, &state, true)))
        .await
        .unwrap_err();
    assert!(format!("{error:#}").contains(WORKER_FILE), "{error:#}");
}
