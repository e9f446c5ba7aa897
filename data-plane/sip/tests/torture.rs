//! RFC 4475: every message of §3.1 to §3.4, byte for byte, with what becomes of it here.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use bytes::{Bytes, BytesMut};
use trunkline_sip::edit::Edits;
use trunkline_sip::header::{AuthScheme, ContentType, Expires, HeaderName};
use trunkline_sip::message::{Message, Request, Response};
use trunkline_sip::parse::{DropReason, Framing, Limits, Parsed, parse, peek_call_id};
use trunkline_sip::status::StatusCode;
use trunkline_sip::uri::unescape;

#[derive(Debug, PartialEq)]
enum Outcome {
    /// A valid message, or one whose oddity is for a higher layer to find.
    Understood,
    Answered(u16, &'static str),
    Dropped(DropReason),
}

use Outcome::{Answered, Dropped, Understood};

macro_rules! messages {
    ($($section:literal $name:literal => $outcome:expr,)*) => {
        const MESSAGES: &[(&str, &str, &[u8], Outcome)] =
            &[$(($section, $name, include_bytes!(concat!("torture/", $name, ".dat")), $outcome)),*];
    };
}

messages! {
    "3.1.1.1" "wsinv" => Understood,
    "3.1.1.2" "intmeth" => Understood,
    "3.1.1.3" "esc01" => Understood,
    "3.1.1.4" "escnull" => Understood,
    "3.1.1.5" "esc02" => Understood,
    "3.1.1.6" "lwsdisp" => Understood,
    "3.1.1.7" "longreq" => Understood,
    "3.1.1.8" "dblreq" => Understood,
    "3.1.1.9" "semiuri" => Understood,
    "3.1.1.10" "transports" => Understood,
    "3.1.1.11" "mpart01" => Understood,
    "3.1.1.12" "unreason" => Understood,
    "3.1.1.13" "noreason" => Understood,
    "3.1.2.1" "badinv01" => Answered(400, "Malformed Via"),
    "3.1.2.2" "clerr" => Answered(400, "Body Shorter Than Content-Length"),
    "3.1.2.3" "ncl" => Answered(400, "Malformed Content-Length"),
    "3.1.2.4" "scalar02" => Answered(400, "Malformed CSeq"),
    "3.1.2.5" "scalarlg" => Dropped(DropReason::MalformedResponse),
    "3.1.2.6" "quotbal" => Answered(400, "Malformed To"),
    "3.1.2.7" "ltgtruri" => Answered(400, "Malformed Request-URI"),
    "3.1.2.8" "lwsruri" => Answered(400, "Malformed Request-Line"),
    "3.1.2.9" "lwsstart" => Answered(400, "Malformed Request-Line"),
    "3.1.2.10" "trws" => Answered(400, "Malformed Request-Line"),
    "3.1.2.11" "escruri" => Answered(400, "Malformed Request-URI"),
    "3.1.2.12" "baddate" => Understood,
    "3.1.2.13" "regbadct" => Understood,
    "3.1.2.14" "badaspec" => Answered(400, "Malformed To"),
    "3.1.2.15" "baddn" => Answered(400, "Malformed From"),
    "3.1.2.16" "badvers" => Answered(505, "Version Not Supported"),
    "3.1.2.17" "mismatch01" => Answered(400, "CSeq Method Differs From Request Method"),
    "3.1.2.18" "mismatch02" => Answered(400, "CSeq Method Differs From Request Method"),
    "3.1.2.19" "bigcode" => Dropped(DropReason::NotSip),
    "3.2.1" "badbranch" => Understood,
    "3.3.1" "insuf" => Answered(400, "Missing From"),
    "3.3.2" "unkscm" => Understood,
    "3.3.3" "novelsc" => Understood,
    "3.3.4" "unksm2" => Understood,
    "3.3.5" "bext01" => Understood,
    "3.3.6" "invut" => Understood,
    "3.3.7" "regaut01" => Understood,
    "3.3.8" "multi01" => Answered(400, "Several From"),
    "3.3.9" "mcl01" => Answered(400, "Several Content-Length"),
    "3.3.10" "bcast" => Understood,
    "3.3.11" "zeromf" => Understood,
    "3.3.12" "cparam01" => Understood,
    "3.3.13" "cparam02" => Understood,
    "3.3.14" "regescrt" => Understood,
    "3.3.15" "sdp01" => Understood,
    "3.4.1" "inv2543" => Understood,
}

fn bytes(name: &str) -> Bytes {
    let found = MESSAGES.iter().find(|row| row.1 == name).expect("name is in the table");
    Bytes::from_static(found.2)
}

fn parse_datagram(bytes: Bytes) -> Parsed {
    parse(bytes, Framing::Datagram, &Limits::default())
}

fn understood(name: &str) -> Message {
    match parse_datagram(bytes(name)) {
        Parsed::Understood(message) => message,
        other => panic!("{name}: {other:?}"),
    }
}

fn request(name: &str) -> Request {
    understood(name).request().unwrap().clone()
}

fn response(name: &str) -> Response {
    understood(name).response().unwrap().clone()
}

#[test]
fn every_message_has_its_outcome() {
    assert_eq!(MESSAGES.len(), 49);
    for (section, name, data, expected) in MESSAGES {
        let outcome = match parse_datagram(Bytes::from_static(data)) {
            Parsed::Understood(_) => Understood,
            Parsed::Answerable(bad) => Answered(bad.status().as_u16(), bad.reason()),
            Parsed::Drop(reason) => Dropped(reason),
        };
        assert_eq!(&outcome, expected, "§{section} {name}");
    }
}

#[test]
fn every_answer_is_itself_a_message_with_the_headers_of_the_request() {
    let source = "198.51.100.7:5099".parse().unwrap();
    for (_, name, data, expected) in MESSAGES {
        let Parsed::Answerable(bad) = parse_datagram(Bytes::from_static(data)) else {
            continue;
        };
        let Answered(status, _) = expected else {
            panic!("{name}")
        };
        let answer = bad.response("answer", source).unwrap();
        let text = String::from_utf8(answer.to_vec()).unwrap();
        assert!(text.starts_with(&format!("SIP/2.0 {status} ")), "{name}: {text}");
        assert!(text.contains("\r\nVia: SIP/"), "{name}: {text}");
        assert!(text.ends_with("Content-Length: 0\r\n\r\n"), "{name}: {text}");
        for line in text
            .split("\r\n")
            .filter(|line| line.starts_with("CSeq") || line.starts_with("Call-ID"))
        {
            let value = line.split_once(": ").unwrap().1;
            assert!(String::from_utf8_lossy(data).contains(value), "{name}: {line}");
        }
    }
}

#[test]
fn the_call_id_peeked_at_is_the_call_id_parsed() {
    for (_, name, data, _) in MESSAGES {
        if let Parsed::Understood(message) = parse_datagram(Bytes::from_static(data)) {
            assert_eq!(peek_call_id(data), Some(message.call_id().as_bytes()), "{name}");
        }
    }
}

#[test]
fn every_understood_message_passes_through_unchanged() {
    for (_, name, data, _) in MESSAGES {
        let Parsed::Understood(before) = parse_datagram(Bytes::from_static(data)) else {
            continue;
        };
        let mut out = BytesMut::new();
        Edits::new().write(&before, &mut out).unwrap();
        let Parsed::Understood(after) = parse_datagram(out.freeze()) else {
            panic!("{name} does not parse again")
        };
        let fields = |message: &Message| -> Vec<(String, Vec<u8>)> {
            let kept = message
                .iter()
                .filter(|field| field.name != HeaderName::ContentLength.into());
            kept.map(|field| (field.name.as_str().to_owned(), field.value.to_vec()))
                .collect()
        };
        assert_eq!(fields(&before), fields(&after), "{name}");
        assert_eq!(before.body(), after.body(), "{name}");
        assert_eq!(
            after.line(HeaderName::ContentLength),
            Some(before.body().len().to_string().as_bytes()),
            "{name}"
        );
    }
}

#[test]
fn wsinv_reads_through_white_space_everywhere() {
    let invite = request("wsinv");
    assert_eq!(invite.max_forwards(), Some(68));
    assert_eq!((invite.cseq_number(), invite.cseq_method().as_str()), (9, "INVITE"));
    assert_eq!(
        (invite.to_tag(), invite.from_tag()),
        (Some("1918181833n"), Some("98asjd8"))
    );
    assert_eq!(invite.from().display_text().unwrap(), "J Rosenberg \\\"");
    let branches: Vec<_> = invite
        .vias()
        .map(|via| via.unwrap().branch().unwrap().to_owned())
        .collect();
    assert_eq!(branches, ["390skdjuw", "z9hG4bK9ikj8", "z9hG4bK30239"]);
    assert_eq!(invite.line(HeaderName::Subject), Some(&b""[..]));
    assert_eq!(invite.line("unknownheaderwithunusualvalue"), Some(&b";;,,;;,;"[..]));
    let contact = *invite.contacts().next().unwrap().unwrap().address().unwrap();
    assert_eq!(contact.display_text().unwrap(), "Quoted string \"\"");
    assert_eq!(
        (contact.q(), contact.params().value("newparam")),
        (Some(330), Some("newvalue"))
    );
    assert!(
        invite
            .addresses(HeaderName::Route)
            .next()
            .unwrap()
            .unwrap()
            .uri()
            .sip()
            .unwrap()
            .is_loose_router()
    );
    assert_eq!(invite.body().len(), 150);
}

#[test]
fn intmeth_takes_every_character_where_it_is_allowed() {
    let message = request("intmeth");
    assert_eq!(message.method().as_str(), "!interesting-Method0123456789_*+`.%indeed'~");
    let uri = message.uri().sip().unwrap();
    assert_eq!(uri.user(), Some("1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"));
    assert_eq!(uri.password(), Some("&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"));
    assert!(!format!("{message:?}").contains("weird!*pas"));
    assert_eq!(message.to().display_text().unwrap(), "BEL:\u{7} NUL:\0 DEL:\u{7f}");
    assert_eq!(message.from_tag(), Some("_token~1'+`*%!-."));
    assert_eq!(message.line_text("extensionHeader-!.%*+_`'~"), Some("\u{feff}大停電"));
}

#[test]
fn escapes_are_kept_on_the_wire_and_resolve_to_what_the_rfc_says() {
    let invite = request("esc01");
    assert_eq!(&*unescape(invite.uri().user().unwrap()), b"sips:user@example.com");
    assert_eq!(&*unescape(invite.to().uri().user().unwrap()), b"user");
    assert_eq!(&*unescape(invite.from().uri().user().unwrap()), b"I have spaces");
    // "%6C%72" is not the lr parameter (§3.1.1.3): parameter names are tokens, not decoded.
    let contact = *invite.contacts().next().unwrap().unwrap().address().unwrap();
    assert_eq!(contact.uri().params().iter().count(), 2);
    let null = request("escnull");
    let users: Vec<_> = null
        .contacts()
        .map(|contact| unescape(contact.unwrap().address().unwrap().uri().user().unwrap()).into_owned())
        .collect();
    assert_eq!(users, [b"\0".to_vec(), b"\0\0".to_vec()]);
    let percent = request("esc02");
    assert_eq!(percent.method().as_str(), "RE%47IST%45R");
    assert_eq!((percent.contacts().count(), percent.contains("C%6Fntact")), (2, true));
    assert_eq!(percent.from().display_text().unwrap(), "%Z%45");
}

#[test]
fn other_valid_messages_hold_what_the_rfc_put_in() {
    assert_eq!(request("lwsdisp").from().display_text().unwrap(), "caller");
    let long = request("longreq");
    assert_eq!(long.vias().map(Result::unwrap).count(), 34);
    assert_eq!(long.branch(), None);
    // A datagram ends its message where Content-Length says (RFC 3261 §18.3): the second request is ignored.
    assert_eq!(request("dblreq").body(), b"");
    assert_eq!(request("semiuri").uri().user(), Some("user;par=u%40example.net"));
    let transports: Vec<_> = request("transports")
        .vias()
        .map(|via| via.unwrap().transport().as_str().to_owned())
        .collect();
    assert_eq!(transports, ["UDP", "SCTP", "TLS", "UNKNOWN", "TCP"]);
    let multipart = request("mpart01");
    assert_eq!(multipart.body().len(), 553);
    let boundary = multipart
        .typed::<ContentType<'_>>()
        .unwrap()
        .unwrap()
        .params
        .value("boundary")
        .map(str::to_owned);
    assert_eq!(boundary.as_deref(), Some("7a9cbec02ceef655"));
    assert!(multipart.top_via().has_rport());
    let reason = response("unreason");
    assert_eq!(
        std::str::from_utf8(reason.reason_phrase()).unwrap(),
        "= 2**3 * 5**2 но сто девяносто девять - простое"
    );
    let none = response("noreason");
    assert_eq!((none.status(), none.reason_phrase()), (StatusCode::TRYING, &b""[..]));
}

#[test]
fn what_higher_layers_must_refuse_is_visible_to_them() {
    assert!(
        request("regbadct").contacts().next().unwrap().is_err(),
        "400 by the registrar"
    );
    assert_eq!(
        request("badbranch").top_via().unique_branch(),
        None,
        "matched by RFC 2543 rules"
    );
    assert!(request("unkscm").uri().sip().is_none(), "416");
    assert_eq!(request("novelsc").uri().scheme(), "soap.beep", "416");
    let unknown = request("unksm2");
    assert_eq!(
        (unknown.to().uri().scheme(), unknown.from().uri().scheme()),
        ("isbn", "http")
    );
    let extension = request("bext01");
    assert!(
        extension.has_token(HeaderName::Require, "nothingsupportsthiseither"),
        "420"
    );
    assert_eq!(extension.tokens(HeaderName::ProxyRequire).count(), 2);
    assert!(
        request("invut")
            .typed::<ContentType<'_>>()
            .unwrap()
            .unwrap()
            .is("application", "unknownformat"),
        "415"
    );
    let authorization = request("regaut01");
    let auth = AuthScheme::parse(authorization.line(HeaderName::Authorization).unwrap()).unwrap();
    assert!(!auth.is_digest(), "401 with our challenge");
    let broadcast = response("bcast").vias().nth(1).unwrap().unwrap().host().ip();
    assert_eq!(broadcast, Some("255.255.255.255".parse().unwrap()), "not our response");
    assert_eq!(request("zeromf").max_forwards(), Some(0), "483");
    assert!(
        request("sdp01").line_text(HeaderName::Accept) == Some("text/nobodyKnowsThis"),
        "406"
    );
    let old = request("inv2543");
    assert_eq!((old.from_tag(), old.branch(), old.max_forwards()), (None, None, None));
}

#[test]
fn contact_parameters_belong_to_the_uri_only_inside_brackets() {
    let outside = request("cparam01");
    let contact = *outside.contacts().next().unwrap().unwrap().address().unwrap();
    assert!(contact.params().contains("unknownparam") && !contact.uri().params().contains("unknownparam"));
    let inside = request("cparam02");
    let contact = *inside.contacts().next().unwrap().unwrap().address().unwrap();
    assert!(!contact.params().contains("unknownparam") && contact.uri().params().contains("unknownparam"));
    let escaped = request("regescrt");
    let contact = *escaped.contacts().next().unwrap().unwrap().address().unwrap();
    assert_eq!(
        contact.uri().sip().unwrap().headers(),
        Some("Route=%3Csip:sip.example.com%3E")
    );
    // Seen in scalar02, which as a whole is refused: an Expires beyond 32 bits is malformed, not wrapped.
    assert_eq!(outside.typed::<Expires>(), Ok(None));
}
