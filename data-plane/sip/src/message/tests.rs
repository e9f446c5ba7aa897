use crate::header::{ContentType, HeaderError, HeaderName, RSeq, RetryAfter, SessionExpires, Warning};
use crate::parse::tests::{request, response};
use crate::status::StatusCode;

const INVITE: &str = "\
INVITE sip:bob:secret@example.com;lr SIP/2.0
v: SIP/2.0/UDP a;branch=z9hG4bK2 , SIP/2.0/UDP b;branch=z9hG4bK1
Via: SIP/2.0/UDP c
f: \"A, B\" <sip:alice@example.com>;tag=a
t: <sip:bob@example.com>;tag=b
i: c1
CSeq: 7 INVITE
Supported: 100rel, timer
k: replaces
Require: 100rel,, x y, path
Route: <sip:p1;lr>, <sip:p2;lr>
Route: <sip:p3>
m: *, <sip:alice@a>
Session-Expires: soon
c: application/sdp
X-Custom: 1
x-custom: 2
l: 4

v=0
";

#[test]
fn compact_forms_and_lists_over_several_lines_read_as_one_field() {
    let invite = request(INVITE);
    let branches: Vec<_> = invite
        .vias()
        .map(|via| via.unwrap().branch().map(str::to_owned))
        .collect();
    assert_eq!(branches, [Some("z9hG4bK2".into()), Some("z9hG4bK1".into()), None]);
    let supported: Vec<_> = invite.tokens(HeaderName::Supported).collect();
    assert_eq!(supported, ["100rel", "timer", "replaces"]);
    assert!(invite.has_token(HeaderName::Require, "PATH") && !invite.has_token(HeaderName::Require, "x"));
    let routes: Vec<_> = invite
        .addresses(HeaderName::Route)
        .map(|route| route.unwrap().uri().to_string())
        .collect();
    assert_eq!(routes, ["sip:p1;lr", "sip:p2;lr", "sip:p3"]);
    assert_eq!(invite.lines("X-CUSTOM").collect::<Vec<_>>(), [b"1", b"2"]);
    assert!(invite.contains(HeaderName::Contact) && invite.contacts().count() == 2);
    assert_eq!(invite.from().display_text().unwrap(), "A, B");
    assert_eq!(invite.to().tag(), Some("b"));
}

#[test]
fn typed_fields_are_absent_malformed_or_there() {
    let invite = request(INVITE);
    assert_eq!(invite.typed::<RSeq>(), Ok(None));
    let malformed = invite.typed::<SessionExpires>().unwrap_err();
    assert!(matches!(
        malformed,
        HeaderError::Malformed {
            name: HeaderName::SessionExpires,
            ..
        }
    ));
    assert_eq!(malformed.to_string(), "Session-Expires is malformed");
    assert!(
        invite
            .typed::<ContentType<'_>>()
            .unwrap()
            .unwrap()
            .is("application", "sdp")
    );
}

#[test]
fn the_first_q850_reason_of_a_response_gives_the_cause() {
    let busy = response(
        "SIP/2.0 486 Busy\nVia: SIP/2.0/UDP a\nFrom: <sip:a@b>;tag=1\nTo: <sip:b@c>;tag=2\nCall-ID: 1\nCSeq: 1 INVITE\n\
         Reason: SIP;cause=486, bad;;, Q.850;cause=17;text=\"busy, really\"\nReason: Q.850;cause=34\n\
         Retry-After: 5\nWarning: 399 a \"x, y\", 305 b \"z\"\n\n",
    );
    assert_eq!(
        (busy.status(), busy.reason_phrase()),
        (StatusCode::BUSY_HERE, &b"Busy"[..])
    );
    assert_eq!(busy.q850_cause(), Some(17));
    assert_eq!(busy.typed::<RetryAfter<'_>>().unwrap().unwrap().seconds, 5);
    let codes: Vec<_> = busy
        .typed_list::<Warning<'_>>()
        .map(|warning| warning.unwrap().code)
        .collect();
    assert_eq!(codes, [399, 305]);
}

#[test]
fn parts_share_the_buffer() {
    let invite = request(INVITE);
    let call_id = invite.share(invite.call_id().as_bytes());
    assert_eq!(call_id.as_ptr(), invite.call_id().as_ptr());
    assert_eq!(invite.body_bytes().as_ptr(), invite.body().as_ptr());
    assert_eq!(invite.clone().bytes().as_ptr(), invite.bytes().as_ptr());
}

#[test]
fn debug_shows_no_header_values_and_no_password() {
    let invite = request(INVITE);
    let shown = format!("{invite:?} {:?}", invite.iter().collect::<Vec<_>>());
    assert!(shown.contains("INVITE sip:bob:***@example.com;lr (c1)"), "{shown}");
    assert!(!shown.contains("secret") && !shown.contains("alice"), "{shown}");
}
