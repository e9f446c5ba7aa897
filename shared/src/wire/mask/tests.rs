use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};
use trunkline_proto::FILE_DESCRIPTOR_SET;

use super::*;

fn mask(paths: &[&str]) -> FieldMask {
    FieldMask {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    }
}

fn trunk() -> v1::Trunk {
    v1::Trunk {
        name: "trunks/a".into(),
        display_name: "A".into(),
        listen_port: Some(8060),
        acl: Some(v1::AccessControl {
            allow: vec!["192.0.2.1".into()],
            deny: vec!["192.0.2.2".into()],
            allow_all: Some(true),
            use_source_address: None,
        }),
        tls: Some(v1::TlsSettings {
            certificate_pem: "cert".into(),
            private_key_pem: "key".into(),
            ..Default::default()
        }),
        etag: "e1".into(),
        ..Default::default()
    }
}

#[test]
fn without_a_mask_the_fields_that_are_set_change() {
    let patch = v1::Trunk {
        name: "trunks/b".into(),
        fent: Some(true),
        acl: Some(v1::AccessControl {
            deny: vec!["10.0.0.0/8".into()],
            ..Default::default()
        }),
        etag: "e2".into(),
        ..Default::default()
    };
    let mut expected = trunk();
    expected.fent = Some(true);
    expected.acl.as_mut().unwrap().deny = vec!["10.0.0.0/8".into()];
    assert_eq!(apply_mask_trunk(&trunk(), patch.clone(), None).unwrap(), expected);
    assert_eq!(apply_mask_trunk(&trunk(), patch, Some(&mask(&[]))).unwrap(), expected);
}

