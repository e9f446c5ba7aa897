//! Passwords: where they go and where they never show.

use super::*;
use crate::store;

const PASSWORD: &str = "Tr0ub4dor-and-3";

async fn hashes(api: &Api, name: &str) -> store::credential::WorkerCredential {
    let mut view = api.store.read().await.unwrap();
    let cipher = view.cipher();
    store::credential::find_for_workers(view.conn(), &cipher, name)
        .await
        .unwrap()
        .unwrap()
}

async fn set_realm(api: &Api, realm: &str) {
    let digest = v1::InboundDigest {
        realm: realm.to_owned(),
        ..Default::default()
    };
    let patch = v1::Trunk {
        name: "trunks/main".into(),
        inbound_digest: Some(digest),
        ..Default::default()
    };
    api.update(patch, &["inbound_digest.realm"]).await.unwrap();
}

#[tokio::test]
async fn a_password_is_not_on_the_disk_nor_in_any_answer() {
    let api = Api::start().await;
    api.trunk("main", 8060).await;
    let created = api.credential("main", "alice", PASSWORD).await;
    assert!(created.password.is_empty() && created.has_password);
    let line = v1::Line {
        host: "192.0.2.10".into(),
        auth_username: "me".into(),
        auth_password: PASSWORD.into(),
        ..Default::default()
    };
    let request = v1::CreateLineRequest {
        parent: "trunks/main".into(),
        line_id: "carrier".into(),
        line: Some(line),
        request_id: "6f1c3f0e-8a0b-4a53-9d86-0c8b3bd9f3aa".into(),
        ..Default::default()
    };
    assert!(!format!("{request:?}").contains(PASSWORD));
    let line = api
        .lines()
        .create_line(request)
        .await
        .unwrap()
        .into_inner()
        .line
        .unwrap();
    assert!(line.auth_password.is_empty() && line.has_password);

    let disk = api.disk();
    assert!(contains(&disk, "alice"), "the files were read");
    assert!(!contains(&disk, PASSWORD));
    let ha1 = hashes(&api, "trunks/main/credentials/alice").await.ha1;
    assert!(
        !disk.windows(32).any(|window| window == ha1.sha256),
        "hashes open the door as well"
    );
    for entry in api.audit("trunks/main").await {
        assert!(!format!("{entry:?}").contains(PASSWORD));
    }
    let entries = api.audit("trunks/main/credentials/alice").await;
    assert!(
        entries[0].changed_fields.contains(&"password".to_owned()),
        "by name: {entries:?}"
    );
}

#[tokio::test]
async fn revealing_needs_the_admin_role_and_is_audited() {
    let api = Api::start().await;
    api.trunk("main", 8060).await;
    api.credential("main", "alice", PASSWORD).await;
    let name = "trunks/main/credentials/alice".to_owned();
    let request = || v1::RevealDigestCredentialPasswordRequest { name: name.clone() };
    let refused = api.credentials().reveal_digest_credential_password(request()).await;
    assert_eq!(refusal(refused), (Code::PermissionDenied, "ROLE_TOO_SMALL".into()));

    let mut admin = DigestCredentialServiceClient::new(api.channel(Role::Admin));
    let answer = admin
        .reveal_digest_credential_password(request())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.password, PASSWORD);
    assert!(!format!("{answer:?}").contains(PASSWORD));

    let entries = api.audit("").await;
    let found = |actor: &str, result: &str| {
        let action = "RevealDigestCredentialPassword";
        entries
            .iter()
            .any(|entry| (&*entry.actor, &*entry.action, &*entry.result) == (actor, action, result))
    };
    assert!(found("tokens/operator", "PERMISSION_DENIED"), "{entries:?}");
    assert!(found("tokens/admin", "OK"), "{entries:?}");
    assert_eq!(entries[0].source_address, "192.0.2.50");
}

