use std::sync::Arc;
use std::time::{Duration, SystemTime};

use trunkline_proto::{dataplane::v1 as dataplane, v1};

use super::*;
use crate::snapshot::{Body, Resource, Snapshot};
use crate::trunk::Trunk;

mod records;

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn minimal() -> v1::Trunk {
    v1::Trunk {
        name: "trunks/main".into(),
        display_name: "Main".into(),
        ..Default::default()
    }
}

/// Every setting away from its default, in canonical form.
fn rich() -> v1::Trunk {
    let property = |name: &str, value| v1::CustomProperty {
        name: name.into(),
        value: Some(value),
    };
    let until = Some(prost_types::Timestamp {
        seconds: 1_800_000_000,
        nanos: 5,
    });
    v1::Trunk {
        name: "trunks/rich".into(),
        display_name: "Räume 1".into(),
        r#type: v1::TrunkType::Sip.into(),
        state: v1::TrunkState::OutOfService.into(),
        protocol: v1::TransportProtocol::Tls.into(),
        listen_port: Some(15061),
        domains: vec!["example.com".into(), "2001:db8::1".into(), "192.0.2.1".into()],
        max_registration_rate: Some("3.5/2m".into()),
        acl: Some(v1::AccessControl {
            use_source_address: Some(false),
            allow: vec!["192.0.2.0/24".into(), "2001:db8::/32".into(), "198.51.100.7".into()],
            deny: vec!["192.0.2.9".into()],
            allow_all: Some(true),
        }),
        language: Some("de-CH".into()),
        max_calls: Some(100_000),
        max_call_rate: Some("2.5/1h".into()),
        max_dial_timeout: Some(prost_types::Duration {
            seconds: 30,
            nanos: 500_000_000,
        }),
        sip_dscp: Some(-1),
        retryable_reason_codes: Some("486, 500-503".into()),
        retryable_cause_codes: Some(String::new()),
        tcp_connect_timeout: seconds(60),
        tcp_idle_timeout: seconds(30),
        tls: Some(v1::TlsSettings {
            mutual_auth: Some(true),
            sips_uri: Some(true),
            version: v1::TlsVersion::TlsV12Or13.into(),
            ciphers: vec!["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".into()],
            sans: vec![
                "DNS:sip.example.com".into(),
                "IP:192.0.2.1".into(),
                "URI:sip:example.com".into(),
            ],
            trusted_ca_pem: CERTIFICATE.into(),
            certificate_pem: CERTIFICATE.into(),
            private_key_pem: KEY.into(),
        }),
        fent: Some(true),
        media_dscp: Some(0),
        media_method: v1::MediaMethod::Auto.into(),
        codecs: vec![v1::Codec::G722.into(), v1::Codec::G729.into(), v1::Codec::Pcma.into()],
        srtp_suites: (1..=8).collect(),
        srtp_mode: v1::SrtpMode::Optional.into(),
        disconnect_on_idle_rtp: Some(false),
        dtmf: Some(v1::DtmfSettings {
            payload: Some(96),
            method: v1::DtmfMethod::InBand.into(),
        }),
        conversation_header: Some(true),
        inbound_digest: Some(v1::InboundDigest {
            enabled: Some(true),
            realm: "example.com".into(),
            methods: (1..=12).rev().collect(),
            allow_foreign_aor: Some(true),
        }),
        provision: Some(v1::ProvisionSettings {
            require_auth: Some(true),
            prefer_redirect: Some(true),
            require_https: Some(false),
            external_server: "https://[2001:db8::1]:8443/phones/".into(),
            http_port: Some(8088),
            https_port: Some(8089),
        }),
        diagnostics: Some(v1::DiagnosticsSettings {
            media_capture: Some(true),
            protocol_capture: Some(true),
            media_capture_until: until,
            protocol_capture_until: until,
        }),
        syslog: Some(v1::SyslogSettings {
            enabled: Some(true),
            port: Some(5514),
        }),
        custom_properties: vec![
            property(
                "rtp.idle_two_way",
                v1::custom_property::Value::NumberValue("250".into()),
            ),
            property("site.name", v1::custom_property::Value::TextValue("HQ".into())),
            property("site.open", v1::custom_property::Value::BoolValue(true)),
            property(
                "site.floors",
                v1::custom_property::Value::ListValue(v1::TextList {
                    values: vec!["1".into(), "a".into()],
                }),
            ),
        ],
        registrar: Some(v1::RegistrarSettings {
            min_expires: seconds(10),
            max_expires: seconds(86_400),
            max_bindings: Some(50),
        }),
        etag: "e1".into(),
        create_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        update_time: Some(prost_types::Timestamp { seconds: 2, nanos: 0 }),
        warnings: vec![],
        status: None,
    }
}