#[test]
fn a_path_changes_its_field_alone() {
    let patch = v1::Trunk {
        display_name: "B".into(),
        fent: Some(true),
        acl: Some(v1::AccessControl {
            allow: vec!["10.0.0.1".into()],
            allow_all: Some(false),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut expected = trunk();
    expected.fent = Some(true);
    expected.acl.as_mut().unwrap().allow = vec!["10.0.0.1".into()];
    assert_eq!(
        apply_mask_trunk(&trunk(), patch, Some(&mask(&["acl.allow", "fent"]))).unwrap(),
        expected
    );
}

#[test]
fn a_named_field_that_is_not_set_is_cleared() {
    let patched = apply_mask_trunk(
        &trunk(),
        v1::Trunk::default(),
        Some(&mask(&["listen_port", "acl.deny", "dtmf.method"])),
    );
    let patched = patched.unwrap();
    assert_eq!((patched.listen_port, patched.acl.unwrap().deny), (None, vec![]));
    assert_eq!(patched.dtmf, Some(v1::DtmfSettings::default()));
}

#[test]
fn a_message_is_replaced_whole() {
    let patch = v1::Trunk {
        acl: Some(v1::AccessControl {
            allow: vec!["10.0.0.1".into()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let patched = apply_mask_trunk(&trunk(), patch.clone(), Some(&mask(&["acl"]))).unwrap();
    assert_eq!(patched.acl, patch.acl);
    assert_eq!(patched.display_name, "A");
}

#[test]
fn a_star_replaces_everything_but_what_is_the_servers_and_secrets() {
    let patch = v1::Trunk {
        display_name: "B".into(),
        tls: Some(v1::TlsSettings {
            certificate_pem: "other".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let patched = apply_mask_trunk(&trunk(), patch, Some(&mask(&["*"]))).unwrap();
    let kept = v1::TlsSettings {
        certificate_pem: "other".into(),
        private_key_pem: "key".into(),
        ..Default::default()
    };
    let expected = v1::Trunk {
        name: "trunks/a".into(),
        display_name: "B".into(),
        acl: Some(v1::AccessControl::default()),
        tls: Some(kept),
        etag: "e1".into(),
        ..Default::default()
    };
    assert_eq!(patched, expected);
}

#[test]
fn a_secret_goes_only_when_it_is_named() {
    let line = v1::Line {
        host: "h".into(),
        auth_password: "p".into(),
        has_password: true,
        ..Default::default()
    };
    let star = apply_mask_line(&line, v1::Line::default(), Some(&mask(&["*"]))).unwrap();
    assert_eq!(
        (star.auth_password.as_str(), star.has_password, star.host.as_str()),
        ("p", true, "")
    );
    let named = apply_mask_line(&line, v1::Line::default(), Some(&mask(&["auth_password"]))).unwrap();
    assert_eq!(
        (named.auth_password.as_str(), named.has_password, named.host.as_str()),
        ("", false, "h")
    );

    // A stored message does not carry the password, only that there is one.
    let stored = v1::DigestCredential {
        username: "u".into(),
        has_password: true,
        ..Default::default()
    };
    let renamed = v1::DigestCredential {
        username: "v".into(),
        ..Default::default()
    };
    assert!(
        apply_mask_credential(&stored, renamed.clone(), None)
            .unwrap()
            .has_password
    );
    let set = v1::DigestCredential {
        password: "new".into(),
        ..renamed
    };
    let set = apply_mask_credential(&v1::DigestCredential::default(), set, Some(&mask(&["password"]))).unwrap();
    assert_eq!(
        (set.username.as_str(), set.password.as_str(), set.has_password),
        ("", "new", true)
    );
}

#[test]
fn a_condition_of_a_route_is_changed_by_its_name() {
    let with = |user: Option<User>| v1::Route {
        r#match: Some(v1::RouteMatch {
            user,
            ..Default::default()
        }),
        ..Default::default()
    };
    let exact = Some(User::UserExact("1".into()));
    let prefix = Some(User::UserPrefix("0".into()));
    let user = |current, patch, path: &str| {
        apply_mask_route(&with(current), with(patch), Some(&mask(&[path])))
            .unwrap()
            .r#match
            .unwrap()
            .user
    };
    assert_eq!(user(exact.clone(), prefix.clone(), "match.user_prefix"), prefix);
    assert_eq!(user(exact.clone(), prefix.clone(), "match.user_exact"), None);
    assert_eq!(user(exact.clone(), prefix.clone(), "match.user_regex"), exact);
    assert_eq!(user(exact.clone(), None, "match"), None);
}

#[test]
fn every_unknown_path_is_named() {
    let wrong = [
        "acl.alow",
        "fent.x",
        "",
        "acl.",
        "max_dial_timeout.seconds",
        "ACL",
        "match",
    ];
    let violations = apply_mask_trunk(&trunk(), v1::Trunk::default(), Some(&mask(&wrong))).unwrap_err();
    assert_eq!(violations.0.len(), wrong.len());
    assert!(
        violations
            .0
            .iter()
            .zip(wrong)
            .all(|(violation, path)| violation.description.contains(&format!("`{path}`")))
    );
}

#[test]
fn naming_what_is_the_servers_changes_nothing() {
    let patch = v1::Trunk {
        etag: "x".into(),
        name: "trunks/z".into(),
        ..Default::default()
    };
    let patched = apply_mask_trunk(&trunk(), patch, Some(&mask(&["name", "etag", "create_time", "status"]))).unwrap();
    assert_eq!(patched, trunk());
}

/// Fields by message, from the contract itself.
fn contract() -> BTreeMap<String, Vec<(String, Option<String>)>> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let messages = set
        .file
        .into_iter()
        .filter(|file| file.package() == "trunkline.v1")
        .flat_map(|file| file.message_type);
    messages
        .map(|message| {
            let fields = message.field.iter().map(|field| {
                let single = field.label() != prost_types::field_descriptor_proto::Label::Repeated;
                let nested = (field.r#type() == Type::Message && single)
                    .then(|| field.type_name().strip_prefix(".trunkline.v1.").map(str::to_owned))
                    .flatten();
                (field.name().to_owned(), nested)
            });
            (message.name().to_owned(), fields.collect())
        })
        .collect()
}

fn expected_paths(contract: &BTreeMap<String, Vec<(String, Option<String>)>>, message: &str) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for (field, nested) in &contract[message] {
        paths.insert(field.clone());
        // The status is output-only as a whole.
        if let Some(nested) = nested.as_ref().filter(|nested| *nested != "TrunkStatus") {
            paths.extend(
                expected_paths(contract, nested)
                    .into_iter()
                    .map(|path| format!("{field}.{path}")),
            );
        }
    }
    paths
}

/// Paths of a message, each of which is also really taken.
fn taken_paths<M: Masked>() -> BTreeSet<String> {
    let paths: BTreeSet<String> = M::paths().into_iter().collect();
    assert!(paths.iter().all(|path| M::default().assign(path, &M::default())));
    paths
}

#[test]
fn every_field_of_the_contract_can_be_named() {
    let contract = contract();
    assert_eq!(taken_paths::<v1::Trunk>(), expected_paths(&contract, "Trunk"));
    assert_eq!(taken_paths::<v1::Line>(), expected_paths(&contract, "Line"));
    assert_eq!(taken_paths::<v1::Route>(), expected_paths(&contract, "Route"));
    assert_eq!(
        taken_paths::<v1::DigestCredential>(),
        expected_paths(&contract, "DigestCredential")
    );
    assert_eq!(taken_paths::<v1::Settings>(), expected_paths(&contract, "Settings"));
}
