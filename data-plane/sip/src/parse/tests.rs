use super::*;
use crate::header::FieldName;

/// Turns a readable message with LF into wire form.
pub(crate) fn wire(text: &str) -> Bytes {
    Bytes::from(text.replace('\n', "\r\n"))
}

pub(crate) fn understood(text: &str) -> Message {
    match parse(wire(text), Framing::Datagram, &Limits::default()) {
        Parsed::Understood(message) => message,
        other => panic!("{other:?}\n{text}"),
    }
}

pub(crate) fn request(text: &str) -> Request {
    understood(text).request().expect("text is a request").clone()
}

pub(crate) fn response(text: &str) -> Response {
    understood(text).response().expect("text is a response").clone()
}

const OPTIONS: &str = "\
OPTIONS sip:bob@example.com SIP/2.0
Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1
Max-Forwards: 70
From: <sip:alice@example.com>;tag=a
To: <sip:bob@example.com>
Call-ID: c1
CSeq: 1 OPTIONS
Content-Length: 0

";

fn outcome(bytes: impl Into<Bytes>, framing: Framing, limits: &Limits) -> String {
    match parse(bytes.into(), framing, limits) {
        Parsed::Understood(_) => "understood".into(),
        Parsed::Answerable(bad) => format!("{} {}", bad.status(), bad.reason()),
        Parsed::Drop(reason) => reason.label().into(),
    }
}

fn datagram(bytes: impl Into<Bytes>) -> String {
    outcome(bytes, Framing::Datagram, &Limits::default())
}

fn edited(from: &str, to: &str) -> Bytes {
    assert!(OPTIONS.contains(from), "{from:?} is not in the message");
    wire(&OPTIONS.replacen(from, to, 1))
}

#[test]
fn a_plain_request_is_understood() {
    let request = request(OPTIONS);
    assert_eq!(
        (request.method(), request.uri_text()),
        (&Method::Options, "sip:bob@example.com")
    );
    assert_eq!(
        (request.call_id(), request.branch(), request.max_forwards()),
        ("c1", Some("z9hG4bK1"), Some(70))
    );
    assert_eq!((request.from_tag(), request.to_tag()), (Some("a"), None));
}

#[test]
fn each_fault_is_named_in_the_answer() {
    for (from, to, expected) in [
        ("Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\n", "", "no_via"),
        ("192.0.2.1;branch", "192.0.2.1 branch", "400 Malformed Via"),
        ("SIP/2.0/UDP", "SIP/2.0", "no_via"),
        ("From: <sip:alice@example.com>;tag=a\n", "", "400 Missing From"),
        ("To: <sip:bob@example.com>\n", "", "400 Missing To"),
        ("Call-ID: c1\n", "", "400 Missing Call-ID"),
        ("Call-ID: c1", "Call-ID: c 1", "400 Malformed Call-ID"),
        ("Call-ID: c1", "Call-ID:", "400 Malformed Call-ID"),
        ("Call-ID: c1", "Call-ID: c1\ni: c1", "400 Several Call-ID"),
        ("CSeq: 1 OPTIONS\n", "", "400 Missing CSeq"),
        (
            "CSeq: 1 OPTIONS",
            "CSeq: 1 INVITE",
            "400 CSeq Method Differs From Request Method",
        ),
        ("Max-Forwards: 70", "Max-Forwards: 256", "400 Malformed Max-Forwards"),
        ("Max-Forwards: 70\n", "", "understood"),
        (
            "Content-Length: 0",
            "Content-Length: 1",
            "400 Body Shorter Than Content-Length",
        ),
        (
            "Content-Length: 0",
            "Content-Length: 99999999999",
            "400 Malformed Content-Length",
        ),
        (
            "Content-Length: 0",
            "Content-Length: 0\nl: 0",
            "400 Several Content-Length",
        ),
        (
            "Content-Length: 0",
            "Content-Length 0",
            "400 Header Field Without Colon",
        ),
        ("Content-Length: 0", "Bad Name: 0", "400 Malformed Header Field Name"),
        ("Content-Length: 0", ": 0", "400 Malformed Header Field Name"),
        ("SIP/2.0\nVia", "SIP/2.1\nVia", "505 Version Not Supported"),
        ("SIP/2.0\nVia", "SIP/2\nVia", "400 Malformed Request-Line"),
        ("SIP/2.0\nVia", "HTTP/1.1\nVia", "not_sip"),
        ("OPTIONS sip:bob@example.com", "OPTIONS", "not_sip"),
        ("OPTIONS sip:bob@example.com", "OPTIONS ", "400 Malformed Request-Line"),
        (
            "OPTIONS sip:bob@example.com",
            "OPTIONS bob",
            "400 Malformed Request-URI",
        ),
        ("OPTIONS sip", "OPT{}ONS sip", "not_sip"),
        (
            "OPTIONS sip:bob@example.com",
            "ACK sip:bob@example.com",
            "malformed_ack",
        ),
        (
            "SIP/2.0\nVia",
            "SIP/2.0\n folded: x\nVia",
            "400 Malformed Header Field Name",
        ),
    ] {
        assert_eq!(datagram(edited(from, to)), expected, "{from:?} became {to:?}");
    }
}

