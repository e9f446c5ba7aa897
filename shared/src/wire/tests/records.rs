//! Everything but trunks.

use super::*;
use crate::binding::AorBindings;
use crate::call::{
    Attempt, AttemptDecision, AttemptTarget, CallEnd, CallRecord, CallState, DecidedBy, EndReason, MediaLegRecord,
    MediaPath,
};
use crate::credential::tests::credential as domain_credential;
use crate::name::{ConversationId, RouteId, TrunkId, WorkerId};
use crate::reject::Reject;
use crate::settings::{NonceKey, WorkerSettings};
use crate::tls::TlsIdentity;

fn found<T: std::fmt::Debug>(result: Result<T, Violations>) -> Vec<String> {
    result
        .unwrap_err()
        .0
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

fn raw_line() -> v1::Line {
    v1::Line {
        name: "trunks/a/lines/l".into(),
        host: "SIP.example.com".into(),
        ..Default::default()
    }
}

#[test]
fn lines_take_defaults_and_keep_their_password() {
    let effective = effective_line(v1::Line {
        auth_username: "u".into(),
        auth_password: "secret".into(),
        etag: "e".into(),
        ..raw_line()
    })
    .unwrap();
    let expected = v1::Line {
        host: "sip.example.com".into(),
        enabled: Some(true),
        priority: Some(0),
        weight: Some(1),
        auth_username: "u".into(),
        auth_password: "secret".into(),
        has_password: true,
        etag: "e".into(),
        ..raw_line()
    };
    assert_eq!(effective, expected);
    assert_eq!(effective_line(effective.clone()).unwrap(), effective);
    assert!(line_to_wire(&line(effective).unwrap()).auth_password.is_empty());
}

#[test]
fn each_bad_value_of_a_line_is_named() {
    type Change = fn(&mut v1::Line);
    let cases: &[(&str, Change)] = &[
        ("name", |l| l.name = "trunks/a".into()),
        ("host", |l| l.host = "a:5060".into()),
        ("host", |l| l.host = String::new()),
        ("port", |l| l.port = Some(0)),
        ("protocol", |l| l.protocol = 9),
        ("priority", |l| l.priority = Some(65_536)),
        ("weight", |l| l.weight = Some(0)),
        ("auth_username", |l| l.auth_password = "p".into()),
        ("auth_username", |l| l.auth_username = "a\"".into()),
        ("registration_interval", |l| {
            l.registration_user = "u".into();
            l.registration_interval = seconds(59);
        }),
        ("registration_user", |l| l.registration_interval = seconds(60)),
        ("options_interval", |l| l.options_interval = seconds(4)),
    ];
    for (field, change) in cases {
        let mut raw = raw_line();
        change(&mut raw);
        assert_eq!(found(line(raw)), [*field]);
    }
    let off = line(v1::Line {
        registration_interval: seconds(0),
        options_interval: seconds(0),
        ..raw_line()
    })
    .unwrap();
    assert_eq!((off.registration_interval, off.options_interval), (None, None));
}

fn raw_route() -> v1::Route {
    let target = |target, strip, prefix: &str| v1::RouteTarget {
        strip,
        prefix: prefix.into(),
        target: Some(target),
    };
    v1::Route {
        name: "routes/r".into(),
        priority: Some(7),
        enabled: Some(false),
        r#match: Some(v1::RouteMatch {
            inbound_trunk: "trunks/a".into(),
            host: "example.com".into(),
            user: Some(v1::route_match::User::UserRegex(r"\+49\d+".into())),
        }),
        targets: vec![
            target(v1::route_target::Target::Phones("trunks/a".into()), 0, ""),
            target(v1::route_target::Target::Line("trunks/a/lines/l".into()), 3, "0"),
            target(v1::route_target::Target::Lines("trunks/b".into()), 64, ""),
        ],
        language: "fr-CA".into(),
        ..Default::default()
    }
}