fn violations(raw: v1::Trunk) -> Vec<Violation> {
    trunk(raw, &Checks::default()).unwrap_err().0
}

fn fields(violations: &[Violation]) -> Vec<&str> {
    violations.iter().map(|violation| violation.field.as_str()).collect()
}

#[test]
fn unset_settings_take_the_documented_defaults() {
    let effective = effective_trunk(minimal()).unwrap();
    assert_eq!(effective.r#type(), v1::TrunkType::Sip);
    assert_eq!(effective.state(), v1::TrunkState::InService);
    assert_eq!(effective.protocol(), v1::TransportProtocol::Udp);
    assert_eq!(effective.listen_port, Some(8060));
    assert_eq!(effective.max_registration_rate.as_deref(), Some("600/1m"));
    assert_eq!(effective.max_call_rate.as_deref(), Some("40/5s"));
    assert_eq!(effective.language.as_deref(), Some("en-US"));
    assert_eq!(effective.max_calls, None);
    assert_eq!(
        (effective.max_dial_timeout, effective.tcp_connect_timeout),
        (seconds(120), seconds(2))
    );
    assert_eq!(effective.tcp_idle_timeout, seconds(86_400));
    assert_eq!((effective.sip_dscp, effective.media_dscp), (Some(24), Some(46)));
    assert_eq!(effective.retryable_reason_codes.as_deref(), Some("500-599"));
    assert!(
        effective
            .retryable_cause_codes
            .as_deref()
            .unwrap()
            .starts_with("1-5,25")
    );
    let tls = effective.tls.as_ref().unwrap();
    assert_eq!(
        (tls.version(), tls.mutual_auth, tls.ciphers.len()),
        (v1::TlsVersion::TlsV12, Some(false), 6)
    );
    assert_eq!(effective.media_method(), v1::MediaMethod::Normal);
    assert_eq!(
        effective.codecs().collect::<Vec<_>>(),
        [v1::Codec::Opus, v1::Codec::Pcmu, v1::Codec::Pcma]
    );
    assert_eq!(
        effective.srtp_suites().collect::<Vec<_>>(),
        [v1::SrtpSuite::AesCm128HmacSha180]
    );
    assert_eq!(effective.srtp_mode(), v1::SrtpMode::Auto);
    assert_eq!(effective.disconnect_on_idle_rtp, Some(true));
    assert_eq!(effective.dtmf.unwrap().payload, Some(101));
    assert_eq!(
        (effective.fent, effective.conversation_header),
        (Some(false), Some(false))
    );
    let digest = effective.inbound_digest.as_ref().unwrap();
    assert_eq!(
        digest.methods().collect::<Vec<_>>(),
        [v1::SipMethod::Register, v1::SipMethod::Invite]
    );
    assert_eq!(effective.acl.as_ref().unwrap().use_source_address, Some(true));
    assert_eq!(
        (
            effective.syslog.unwrap().port,
            effective.provision.as_ref().unwrap().require_https
        ),
        (Some(514), Some(true))
    );
    assert_eq!(effective.registrar.unwrap().max_bindings, Some(5));
    let reasons: Vec<_> = effective
        .warnings
        .iter()
        .map(|warning| warning.reason.as_str())
        .collect();
    assert_eq!(reasons, ["EMPTY_ALLOW_LIST"]);

    let tls = effective_trunk(v1::Trunk {
        protocol: v1::TransportProtocol::Tls.into(),
        ..minimal()
    })
    .unwrap();
    assert_eq!(tls.listen_port, Some(8061));
}

#[test]
fn effective_values_stay_what_they_are() {
    let effective = effective_trunk(minimal()).unwrap();
    assert_eq!(effective_trunk(effective.clone()).unwrap(), effective);
    let effective = effective_trunk(rich()).unwrap();
    assert_eq!(
        v1::Trunk {
            warnings: vec![],
            ..effective.clone()
        },
        rich()
    );
    assert_eq!(effective_trunk(effective.clone()).unwrap(), effective);
    assert_eq!(
        v1::Trunk::from(&Trunk::try_from(minimal()).unwrap()),
        v1::Trunk {
            etag: String::new(),
            ..effective_trunk(minimal()).unwrap()
        }
    );
}

#[test]
fn input_is_made_canonical() {
    let raw = v1::Trunk {
        display_name: "  Main ".into(),
        domains: vec!["EXAMPLE.com.".into()],
        language: Some("DE-ch".into()),
        acl: Some(v1::AccessControl {
            allow: vec!["192.0.2.1/32".into()],
            ..Default::default()
        }),
        tls: Some(v1::TlsSettings {
            ciphers: vec!["ecdhe-rsa-aes256-gcm-sha384".into()],
            sans: vec!["dns:A.example".into()],
            ..Default::default()
        }),
        ..minimal()
    };
    let effective = effective_trunk(raw).unwrap();
    let tls = effective.tls.unwrap();
    assert_eq!(
        (effective.display_name.as_str(), effective.domains[0].as_str()),
        ("Main", "example.com")
    );
    assert_eq!(
        (effective.language.as_deref(), effective.acl.unwrap().allow[0].as_str()),
        (Some("de-CH"), "192.0.2.1")
    );
    assert_eq!(
        (tls.ciphers[0].as_str(), tls.sans[0].as_str()),
        ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "DNS:a.example")
    );
}

