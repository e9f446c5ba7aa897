use super::*;
use bytes::BytesMut;

use crate::header::{TypedHeader, Via};
use crate::message::Message;
use crate::parse::tests::{request, response, understood, wire};
use crate::parse::{Framing, Limits, Parsed, parse};

const INVITE: &str = "\
INVITE sip:bob@example.com SIP/2.0
Via: SIP/2.0/UDP proxy;branch=z9hG4bK2, SIP/2.0/UDP phone;branch=z9hG4bK1
Via: SIP/2.0/TCP other
Max-Forwards: 69
Record-Route: <sip:rr1;lr>
Record-Route: <sip:rr2;lr>
Route: <sip:next;lr>,
 <sip:last;lr>
From: <sip:alice@example.com>;tag=a
To: <sip:bob@example.com>
Call-ID: c1
CSeq: 7 INVITE
Timestamp: 54
Require: 100rel
Content-Length: 0

";

fn text(bytes: Result<Bytes, WriteError>) -> String {
    String::from_utf8(bytes.unwrap().to_vec())
        .unwrap()
        .replace("\r\n", "\n")
}

#[test]
fn a_response_copies_what_rfc_3261_8_2_6_2_says() {
    let invite = request(INVITE);
    let trying = ResponseBuilder::new(&invite, StatusCode::TRYING);
    assert_eq!(
        text(trying.build()),
        "SIP/2.0 100 Trying\n\
         Via: SIP/2.0/UDP proxy;branch=z9hG4bK2, SIP/2.0/UDP phone;branch=z9hG4bK1\n\
         Via: SIP/2.0/TCP other\n\
         From: <sip:alice@example.com>;tag=a\n\
         To: <sip:bob@example.com>\n\
         Call-ID: c1\n\
         CSeq: 7 INVITE\n\
         Timestamp: 54\n\
         Content-Length: 0\n\n"
    );
    let ok = ResponseBuilder::new(&invite, StatusCode::OK)
        .reason("Fine")
        .to_tag("b")
        .header(HeaderName::Contact, "<sip:bob@host>")
        .header_bytes("X-Latin", b"\xfc")
        .body("application/sdp", "v=0\r\n")
        .build()
        .unwrap();
    let Parsed::Understood(Message::Response(ok)) = parse(ok, Framing::Stream, &Limits::default()) else {
        panic!()
    };
    assert_eq!(
        (ok.reason_phrase(), ok.to_tag(), ok.body()),
        (&b"Fine"[..], Some("b"), &b"v=0\r\n"[..])
    );
    assert_eq!(ok.addresses(HeaderName::RecordRoute).count(), 2);
    assert!(!ok.contains(HeaderName::Timestamp) && !ok.contains(HeaderName::Route));
    assert_eq!(ok.line("x-latin"), Some(&b"\xfc"[..]));
}

#[test]
fn record_route_is_copied_only_where_a_dialog_may_form() {
    let invite = request(INVITE);
    let options = request(&INVITE.replace("INVITE", "OPTIONS"));
    for (request, status, copied) in [
        (&invite, 180, true),
        (&invite, 200, true),
        (&invite, 100, false),
        (&invite, 486, false),
        (&options, 200, false),
    ] {
        let status = StatusCode::new(status).unwrap();
        let built = text(ResponseBuilder::new(request, status).to_tag("b").build());
        assert_eq!(built.contains("Record-Route"), copied, "{status}");
    }
}

#[test]
fn to_gets_a_tag_exactly_when_it_has_none() {
    let invite = request(INVITE);
    assert_eq!(
        ResponseBuilder::new(&invite, StatusCode::OK).build(),
        Err(WriteError::NoToTag)
    );
    let reinvite = request(&INVITE.replace("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=old"));
    let answer = text(ResponseBuilder::new(&reinvite, StatusCode::OK).to_tag("new").build());
    assert!(answer.contains("\nTo: <sip:bob@example.com>;tag=old\n"), "{answer}");
}

#[test]
fn the_ack_for_a_failure_follows_rfc_3261_17_1_1_3() {
    let invite = request(INVITE);
    let busy = response(
        "SIP/2.0 486 Busy Here\nVia: SIP/2.0/UDP proxy;branch=z9hG4bK2\nFrom: <sip:alice@example.com>;tag=a\n\
         To: <sip:bob@example.com>;tag=b\nCall-ID: c1\nCSeq: 7 INVITE\n\n",
    );
    assert_eq!(
        text(ack_for_failure(&invite, &busy).build()),
        "ACK sip:bob@example.com SIP/2.0\n\
         Via: SIP/2.0/UDP proxy;branch=z9hG4bK2\n\
         Max-Forwards: 70\n\
         Route: <sip:next;lr>,\n <sip:last;lr>\n\
         From: <sip:alice@example.com>;tag=a\n\
         To: <sip:bob@example.com>;tag=b\n\
         Call-ID: c1\n\
         CSeq: 7 ACK\n\
         Content-Length: 0\n\n"
    );
}

#[test]
fn the_cancel_follows_rfc_3261_9_1() {
    let cancel = cancel_for(&request(INVITE))
        .header(HeaderName::Reason, "SIP;cause=200")
        .build()
        .unwrap();
    let Parsed::Understood(Message::Request(cancel)) = parse(cancel, Framing::Stream, &Limits::default()) else {
        panic!()
    };
    assert_eq!(
        (cancel.method(), cancel.uri_text()),
        (&Method::Cancel, "sip:bob@example.com")
    );
    assert_eq!((cancel.vias().count(), cancel.branch()), (1, Some("z9hG4bK2")));
    assert_eq!(
        (cancel.cseq_number(), cancel.to_tag(), cancel.from_tag()),
        (7, None, Some("a"))
    );
    assert_eq!(cancel.addresses(HeaderName::Route).count(), 2);
    assert!(!cancel.contains(HeaderName::Require) && cancel.contains(HeaderName::Reason));
}