#[test]
fn line_breaks_other_than_crlf_are_refused() {
    let text = wire(OPTIONS);
    let text = std::str::from_utf8(&text).unwrap();
    for (from, to, expected) in [
        ("Call-ID: c1\r\n", "Call-ID: c1\n", "400 Bare LF In Header Section"),
        (
            "Call-ID: c1",
            "Subject: a\rRoute: b\r\nCall-ID: c1",
            "400 Bare CR In Header Section",
        ),
        (
            "Call-ID: c1",
            "Subject: a\nRoute: b\r\nCall-ID: c1",
            "400 Bare LF In Header Section",
        ),
        (
            "Call-ID: c1",
            "Subject: a\0\r\nCall-ID: c1",
            "400 NUL In Header Section",
        ),
        ("Call-ID: c1", "Subject: \"\\\0\"\r\nCall-ID: c1", "understood"),
        ("SIP/2.0\r\n", "SIP/2.0\n", "400 Bare LF In Start Line"),
        ("Length: 0\r\n\r\n", "Length: 0\r\n\n", "400 Bare LF In Header Section"),
        ("Length: 0\r\n\r\n", "Length: 0\r\n", "400 Truncated Header Section"),
        ("Length: 0\r\n\r\n", "Length: 0", "400 Truncated Header Section"),
        ("bob@example.com SIP", "b\rob@example.com SIP", "not_sip"),
    ] {
        assert!(text.contains(from), "{from:?}");
        assert_eq!(datagram(text.replacen(from, to, 1)), expected, "{from:?} became {to:?}");
    }
}

#[test]
fn folds_are_part_of_the_value_and_an_empty_value_is_a_value() {
    let message = understood(&OPTIONS.replace("Call-ID: c1", "Subject:\nX-A:\n one\n\ttwo\nCall-ID:\n c1"));
    assert_eq!(message.line(HeaderName::Subject), Some(&b""[..]));
    assert_eq!(message.line("x-a"), Some(&b"one\r\n\ttwo"[..]));
    assert_eq!(message.call_id(), "c1");
    assert_eq!(peek_call_id(message.bytes()), Some(&b"c1"[..]));
    assert!(matches!(message.iter().nth(5).unwrap().name, FieldName::Text("X-A")));
}

#[test]
fn limits_are_enforced_and_answered() {
    let limits = Limits {
        message: 2_000,
        start_line: 60,
        headers: 10,
        header_line: 100,
        vias: 3,
    };
    let check = |from: &str, to: &str| outcome(edited(from, to), Framing::Datagram, &limits);
    assert_eq!(outcome(wire(OPTIONS), Framing::Datagram, &limits), "understood");
    assert_eq!(
        check("bob@example.com SIP", &format!("{}@x SIP", "b".repeat(60))),
        "414 Request-URI Too Long"
    );
    assert_eq!(
        check("Call-ID", &format!("{}Call-ID", "X: 1\n".repeat(4))),
        "400 Too Many Header Fields"
    );
    assert_eq!(
        check("Call-ID", &format!("X: {}\nCall-ID", "a".repeat(100))),
        "400 Header Field Too Long"
    );
    let via = "Via: SIP/2.0/UDP a, SIP/2.0/UDP b\nMax-Forwards";
    assert_eq!(check("Max-Forwards", via), "understood");
    assert_eq!(
        check("Max-Forwards", &via.replace("a,", "a, SIP/2.0/UDP c,")),
        "400 Too Many Via Values"
    );
    let body = format!("Content-Length: 3000\n\n{}", "x".repeat(3000));
    assert_eq!(check("Content-Length: 0\n\n", &body), "513 Message Too Large");
    assert_eq!(datagram(vec![b'a'; MAX_MESSAGE_SIZE + 1]), "too_large");
}