#[test]
fn everything_wrong_is_named_at_once() {
    let raw = v1::Trunk {
        name: "trunks/Main".into(),
        display_name: " \t ".into(),
        listen_port: Some(70_000),
        max_call_rate: Some("fast".into()),
        acl: Some(v1::AccessControl {
            allow: vec!["192.0.2.1".into(), "nonsense".into()],
            ..Default::default()
        }),
        codecs: vec![v1::Codec::Pcmu.into(), 99, v1::Codec::Pcmu.into()],
        tls: Some(v1::TlsSettings {
            version: v1::TlsVersion::TlsV1.into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let found = violations(raw);
    let expected = [
        "name",
        "display_name",
        "listen_port",
        "acl.allow[1]",
        "max_call_rate",
        "tls.version",
        "codecs[1]",
        "codecs[1]",
    ];
    assert_eq!(fields(&found), expected);
    let insecure = found.iter().find(|violation| violation.field == "tls.version").unwrap();
    assert_eq!(
        (insecure.kind, insecure.reason),
        (ViolationKind::FailedPrecondition, reason::INSECURE_TLS_VERSION)
    );
    assert!(insecure.description.contains("RFC 8996"));
}

/// One wrong field in a trunk that is fine otherwise.
#[test]
fn each_bad_value_is_named_by_its_field() {
    type Change = fn(&mut v1::Trunk);
    let cases: &[(&str, Change)] = &[
        ("display_name", |t| t.display_name = "x".repeat(129)),
        ("display_name", |t| t.display_name = "a\u{7}b".into()),
        ("type", |t| t.r#type = 2),
        ("state", |t| t.state = 3),
        ("protocol", |t| t.protocol = 4),
        ("listen_port", |t| t.listen_port = Some(0)),
        ("domains[0]", |t| t.domains = vec!["a b".into()]),
        ("domains[1]", |t| {
            t.domains = vec!["a.example".into(), "A.example".into()]
        }),
        ("domains", |t| {
            t.domains = (0..101).map(|n| format!("d{n}.example")).collect()
        }),
        ("max_registration_rate", |t| {
            t.max_registration_rate = Some(String::new())
        }),
        ("language", |t| t.language = Some("english!".into())),
        ("max_calls", |t| t.max_calls = Some(0)),
        ("max_calls", |t| t.max_calls = Some(100_001)),
        ("max_dial_timeout", |t| t.max_dial_timeout = seconds(0)),
        ("max_dial_timeout", |t| t.max_dial_timeout = seconds(3601)),
        ("max_dial_timeout", |t| t.max_dial_timeout = seconds(-1)),
        ("sip_dscp", |t| t.sip_dscp = Some(64)),
        ("media_dscp", |t| t.media_dscp = Some(-2)),
        ("retryable_reason_codes", |t| {
            t.retryable_reason_codes = Some("700".into())
        }),
        ("retryable_cause_codes", |t| t.retryable_cause_codes = Some("1-".into())),
        ("tcp_connect_timeout", |t| t.tcp_connect_timeout = seconds(61)),
        ("tcp_idle_timeout", |t| t.tcp_idle_timeout = seconds(29)),
        ("tls.ciphers[0]", |t| {
            t.tls.get_or_insert_default().ciphers = vec!["RC4-MD5".into()]
        }),
        ("tls.ciphers[1]", |t| {
            t.tls.get_or_insert_default().ciphers = vec![
                "ECDHE-RSA-AES256-GCM-SHA384".into(),
                "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384".into(),
            ];
        }),
        ("tls.sans[0]", |t| {
            t.tls.get_or_insert_default().sans = vec!["DNS:*.example".into()]
        }),
        ("tls.version", |t| t.tls.get_or_insert_default().version = 99),
        ("tls.trusted_ca_pem", |t| {
            t.tls.get_or_insert_default().trusted_ca_pem = "hello".into()
        }),
        ("tls.trusted_ca_pem", |t| {
            t.tls.get_or_insert_default().trusted_ca_pem = CERTIFICATE.repeat(2000)
        }),
        ("tls.certificate_pem", |t| {
            t.tls.get_or_insert_default().certificate_pem = KEY.into()
        }),
        ("tls.private_key_pem", |t| {
            t.tls.get_or_insert_default().private_key_pem = KEY.into()
        }),
        ("media_method", |t| t.media_method = 4),
        ("codecs[0]", |t| t.codecs = vec![0]),
        ("srtp_suites[1]", |t| t.srtp_suites = vec![1, 1]),
        ("srtp_suites[0]", |t| t.srtp_suites = vec![9]),
        ("srtp_mode", |t| t.srtp_mode = 5),
        ("dtmf.payload", |t| t.dtmf.get_or_insert_default().payload = Some(95)),
        ("dtmf.method", |t| t.dtmf.get_or_insert_default().method = 4),
        ("inbound_digest.realm", |t| {
            t.inbound_digest.get_or_insert_default().enabled = Some(true)
        }),
        ("inbound_digest.realm", |t| {
            t.inbound_digest.get_or_insert_default().realm = "a\"b".into()
        }),
        ("inbound_digest.realm", |t| {
            t.inbound_digest.get_or_insert_default().realm = "a".repeat(254)
        }),
        ("inbound_digest.methods[0]", |t| {
            t.inbound_digest.get_or_insert_default().methods = vec![13]
        }),
        ("provision.external_server", |t| {
            t.provision.get_or_insert_default().external_server = "/phones".into()
        }),
        ("provision.external_server", |t| {
            t.provision.get_or_insert_default().external_server = "ftp://a.example/".into()
        }),
        ("provision.external_server", |t| {
            t.provision.get_or_insert_default().external_server = "http://u@a.example/".into()
        }),
        ("provision.external_server", |t| {
            t.provision.get_or_insert_default().external_server = "http://a.example/#x".into()
        }),
        ("provision.external_server", |t| {
            t.provision.get_or_insert_default().external_server = "http://a.example:0/".into()
        }),
        ("provision.http_port", |t| {
            t.provision.get_or_insert_default().http_port = Some(65_536)
        }),
        ("provision.https_port", |t| {
            let provision = t.provision.get_or_insert_default();
            (provision.http_port, provision.https_port) = (Some(8088), Some(8088));
        }),
        ("diagnostics.media_capture_until", |t| {
            t.diagnostics.get_or_insert_default().media_capture = Some(true)
        }),
        ("diagnostics.protocol_capture_until", |t| {
            t.diagnostics.get_or_insert_default().protocol_capture = Some(true)
        }),
        ("diagnostics.media_capture_until", |t| {
            let time = prost_types::Timestamp {
                seconds: i64::MAX,
                nanos: 0,
            };
            t.diagnostics.get_or_insert_default().media_capture_until = Some(time);
        }),
        ("syslog.port", |t| t.syslog.get_or_insert_default().port = Some(0)),
        ("syslog.port", |t| {
            *t.syslog.get_or_insert_default() = v1::SyslogSettings {
                enabled: Some(true),
                port: Some(8060),
            };
        }),
        ("registrar.min_expires", |t| {
            t.registrar.get_or_insert_default().min_expires = seconds(9)
        }),
        ("registrar.min_expires", |t| {
            *t.registrar.get_or_insert_default() = v1::RegistrarSettings {
                min_expires: seconds(600),
                max_expires: seconds(300),
                max_bindings: None,
            };
        }),
        ("registrar.max_bindings", |t| {
            t.registrar.get_or_insert_default().max_bindings = Some(51)
        }),
        ("custom_properties[0].name", |t| property(t, "1x", Some(text("v")))),
        ("custom_properties[0].name", |t| {
            property(t, "max_calls", Some(text("v")))
        }),
        ("custom_properties[0].name", |t| {
            property(t, "acl.allow", Some(text("v")))
        }),
        ("custom_properties[0].name", |t| {
            property(t, "retry.match", Some(text("v")))
        }),
        ("custom_properties[0].value", |t| property(t, "x", None)),
        ("custom_properties[0].number_value", |t| {
            property(t, "x", Some(v1::custom_property::Value::NumberValue("1e3".into())));
        }),
        ("custom_properties[1].name", |t| {
            property(t, "x", Some(text("v")));
            property(t, "x", Some(text("w")));
        }),
    ];
    for (field, change) in cases {
        let mut raw = minimal();
        change(&mut raw);
        assert_eq!(fields(&violations(raw)), [*field]);
    }
}

fn text(value: &str) -> v1::custom_property::Value {
    v1::custom_property::Value::TextValue(value.into())
}

fn property(trunk: &mut v1::Trunk, name: &str, value: Option<v1::custom_property::Value>) {
    trunk.custom_properties.push(v1::CustomProperty {
        name: name.into(),
        value,
    });
}

#[test]
fn old_versions_are_refused_by_policy() {
    for (version, rfc) in [
        (v1::TlsVersion::SslV3, "RFC 7568"),
        (v1::TlsVersion::TlsV1, "RFC 8996"),
        (v1::TlsVersion::TlsV11, "RFC 8996"),
    ] {
        let tls = Some(v1::TlsSettings {
            version: version.into(),
            ..Default::default()
        });
        let found = violations(v1::Trunk { tls, ..minimal() });
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].kind, found[0].reason),
            (ViolationKind::FailedPrecondition, "INSECURE_TLS_VERSION")
        );
        assert!(found[0].description.contains(rfc));
    }
}

#[test]
fn mutual_authentication_needs_an_authority() {
    let raw = |ca: &str| v1::Trunk {
        tls: Some(v1::TlsSettings {
            mutual_auth: Some(true),
            trusted_ca_pem: ca.into(),
            ..Default::default()
        }),
        ..minimal()
    };
    let alone = Checks {
        managed_ca: false,
        ..Checks::default()
    };
    let found = trunk(raw(""), &alone).unwrap_err().0;
    assert_eq!(
        (found[0].kind, found[0].reason),
        (ViolationKind::FailedPrecondition, "NO_TRUST_ANCHOR")
    );
    assert!(trunk(raw(CERTIFICATE), &alone).is_ok());
    assert!(trunk(raw(""), &Checks::default()).is_ok());
}

#[test]
fn captures_are_checked_against_clock_and_policy() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let checks = |pci_dss_enabled| Checks {
        now: Some(now),
        pci_dss_enabled,
        managed_ca: true,
    };
    let raw = |ahead: i64| v1::Trunk {
        diagnostics: Some(v1::DiagnosticsSettings {
            media_capture: Some(true),
            media_capture_until: Some(prost_types::Timestamp {
                seconds: 1_000_000 + ahead,
                nanos: 0,
            }),
            ..Default::default()
        }),
        ..minimal()
    };
    assert!(trunk(raw(1), &checks(false)).is_ok() && trunk(raw(7 * 86_400), &checks(false)).is_ok());
    for ahead in [-1, 0, 7 * 86_400 + 1] {
        assert_eq!(
            fields(&trunk(raw(ahead), &checks(false)).unwrap_err().0),
            ["diagnostics.media_capture_until"]
        );
    }
    assert!(
        trunk(raw(-1), &Checks::default()).is_ok(),
        "what was accepted may run out"
    );
    let refused = trunk(raw(1), &checks(true)).unwrap_err().0;
    assert_eq!(
        (refused[0].field.as_str(), refused[0].reason),
        ("diagnostics.media_capture", "PCI_DSS_ENABLED")
    );
}