#[test]
fn routes_are_read_and_written() {
    assert_eq!(effective_route(raw_route()).unwrap(), raw_route());
    let least = v1::Route {
        name: "routes/r".into(),
        targets: raw_route().targets,
        ..Default::default()
    };
    let effective = effective_route(least).unwrap();
    assert_eq!(
        (effective.priority, effective.enabled, effective.r#match),
        (Some(1000), Some(true), Some(v1::RouteMatch::default()))
    );
}

#[test]
fn everything_wrong_with_a_route_is_named() {
    let raw = v1::Route {
        name: "routes/R".into(),
        r#match: Some(v1::RouteMatch {
            inbound_trunk: "a".into(),
            host: "a b".into(),
            user: Some(v1::route_match::User::UserRegex("(".into())),
        }),
        targets: vec![
            v1::RouteTarget::default(),
            v1::RouteTarget {
                strip: 65,
                prefix: "1".repeat(65),
                target: Some(v1::route_target::Target::Line("trunks/a".into())),
            },
        ],
        language: "!".into(),
        ..Default::default()
    };
    let expected = [
        "name",
        "match.inbound_trunk",
        "match.host",
        "match.user_regex",
        "targets[0]",
        "targets[1].strip",
        "targets[1].prefix",
        "targets[1].line",
        "language",
    ];
    assert_eq!(found(route(raw)), expected);
    assert_eq!(
        found(route(v1::Route {
            targets: vec![],
            ..raw_route()
        })),
        ["targets"]
    );
    let many = vec![raw_route().targets[0].clone(); 33];
    assert_eq!(
        found(route(v1::Route {
            targets: many,
            ..raw_route()
        })),
        ["targets"]
    );
}

#[test]
fn digest_users_need_a_name_and_a_password() {
    let raw = v1::DigestCredential {
        name: "trunks/a/credentials/c".into(),
        username: "alice".into(),
        password: "p".into(),
        ..Default::default()
    };
    let effective = effective_credential(raw.clone()).unwrap();
    assert_eq!(
        effective,
        v1::DigestCredential {
            enabled: Some(true),
            has_password: true,
            ..raw.clone()
        }
    );
    assert_eq!(digest_user(raw.clone()).unwrap().aor_user(), "alice");
    for (username, password, has_password, field) in [
        ("", "p", false, "username"),
        ("a:b", "p", false, "username"),
        ("a\"b", "p", false, "username"),
        ("a", "", false, "password"),
        ("a", "p\u{1}", true, "password"),
    ] {
        let raw = v1::DigestCredential {
            username: username.into(),
            password: password.into(),
            has_password,
            ..raw.clone()
        };
        assert_eq!(found(digest_user(raw)), [field]);
    }
    let stored = v1::DigestCredential {
        password: String::new(),
        has_password: true,
        ..raw
    };
    assert!(digest_user(stored).is_ok());
}

#[test]
fn settings_are_bounded() {
    let effective = effective_settings(v1::Settings::default()).unwrap();
    assert_eq!(
        (effective.name.as_str(), effective.pci_dss_enabled),
        ("settings", Some(false))
    );
    assert_eq!(effective.call_retention, seconds(90 * 86_400));
    assert_eq!(effective_settings(effective.clone()).unwrap(), effective);
    let wrong = v1::Settings {
        name: "other".into(),
        call_retention: seconds(3599),
        ..Default::default()
    };
    assert_eq!(found(settings(wrong)), ["name", "call_retention"]);
}