#[test]
fn a_value_cannot_smuggle_a_header() {
    let build = |value: &str| RequestBuilder::new(&Method::Bye, "sip:a").header("X-A", value).build();
    for bad in ["a\r\nRoute: b", "a\nb", "a\rb", "a\0", "a\r\n", "\n b"] {
        assert_eq!(build(bad), Err(WriteError::LineBreak), "{bad:?}");
    }
    assert!(build("a\r\n b").is_ok(), "a fold stays within the field");
    assert_eq!(
        RequestBuilder::new(&Method::Bye, "sip:a\r\nX: y").build(),
        Err(WriteError::LineBreak)
    );
    assert_eq!(
        RequestBuilder::new(&Method::Bye, "sip:a").header("X A", 1).build(),
        Err(WriteError::BadName)
    );
    assert_eq!(
        RequestBuilder::new(&Method::Bye, "sip:a")
            .header("X-A", "y".repeat(70_000))
            .build(),
        Err(WriteError::TooLarge)
    );
    let invite = request(INVITE);
    let tagged = ResponseBuilder::new(&invite, StatusCode::OK)
        .to_tag("b\r\nX: y")
        .build();
    assert_eq!(tagged, Err(WriteError::LineBreak));
    let phrase = ResponseBuilder::new(&invite, StatusCode::TRYING).reason("a\nb").build();
    assert_eq!(phrase, Err(WriteError::LineBreak));
}

#[test]
fn received_and_rport_are_added_as_the_source_demands() {
    let source: SocketAddr = "192.0.2.9:5062".parse().unwrap();
    let stamp = |via: &str, forced: bool| {
        let parsed = Via::parse(via.as_bytes()).unwrap();
        let stamp = if forced {
            ViaStamp::forced(source)
        } else {
            ViaStamp::for_source(&parsed, source)
        };
        let mut out = BytesMut::new();
        write_stamped(via.as_bytes(), &stamp, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    };
    for (via, forced, expected) in [
        (
            "SIP/2.0/UDP 192.0.2.9;branch=x",
            false,
            "SIP/2.0/UDP 192.0.2.9;branch=x",
        ),
        (
            "SIP/2.0/UDP host;branch=x",
            false,
            "SIP/2.0/UDP host;branch=x;received=192.0.2.9",
        ),
        (
            "SIP/2.0/UDP 10.0.0.1;rport;branch=x",
            false,
            "SIP/2.0/UDP 10.0.0.1;branch=x;rport=5062;received=192.0.2.9",
        ),
        (
            "SIP/2.0/UDP 192.0.2.9;rport",
            false,
            "SIP/2.0/UDP 192.0.2.9;rport=5062;received=192.0.2.9",
        ),
        (
            "SIP/2.0/UDP 192.0.2.9;received=6.6.6.6",
            false,
            "SIP/2.0/UDP 192.0.2.9;received=192.0.2.9",
        ),
        (
            "SIP/2.0/UDP host ; branch = x",
            true,
            "SIP/2.0/UDP host;branch=x;rport=5062;received=192.0.2.9",
        ),
        (
            "SIP/2.0/UDP host;RPORT=1;Received=6.6.6.6;a",
            true,
            "SIP/2.0/UDP host;a;rport=5062;received=192.0.2.9",
        ),
    ] {
        assert_eq!(stamp(via, forced), expected, "{via}");
    }
    let mapped = ViaStamp::forced("[::ffff:192.0.2.9]:1".parse().unwrap());
    assert_eq!(mapped.received, Some("192.0.2.9".parse().unwrap()));
}

#[test]
fn a_stamped_response_changes_the_top_via_only() {
    let invite = request(INVITE);
    let stamp = ViaStamp::forced("192.0.2.9:5062".parse().unwrap());
    let built = text(
        ResponseBuilder::new(&invite, StatusCode::TRYING)
            .stamp_via(stamp)
            .build(),
    );
    assert!(built.contains(
        "Via: SIP/2.0/UDP proxy;branch=z9hG4bK2;rport=5062;received=192.0.2.9, SIP/2.0/UDP phone;branch=z9hG4bK1\n"
    ));
    assert_eq!(built.matches("received").count(), 1);
}

#[test]
fn an_answer_to_a_bad_request_copies_what_is_there() {
    let bad = wire(
        &INVITE
            .replace("CSeq: 7 INVITE", "CSeq: 7 INVITE\nCSeq: 8 INVITE")
            .replace("To: <sip:bob@example.com>\n", ""),
    );
    let Parsed::Answerable(bad) = parse(bad, Framing::Datagram, &Limits::default()) else {
        panic!()
    };
    assert_eq!(
        text(bad.response("tag", "192.0.2.9:5060".parse().unwrap())),
        "SIP/2.0 400 Missing To\n\
         Via: SIP/2.0/UDP proxy;branch=z9hG4bK2;received=192.0.2.9, SIP/2.0/UDP phone;branch=z9hG4bK1\n\
         Via: SIP/2.0/TCP other\n\
         From: <sip:alice@example.com>;tag=a\n\
         Call-ID: c1\n\
         CSeq: 7 INVITE\n\
         Content-Length: 0\n\n"
    );
    assert_eq!(bad.top_via().branch(), Some("z9hG4bK2"));
    assert!(
        bad.response("t\r\nX: y", "192.0.2.9:5060".parse().unwrap()).is_ok(),
        "no To, so the tag is not written"
    );
    assert!(matches!(understood(INVITE), Message::Request(_)));
}