#[test]
fn a_certificate_is_written_with_its_key() {
    let raw = |private_key_pem: &str| v1::Trunk {
        tls: Some(v1::TlsSettings {
            certificate_pem: CERTIFICATE.into(),
            private_key_pem: private_key_pem.into(),
            ..Default::default()
        }),
        ..minimal()
    };
    assert_eq!(
        fields(&effective_trunk(raw("")).unwrap_err().0),
        ["tls.private_key_pem"]
    );
    assert_eq!(effective_trunk(raw(KEY)).unwrap().tls.unwrap().private_key_pem, KEY);
    assert!(Trunk::try_from(raw("")).is_ok(), "workers get the key apart");
}

#[test]
fn warnings_tell_what_deserves_a_second_look() {
    let mut trunk = Trunk::try_from(minimal()).unwrap();
    let reasons =
        |trunk: &Trunk| -> Vec<String> { warnings(trunk).into_iter().map(|warning| warning.reason).collect() };
    trunk.acl = crate::acl::AccessList::new(false, true, vec![], vec![]);
    trunk.language = "sv".parse().unwrap();
    trunk.tls.sips_uri = true;
    trunk.tls.mutual_auth = true;
    trunk.tls.version = crate::tls::TlsVersion::SslV23;
    trunk.srtp_mode = crate::srtp::SrtpMode::Required;
    trunk.dtmf.method = crate::dtmf::DtmfMethod::InBand;
    trunk.diagnostics.media_capture = true;
    assert_eq!(
        reasons(&trunk),
        [
            "SECURITY_RISK_ALLOW_ALL",
            "FORGEABLE_VIA",
            "UNLISTED_LANGUAGE",
            "SIPS_WITHOUT_TLS",
            "MUTUAL_AUTH_WITHOUT_TLS",
            "SSL_V23_NEGOTIATES",
            "SRTP_KEYS_IN_CLEAR",
            "IN_BAND_DTMF_UNRELIABLE",
            "NO_AUTHENTICATION",
            "CAPTURE_RECORDS_CONTENT",
        ]
    );
    let mut quiet = Trunk::try_from(minimal()).unwrap();
    quiet.acl = crate::acl::AccessList::new(
        true,
        false,
        vec![crate::acl::Entry::parse("10.0.0.0/8").unwrap()],
        vec![],
    );
    assert_eq!(warnings(&quiet), []);
    quiet.transport = crate::trunk::Transport::Tls;
    quiet.srtp_mode = crate::srtp::SrtpMode::Off;
    assert_eq!(reasons(&quiet), ["TLS_WITHOUT_SRTP"]);
}