#[test]
fn bindings_are_read_and_written() {
    let view = crate::binding::tests::view(17, &["sip:alice@192.0.2.1", "sip:alice@[2001:db8::1]"]);
    assert_eq!(
        AorBindings::try_from(dataplane::AorBindings::from(&view)).unwrap(),
        view
    );
    let now = view.bindings[0].update_time;
    let registration = registration(&view, now);
    assert_eq!(
        (registration.name.as_str(), registration.bindings.len()),
        ("trunks/t/registrations/alice", 2)
    );

    let mut raw = aor_bindings_to_wire(&view);
    raw.bindings[1] = v1::Binding {
        q_thousandths: 1001,
        protocol: 0,
        ..raw.bindings[1].clone()
    };
    raw.bindings[0].source_address = "192.0.2.1".into();
    raw.bindings[0].expire_time = None;
    assert_eq!(
        found(aor_bindings(raw)),
        [
            "bindings[0].expire_time",
            "bindings[0].source_address",
            "bindings[1].q_thousandths",
            "bindings[1].protocol"
        ]
    );
}

fn ended_call() -> CallRecord {
    let at = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + ms);
    let trunk = |id: &str| TrunkId::new(id).unwrap();
    CallRecord {
        id: ConversationId::from_random([3; 16]),
        state: CallState::Ended(CallEnd {
            time: at(9000),
            reason: EndReason::Rejected(Reject::MaxCalls),
            sip_status: 503,
            q850_cause: Some(34),
            decided_by: Some(DecidedBy {
                trunk: trunk("b"),
                setting: "max_calls".into(),
                value: "10".into(),
            }),
        }),
        worker: Some(WorkerId::new("w1").unwrap()),
        call_id: "c@host".into(),
        from_uri: "sip:a@example.com".into(),
        to_uri: "sip:b@example.com".into(),
        request_uri: "sip:b@192.0.2.1".into(),
        inbound_trunk: trunk("a"),
        outbound_trunk: Some(trunk("b")),
        route: Some(RouteId::new("r").unwrap()),
        language: Some("de-DE".parse().unwrap()),
        start_time: at(0),
        ring_time: Some(at(100)),
        answer_time: None,
        attempts: vec![
            Attempt {
                target: AttemptTarget::Line("trunks/b/lines/l".parse().unwrap()),
                destination: "192.0.2.9:5060".into(),
                start_time: at(10),
                sip_status: 503,
                q850_cause: Some(41),
                decision: Some(AttemptDecision::NextTarget),
            },
            Attempt {
                target: AttemptTarget::Phones(trunk("a")),
                destination: "sip:b@192.0.2.7".into(),
                start_time: at(20),
                sip_status: 0,
                q850_cause: None,
                decision: None,
            },
        ],
        media: vec![MediaLegRecord {
            caller: true,
            stream: 1,
            codec: "PCMU/8000".into(),
            srtp_suite: Some(crate::srtp::SrtpSuite::AesCm256HmacSha1_80),
            path: MediaPath::Recrypt,
            packets_received: 1,
            octets_received: 2,
            packets_lost: -3,
            jitter: Duration::from_micros(125),
            packets_sent: 4,
            octets_sent: 5,
            packets_rejected: 6,
            dscp_mismatches: 7,
            mos_hundredths: 441,
        }],
        authenticated_user: "alice".into(),
        source: "[2001:db8::1]:5060".parse().unwrap(),
    }
}

#[test]
fn calls_are_read_and_written() {
    let ended = ended_call();
    assert_eq!(CallRecord::try_from(v1::Call::from(&ended)).unwrap(), ended);
    for state in [CallState::Trying, CallState::Ringing, CallState::Answered] {
        let active = CallRecord { state, ..ended_call() };
        let raw = v1::Call::from(&active);
        assert_eq!((raw.end_time, &raw.end), (None, &None));
        assert_eq!(CallRecord::try_from(raw).unwrap(), active);
    }
}

/// What prost makes of a message, and what is written without one, after something that is there already.
fn assert_same(message: &impl prost::Message, encode: impl FnOnce(&mut Vec<u8>) -> usize, named: usize) {
    let mut written = vec![7];
    assert_eq!(encode(&mut written), named);
    assert_eq!(written[1..], message.encode_to_vec());
}