#[test]
fn the_largest_message_keeps_its_ranges() {
    let head = wire(&OPTIONS.replace("Content-Length: 0\n", ""));
    let mut bytes = head.to_vec();
    bytes.resize(MAX_MESSAGE_SIZE, b'x');
    let Parsed::Understood(message) = parse(bytes.into(), Framing::Datagram, &Limits::default()) else {
        panic!()
    };
    assert_eq!(message.body().len(), MAX_MESSAGE_SIZE - head.len());
    assert_eq!(message.body_bytes().len(), message.body().len());
}

#[test]
fn content_length_means_different_things_on_datagrams_and_streams() {
    let without = edited("Content-Length: 0\n\n", "\nbody");
    assert_eq!(
        understood(&OPTIONS.replace("Content-Length: 0\n\n", "\nbody")).body(),
        b"body"
    );
    assert_eq!(
        outcome(without, Framing::Stream, &Limits::default()),
        "400 Missing Content-Length"
    );
    let short = understood(&OPTIONS.replace("Content-Length: 0\n\n", "l: 2\n\nbody"));
    assert_eq!(short.body(), b"bo");
    let huge = edited("Content-Length: 0", "Content-Length: 70000");
    assert_eq!(
        outcome(huge, Framing::Stream, &Limits::default()),
        "513 Message Too Large"
    );
}

#[test]
fn malformed_responses_are_dropped() {
    let good = OPTIONS.replacen("OPTIONS sip:bob@example.com SIP/2.0", "SIP/2.0 200 OK", 1);
    assert_eq!(datagram(wire(&good)), "understood");
    for (from, to, expected) in [
        ("200 OK", "200", "understood"),
        ("SIP/2.0 200 OK", "sip/2.0 200 OK", "understood"),
        ("200 OK", "99 OK", "not_sip"),
        ("200 OK", "700 OK", "not_sip"),
        ("200 OK", "2000 OK", "not_sip"),
        ("200 OK", "20x OK", "not_sip"),
        ("SIP/2.0 200", "SIP/3.0 200", "not_sip"),
        ("CSeq: 1 OPTIONS", "CSeq: x", "malformed_response"),
        ("Content-Length: 0", "Content-Length: 5", "malformed_response"),
    ] {
        assert_eq!(
            datagram(wire(&good.replacen(from, to, 1))),
            expected,
            "{from:?} became {to:?}"
        );
    }
}

#[test]
fn leading_line_ends_are_skipped_and_keep_alives_told_apart() {
    assert_eq!(datagram([b"\r\n\r\n", &wire(OPTIONS)[..]].concat()), "understood");
    assert_eq!(peek_call_id(&[b"\r\n", &wire(OPTIONS)[..]].concat()), Some(&b"c1"[..]));
    for (bytes, expected) in [
        (&b"\r\n\r\n"[..], Some(KeepAlive::Ping)),
        (b"\r\n", Some(KeepAlive::Pong)),
        (b"\0\0\0\0", Some(KeepAlive::Padding)),
        (b"", Some(KeepAlive::Padding)),
        (b"\r\nx", None),
    ] {
        assert_eq!(keep_alive(bytes), expected, "{bytes:?}");
        assert_eq!(
            datagram(bytes.to_vec()) == "keep_alive",
            expected.is_some(),
            "{bytes:?}"
        );
    }
}

#[test]
fn peeking_stops_at_the_body_and_at_nonsense() {
    for bytes in [
        &b""[..],
        b"\r\n",
        b"x",
        b"x\r\n",
        b"x\r\nCall-ID:",
        b"x\r\n\r\nCall-ID: body\r\n",
        b"x\r\nCall-ID:\r\n\r\n",
    ] {
        assert_eq!(peek_call_id(bytes), None, "{bytes:?}");
    }
    assert_eq!(peek_call_id(b"x\r\nI  :  a@b \r\n"), Some(&b"a@b"[..]));
}
