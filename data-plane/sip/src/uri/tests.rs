use super::*;

fn uri(text: &str) -> Uri<'_> {
    Uri::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn all_parts_of_a_sip_uri_are_found() {
    let parsed = uri("sips:alice:secret@[2001:db8::9]:5061;transport=tls;lr?Subject=x&To=y")
        .sip()
        .unwrap();
    assert!(parsed.is_secure() && parsed.is_loose_router());
    assert_eq!((parsed.user(), parsed.password()), (Some("alice"), Some("secret")));
    assert_eq!(parsed.host().ip(), Some("2001:db8::9".parse().unwrap()));
    assert_eq!((parsed.port(), parsed.transport()), (Some(5061), Some("tls")));
    assert_eq!(parsed.headers(), Some("Subject=x&To=y"));
}

#[test]
fn semicolons_and_question_marks_in_the_user_part_belong_to_it() {
    let parsed = uri("sip:user;par=u%40example.net@example.com").sip().unwrap();
    assert_eq!(parsed.user(), Some("user;par=u%40example.net"));
    assert_eq!(parsed.host(), Host::Name("EXAMPLE.com"));
    assert_eq!(uri("sip:a?b@c").user(), Some("a?b"));
}

#[test]
fn malformed_uris_are_refused() {
    for bad in [
        "",
        "sip",
        "sip:",
        "sip:@host",
        "sip::pw@host",
        "sip:a@",
        "sip:a@b@c",
        "sip:a@b:0",
        "sip:a@b:65536",
        "sip:a@b:",
        "sip:a@b:x",
        "sip:a@[::1",
        "sip:a@[zz]",
        "sip:a@b;;lr",
        "sip:a@b;",
        "sip:a@b?",
        "sip:a%4@b",
        "sip:a%zz@b",
        "sip:a b@c",
        "<sip:a@b>",
        "sip:a@b\"",
        "1sip:a@b",
        ":x",
        "tel:",
        "tel:+",
        "tel:abz",
        "mailto:",
    ] {
        assert!(Uri::parse(bad.as_bytes()).is_err(), "{bad:?}");
    }
    assert!(Uri::parse(b"sip:\xff@host").is_err());
}

#[test]
fn a_password_is_on_the_wire_but_never_in_debug() {
    let text = "sip:alice:hunter2@example.com;lr";
    assert_eq!(uri(text).to_string(), text);
    let owned = UriBuf::parse(text).unwrap();
    for shown in [
        format!("{:?}", uri(text)),
        format!("{owned:?}"),
        format!("{:?}", uri(text).sip().unwrap()),
        uri(text).without_password().into_owned(),
    ] {
        assert_eq!(shown, "sip:alice:***@example.com;lr");
    }
}

#[test]
fn rfc_3261_19_1_4_equivalent_pairs() {
    for (a, b) in [
        (
            "sip:%61lice@atlanta.com;transport=TCP",
            "sip:alice@AtlanTa.CoM;Transport=tcp",
        ),
        ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
        ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;newparam=5"),
        (
            "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
            "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
        ),
        (
            "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
            "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
        ),
        ("tel:+1-201-555-0123", "tel:+12015550123"),
        ("urn:x:y", "URN:x:y"),
        ("sip:a@b;x=1;x=2", "sip:a@b;x=1;x=2"),
    ] {
        assert!(
            uri(a).is_equivalent(&uri(b)) && uri(b).is_equivalent(&uri(a)),
            "{a} {b}"
        );
    }
}

#[test]
fn rfc_3261_19_1_4_different_pairs() {
    for (a, b) in [
        (
            "SIP:ALICE@AtLanTa.CoM;Transport=udp",
            "sip:alice@AtLanTa.CoM;Transport=UDP",
        ),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
        ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
        ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
        ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
        (
            "sip:carol@chicago.com;security=on",
            "sip:carol@chicago.com;security=off",
        ),
        ("sip:a%40b@c", "sip:a%41b@c"),
        ("sip:a@b", "sips:a@b"),
        ("sip:b", "sip:a@b"),
        ("sip:a@b?x=1&x=1", "sip:a@b?x=1&x=2"),
        ("tel:+1201", "tel:1201"),
        ("tel:123;phone-context=a", "tel:123"),
    ] {
        assert!(
            !uri(a).is_equivalent(&uri(b)) && !uri(b).is_equivalent(&uri(a)),
            "{a} {b}"
        );
    }
}

#[test]
fn escapes_resolve_and_users_are_escaped() {
    assert_eq!(&*unescape("null-%00-%6eull%"), b"null-\0-null%");
    assert_eq!(escape_user("+49 30@x#1"), "+49%2030%40x%231");
    assert_eq!(escape_user("+4930"), "+4930");
    let written = format!("sip:{}@h", escape_user("a:b@c\u{e9}"));
    assert_eq!(&*unescape(uri(&written).user().unwrap()), "a:b@c\u{e9}".as_bytes());
}