#[test]
fn a_call_is_written_as_its_message_is() {
    let named = 2 + "calls/".len() + 36;
    let mut calls = vec![ended_call()];
    for state in [CallState::Trying, CallState::Ringing, CallState::Answered] {
        calls.push(CallRecord { state, ..ended_call() });
    }
    calls.push(CallRecord {
        worker: None,
        outbound_trunk: None,
        route: None,
        language: None,
        attempts: Vec::new(),
        media: Vec::new(),
        start_time: SystemTime::UNIX_EPOCH - Duration::from_millis(1500),
        ring_time: Some(SystemTime::UNIX_EPOCH),
        from_uri: "".into(),
        ..ended_call()
    });
    // Lengths of one, two, three and four octets.
    for length in [0, 1, 100, 127, 128, 16_383, 16_384, 2_100_000] {
        let mut call = ended_call();
        call.attempts[0].destination = "x".repeat(length).into();
        call.media[0].packets_lost = -(length as i64);
        calls.push(call);
    }
    for call in &calls {
        assert_same(&v1::Call::from(call), |out| encode_call(call, out), named);
    }
}

#[test]
fn bindings_are_written_as_their_message_is() {
    for (contacts, change_time_ms) in [(&[][..], 0), (&["sip:a@192.0.2.1"], 1), (&["sip:a", "sip:b"], -1)] {
        let mut view = crate::binding::tests::view(change_time_ms, contacts);
        for length in [0, 1, 200, 20_000] {
            for binding in &mut view.bindings {
                binding.user_agent = "x".repeat(length).into();
                binding.path = vec!["".into(), "<sip:p;lr>".into()];
                binding.worker = None;
            }
            let message = dataplane::AorBindings::from(&view);
            let named = 2 + message.trunk.len() + 2 + message.user.len();
            assert_same(&message, |out| encode_aor_bindings(&view, out), named);
        }
    }
}

#[test]
fn everything_wrong_with_a_call_is_named() {
    let mut raw = v1::Call::from(&ended_call());
    raw.name = "calls/1".into();
    raw.end.as_mut().unwrap().reason = "tired".into();
    raw.attempts[1].decision = "shrug".into();
    raw.media[0].path = "magic".into();
    raw.start_time = None;
    assert_eq!(
        found(call(raw)),
        [
            "name",
            "end.reason",
            "start_time",
            "attempts[1].decision",
            "media[0].path"
        ]
    );
    let headless = v1::Call {
        end: None,
        ..v1::Call::from(&ended_call())
    };
    assert_eq!(found(call(headless)), ["end"]);
}

fn snapshot() -> Snapshot {
    let worker = WorkerId::new("w1").unwrap();
    let settings = WorkerSettings {
        nonce_keys: vec![NonceKey::new([9; 32])],
        pci_dss_enabled: true,
        drain: false,
    };
    let identity = TlsIdentity {
        trunk: TrunkId::new("rich").unwrap(),
        certificate_chain: vec![vec![1], vec![2]],
        private_key: zeroize::Zeroizing::new(vec![3]),
        trusted_ca: vec![vec![4]],
    };
    let mut line = line(v1::Line {
        name: "trunks/rich/lines/l".into(),
        auth_username: "u".into(),
        ..raw_line()
    })
    .unwrap();
    line.auth_password = crate::secret::Secret::new("p".into());
    line.has_password = true;
    let target = v1::RouteTarget {
        target: Some(v1::route_target::Target::Phones("trunks/rich".into())),
        ..Default::default()
    };
    let route = route(v1::Route {
        name: "routes/r".into(),
        targets: vec![target],
        ..Default::default()
    })
    .unwrap();
    let bodies = [
        Body::WorkerSettings(worker, Arc::new(settings)),
        Body::Trunk(Arc::new(Trunk::try_from(rich()).unwrap())),
        Body::TlsIdentity(Arc::new(identity)),
        Body::Credential(Arc::new(domain_credential(
            "trunks/rich/credentials/c",
            "alice",
            "example.com",
        ))),
        Body::Line(Arc::new(line)),
        Body::Route(Arc::new(route)),
    ];
    let resources = bodies.into_iter().enumerate().map(|(n, body)| Resource {
        version: n as i64 + 1,
        body,
    });
    let applied = Snapshot::default().apply(resources.collect(), &[], 6);
    assert_eq!(applied.rejections, []);
    applied.snapshot
}