#[tokio::test]
async fn a_line_reveals_its_password_or_says_that_it_has_none() {
    let api = Api::start().await;
    api.trunk("main", 8060).await;
    let create = |id: &str, password: &str| v1::CreateLineRequest {
        parent: "trunks/main".into(),
        line_id: id.to_owned(),
        line: Some(v1::Line {
            host: "192.0.2.10".into(),
            auth_username: if password.is_empty() {
                String::new()
            } else {
                "me".into()
            },
            auth_password: password.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    api.lines().create_line(create("with", PASSWORD)).await.unwrap();
    api.lines().create_line(create("without", "")).await.unwrap();
    let mut admin = LineServiceClient::new(api.channel(Role::Admin));
    let reveal = |id: &str| v1::RevealLinePasswordRequest {
        name: format!("trunks/main/lines/{id}"),
    };
    assert_eq!(
        admin
            .reveal_line_password(reveal("with"))
            .await
            .unwrap()
            .into_inner()
            .password,
        PASSWORD
    );
    assert_eq!(
        refusal(admin.reveal_line_password(reveal("without")).await).1,
        "NO_PASSWORD"
    );
}

#[tokio::test]
async fn changing_the_realm_makes_every_hash_anew_in_the_same_revision() {
    let api = Api::start().await;
    api.trunk("main", 8060).await;
    set_realm(&api, "http-auth@example.org").await;
    let request = create_credential("trunks/main", "mufasa", "Mufasa", "Circle of Life");
    api.credentials().create_digest_credential(request).await.unwrap();
    let name = "trunks/main/credentials/mufasa";
    let first = hashes(&api, name).await;
    assert_eq!(first.realm, "http-auth@example.org");
    // RFC 7616 §3.9.1.
    assert_eq!(first.ha1.md5[..4], [0x3d, 0x78, 0x80, 0x7d]);

    set_realm(&api, "example.net").await;
    let second = hashes(&api, name).await;
    assert_eq!(second.realm, "example.net");
    assert_ne!(second.ha1, first.ha1);
    assert_eq!(
        second.credential.version,
        api.store.revision(),
        "with the trunk, so that no worker sees one without the other"
    );
}

#[tokio::test]
async fn a_password_stays_unless_it_is_named() {
    let api = Api::start().await;
    api.trunk("main", 8060).await;
    api.credential("main", "alice", PASSWORD).await;
    let name = "trunks/main/credentials/alice";
    let update = async |credential: v1::DigestCredential, mask: &[&str]| {
        let digest_credential = Some(v1::DigestCredential {
            name: name.into(),
            ..credential
        });
        let update_mask = field_mask(mask);
        let request = v1::UpdateDigestCredentialRequest {
            digest_credential,
            update_mask,
            ..Default::default()
        };
        api.credentials().update_digest_credential(request).await
    };
    let before = hashes(&api, name).await;
    let disabled = v1::DigestCredential {
        username: "alice".into(),
        enabled: Some(false),
        ..Default::default()
    };
    update(disabled.clone(), &["*"]).await.unwrap();
    let after = hashes(&api, name).await;
    assert_eq!(after.ha1, before.ha1);
    assert_eq!(after.credential.message.enabled, Some(false));

    assert_eq!(violated(update(disabled, &["password"]).await), ["password"]);
    let renewed = v1::DigestCredential {
        password: "another-one".into(),
        ..Default::default()
    };
    update(renewed, &["password"]).await.unwrap();
    assert_ne!(hashes(&api, name).await.ha1, before.ha1);
    assert_eq!(api.audit(name).await[0].changed_fields, ["password"]);
}

#[tokio::test]
async fn a_user_name_is_unique_in_its_trunk() {
    let api = Api::start().await;
    api.trunk("main", 8060).await;
    api.trunk("other", 8061).await;
    api.credential("main", "alice", PASSWORD).await;
    let create = |parent: &str, username: &str| create_credential(parent, "second", username, PASSWORD);
    let taken = api
        .credentials()
        .create_digest_credential(create("trunks/main", "alice"))
        .await;
    assert_eq!(refusal(taken), (Code::AlreadyExists, "USERNAME_IN_USE".into()));
    api.credentials()
        .create_digest_credential(create("trunks/main", "Alice"))
        .await
        .unwrap();
    api.credentials()
        .create_digest_credential(create("trunks/other", "alice"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_batch_is_stored_whole_or_not_at_all() {
    let api = Api::start().await;
    api.trunk("main", 8060).await;
    api.credential("main", "user-2", PASSWORD).await;
    let batch = |range: std::ops::Range<usize>| {
        let create = |index| create_credential("", &format!("user-{index}"), &format!("user-{index}"), PASSWORD);
        v1::BatchCreateDigestCredentialsRequest {
            parent: "trunks/main".into(),
            requests: range.map(create).collect(),
        }
    };
    let before = api.store.revision();
    let taken = api.credentials().batch_create_digest_credentials(batch(0..5)).await;
    assert_eq!(refusal(taken), (Code::AlreadyExists, "RESOURCE_EXISTS".into()));
    assert_eq!(api.store.revision(), before);

    let mut wrong = batch(10..13);
    wrong.requests[1].digest_credential.as_mut().unwrap().username.clear();
    wrong.requests[2].digest_credential_id = "user-10".into();
    wrong.requests[2].validate_only = true;
    let fields = violated(api.credentials().batch_create_digest_credentials(wrong).await);
    assert!(
        fields
            .iter()
            .any(|field| field.starts_with("requests[1].") && field.ends_with("username")),
        "{fields:?}"
    );
    assert!(
        fields.contains(&"requests[2].digest_credential_id".to_owned()),
        "{fields:?}"
    );
    assert!(fields.contains(&"requests[2].validate_only".to_owned()), "{fields:?}");

    let made = api
        .credentials()
        .batch_create_digest_credentials(batch(10..40))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(made.digest_credentials.len(), 30);
    assert_eq!(api.store.revision(), before + 1, "one revision for all");
    let list = v1::ListDigestCredentialsRequest {
        parent: "trunks/main".into(),
        ..Default::default()
    };
    let listed = api
        .credentials()
        .list_digest_credentials(list)
        .await
        .unwrap()
        .into_inner()
        .digest_credentials;
    assert_eq!(listed.len(), 31);
}
