//! Rules that span resources: PCI DSS, TLS versions, roles.

use super::*;

fn in_one_hour() -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: crate::store::now_ms() / 1000 + 3600,
        nanos: 0,
    })
}

fn capturing() -> Option<v1::DiagnosticsSettings> {
    Some(v1::DiagnosticsSettings {
        media_capture: Some(true),
        media_capture_until: in_one_hour(),
        ..Default::default()
    })
}

async fn set_pci(api: &Api, on: bool) {
    let settings = v1::Settings {
        pci_dss_enabled: Some(on),
        ..Default::default()
    };
    let request = v1::UpdateSettingsRequest {
        settings: Some(settings),
        ..Default::default()
    };
    api.settings().update_settings(request).await.unwrap();
}

#[tokio::test]
async fn turning_pci_on_takes_captures_off_everywhere_at_once() {
    let api = Api::start().await;
    for (index, id) in (0..).zip(["a", "b"]) {
        api.create(
            id,
            v1::Trunk {
                diagnostics: capturing(),
                ..trunk(id, 9000 + index)
            },
        )
        .await
        .unwrap();
    }
    api.trunk("c", 9100).await;
    let before = api.store.revision();
    set_pci(&api, true).await;
    assert_eq!(api.store.revision(), before + 1, "one revision");
    for id in ["a", "b"] {
        let trunk = api.get(id).await.unwrap();
        assert_eq!(trunk.diagnostics.unwrap().media_capture, Some(false));
        assert_eq!(trunk.etag, crate::store::etag(before + 1));
    }
    assert_ne!(
        api.get("c").await.unwrap().etag,
        crate::store::etag(before + 1),
        "nothing to take off there"
    );

    let create = api
        .create(
            "d",
            v1::Trunk {
                diagnostics: capturing(),
                ..trunk("d", 9200)
            },
        )
        .await;
    assert_eq!(refusal(create), (Code::FailedPrecondition, "PCI_DSS_ENABLED".into()));
    let patch = v1::Trunk {
        name: "trunks/c".into(),
        diagnostics: capturing(),
        ..Default::default()
    };
    assert_eq!(refusal(api.update(patch.clone(), &[]).await).1, "PCI_DSS_ENABLED");
    set_pci(&api, false).await;
    api.update(patch, &[]).await.unwrap();
}

#[tokio::test]
async fn a_capture_needs_an_end_within_a_week() {
    let api = Api::start().await;
    let now = crate::store::now_ms() / 1000;
    for until in [None, Some(now - 5), Some(now + 8 * 24 * 3600)] {
        let diagnostics = v1::DiagnosticsSettings {
            protocol_capture: Some(true),
            protocol_capture_until: until.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
            ..Default::default()
        };
        let created = api
            .create(
                "a",
                v1::Trunk {
                    diagnostics: Some(diagnostics),
                    ..trunk("a", 9000)
                },
            )
            .await;
        assert_eq!(violated(created), ["diagnostics.protocol_capture_until"], "{until:?}");
    }
}

#[tokio::test]
async fn insecure_tls_is_refused_by_the_rule_that_forbids_it() {
    let api = Api::start().await;
    for version in [v1::TlsVersion::SslV3, v1::TlsVersion::TlsV1, v1::TlsVersion::TlsV11] {
        let tls = v1::TlsSettings {
            version: version.into(),
            ..Default::default()
        };
        let wanted = v1::Trunk {
            protocol: v1::TransportProtocol::Tls.into(),
            tls: Some(tls),
            ..trunk("a", 9000)
        };
        let status = api.create("a", wanted).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{version:?}");
        assert_eq!(status.get_details_error_info().unwrap().reason, "INSECURE_TLS_VERSION");
        let violation = &status.get_details_precondition_failure().unwrap().violations[0];
        assert_eq!(violation.subject, "tls.version");
        assert!(violation.description.contains("RFC"), "{}", violation.description);
    }
}

#[tokio::test]
async fn a_trunk_open_to_everybody_carries_a_warning() {
    let api = Api::start().await;
    let acl = v1::AccessControl {
        allow_all: Some(true),
        ..Default::default()
    };
    let created = api
        .create(
            "a",
            v1::Trunk {
                acl: Some(acl),
                ..trunk("a", 9000)
            },
        )
        .await
        .unwrap();
    assert!(
        created
            .warnings
            .iter()
            .any(|warning| warning.reason == "SECURITY_RISK_ALLOW_ALL"),
        "{created:?}"
    );
    assert_eq!(api.get("a").await.unwrap().warnings, created.warnings);
}

#[tokio::test]
async fn roles_are_asked_for_before_anything_else() {
    let api = Api::start().await;
    let mut viewer = TrunkServiceClient::new(api.channel(Role::Viewer));
    let create = v1::CreateTrunkRequest {
        trunk: Some(trunk("a", 9000)),
        ..Default::default()
    };
    assert_eq!(
        refusal(viewer.create_trunk(create).await),
        (Code::PermissionDenied, "ROLE_TOO_SMALL".into())
    );
    viewer.list_trunks(v1::ListTrunksRequest::default()).await.unwrap();
    let mut operator = SettingsServiceClient::new(api.channel(Role::Operator));
    let update = v1::UpdateSettingsRequest {
        settings: Some(v1::Settings::default()),
        ..Default::default()
    };
    assert_eq!(
        refusal(operator.update_settings(update).await).0,
        Code::PermissionDenied
    );
    let denied: Vec<_> = api
        .audit("")
        .await
        .into_iter()
        .filter(|entry| entry.result == "PERMISSION_DENIED")
        .collect();
    assert_eq!(denied.len(), 2);
}

#[tokio::test]
async fn a_request_without_a_caller_goes_nowhere() {
    let api = Api::start().await;
    let mut stranger = TrunkServiceClient::new(api.routes.clone());
    let status = stranger
        .list_trunks(v1::ListTrunksRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn settings_have_defaults_an_etag_and_bounds() {
    let api = Api::start().await;
    let get = async || {
        let request = v1::GetSettingsRequest {
            name: "settings".into(),
        };
        api.settings()
            .get_settings(request)
            .await
            .unwrap()
            .into_inner()
            .settings
            .unwrap()
    };
    let first = get().await;
    assert_eq!(first.pci_dss_enabled, Some(false));
    assert_eq!(first.call_retention.unwrap().seconds, 90 * 24 * 3600);
    let update = async |seconds, etag: &str| {
        let settings = v1::Settings {
            call_retention: Some(prost_types::Duration { seconds, nanos: 0 }),
            etag: etag.to_owned(),
            ..Default::default()
        };
        let update_mask = field_mask(&["call_retention"]);
        let request = v1::UpdateSettingsRequest {
            settings: Some(settings),
            update_mask,
            ..Default::default()
        };
        api.settings().update_settings(request).await
    };
    update(7200, &first.etag).await.unwrap();
    assert_eq!(refusal(update(7300, &first.etag).await).0, Code::Aborted);
    assert_eq!(violated(update(60, "").await), ["call_retention"]);
    assert_eq!(get().await.call_retention.unwrap().seconds, 7200);
}