#[test]
fn a_configuration_survives_being_written_down() {
    let before = snapshot();
    let applied = apply_push(&Snapshot::default(), push_of(&before));
    assert_eq!(
        applied.result,
        dataplane::PushResult {
            nonce: 0,
            revision: 6,
            rejections: vec![]
        }
    );
    assert_eq!(applied.snapshot.held(), before.held());
    assert_eq!(push_of(&applied.snapshot), push_of(&before));
    assert_eq!(before.held().len(), 6);
    for (key, _) in before.held() {
        assert_eq!(key_from_wire(&key_to_wire(&key)).unwrap(), key);
    }
}

#[test]
fn a_push_is_refused_resource_by_resource() {
    let good = push_of(&snapshot());
    let mut push = good.clone();
    push.nonce = 42;
    for resource in &mut push.upserts {
        match resource.body.as_mut().unwrap() {
            dataplane::resource::Body::Trunk(trunk) => trunk.listen_port = Some(0),
            dataplane::resource::Body::Credential(credential) => credential.ha1_md5 = "short".into(),
            dataplane::resource::Body::Route(_) => resource.body = None,
            _ => {}
        }
    }
    let mut mislabelled = good.upserts[1].clone();
    mislabelled.key = Some(dataplane::ResourceKey {
        r#type: 1,
        name: "trunks/other".into(),
    });
    push.upserts.push(mislabelled);
    push.upserts.push(dataplane::Resource {
        key: Some(dataplane::ResourceKey {
            r#type: 77,
            name: "x".into(),
        }),
        version: 9,
        body: None,
    });
    let applied = apply_push(&Snapshot::default(), push);
    let refused: Vec<_> = applied
        .result
        .rejections
        .iter()
        .map(|rejection| (rejection.key.as_ref().unwrap().name.as_str(), rejection.error.as_str()))
        .collect();
    assert_eq!(applied.result.nonce, 42);
    assert_eq!(
        refused,
        [
            ("trunks/rich", "listen_port: 0 is outside 1-65535"),
            (
                "trunks/rich/credentials/c",
                "ha1_md5: the MD5 hash is not lower-case hex of the right length"
            ),
            ("routes/r", "the body is missing"),
            ("trunks/other", "the key and the body do not belong together"),
            ("x", "resource type 77 is unknown"),
            ("trunks/rich", "trunk: there is no trunk `rich`"),
            ("trunks/rich/lines/l", "name: there is no trunk `rich`"),
        ]
    );
    assert_eq!(applied.snapshot.held().len(), 1, "the worker settings are in force");

    // The trunk comes right: what waited for it is in force without being sent again.
    let trunk = dataplane::ConfigurationPush {
        upserts: vec![good.upserts[1].clone()],
        ..Default::default()
    };
    let applied = apply_push(&applied.snapshot, trunk);
    assert_eq!(applied.result.rejections, []);
    assert_eq!((applied.recovered.len(), applied.snapshot.held().len()), (2, 4));
}

#[test]
fn worker_settings_and_identities_are_checked() {
    let raw = dataplane::WorkerSettings {
        nonce_keys: vec![vec![0; 32], vec![0; 31]],
        ..Default::default()
    };
    assert_eq!(found(worker_settings(raw)), ["nonce_keys[1]"]);
    assert_eq!(
        found(tls_identity(dataplane::TlsIdentity::default())),
        ["certificate_chain_der", "private_key_der", "trunk"]
    );
}
