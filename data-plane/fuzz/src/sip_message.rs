//! A SIP message: parsed, read through every typed view, edited as a proxy edits it, written and parsed again.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use trunkline_sip::edit::Edits;
use trunkline_sip::header::{
    AuthScheme, CSeq, ContentType, Event, Expires, HeaderName, MaxForwards, MinExpires, MinSe, RAck, RSeq, Reason,
    RetryAfter, SessionExpires, SubscriptionState, TypedHeader, Via, Warning,
};
use trunkline_sip::message::{BadRequest, Fields, Message, Request};
use trunkline_sip::method::Method;
use trunkline_sip::parse::{Framing, Limits, Parsed, keep_alive, parse, peek_call_id};
use trunkline_sip::status::StatusCode;
use trunkline_sip::uri::{Uri, escape_user, unescape};
use trunkline_sip::write::{ResponseBuilder, ViaStamp, WriteError, ack_for_failure, cancel_for};

/// The input is one datagram.
pub fn run(data: &[u8]) {
    black_box(keep_alive(data));
    let bytes = Bytes::copy_from_slice(data);
    // What a stream may carry is a subset: it must not be understood where a datagram is not.
    let in_stream = matches!(
        parse(bytes.clone(), Framing::Stream, &Limits::default()),
        Parsed::Understood(_)
    );
    match parse(bytes, Framing::Datagram, &Limits::default()) {
        Parsed::Understood(message) => {
            assert_eq!(peek_call_id(data), Some(message.call_id().as_bytes()));
            read(&message);
            passes_through(&message);
            forwards(&message);
            match &message {
                Message::Request(request) => answers(request),
                Message::Response(_) => {}
            }
        }
        Parsed::Answerable(bad) => {
            assert!(!in_stream, "understood in a stream, refused in a datagram");
            answers_bad(&bad);
        }
        Parsed::Drop(reason) => {
            assert!(!in_stream, "understood in a stream, dropped in a datagram: {reason}");
        }
    }
}

/// Every view either reads a value or says why not.
fn read(message: &Message) {
    match message {
        Message::Request(request) => read_uri(&request.uri()),
        Message::Response(response) => {
            black_box((response.status(), response.reason_phrase()));
        }
    }
    for address in [message.from(), message.to()] {
        black_box(address.display_text());
        read_uri(&address.uri());
    }
    for name in [HeaderName::Route, HeaderName::RecordRoute, HeaderName::Path] {
        message
            .addresses(name)
            .flatten()
            .for_each(|address| read_uri(&address.uri()));
    }
    for contact in message.contacts().flatten() {
        if let Some(address) = contact.address() {
            black_box((address.expires(), address.q(), address.tag()));
            read_uri(&address.uri());
        }
    }
    for via in message.vias().flatten() {
        black_box((
            via.transport().is_reliable(),
            via.port_or_default(),
            via.received(),
            via.rport(),
            via.ttl(),
        ));
    }
    for name in [HeaderName::Supported, HeaderName::Require, HeaderName::Allow] {
        black_box(message.tokens(name).count());
    }
    for field in message.iter() {
        if let Ok(auth) = AuthScheme::parse(field.value) {
            black_box(auth.params().map(|param| param.unquoted().len()).sum::<usize>());
        }
    }
    typed::<CSeq>(message);
    typed::<ContentType<'_>>(message);
    typed::<Event<'_>>(message);
    typed::<Expires>(message);
    typed::<MaxForwards>(message);
    typed::<MinExpires>(message);
    typed::<MinSe>(message);
    typed::<RAck>(message);
    typed::<RSeq>(message);
    typed::<Reason<'_>>(message);
    typed::<RetryAfter<'_>>(message);
    typed::<SessionExpires>(message);
    typed::<SubscriptionState<'_>>(message);
    typed::<Via<'_>>(message);
    typed::<Warning<'_>>(message);
    assert!(message.q850_cause().is_none_or(|cause| (1..=127).contains(&cause)));
}

fn typed<'a, T: TypedHeader<'a> + 'a>(message: &'a Fields) {
    black_box(message.typed_list::<T>().filter(Result::is_ok).count());
}

/// A URI equals itself, and what `escape_user` writes decodes to the same user.
fn read_uri(uri: &Uri<'_>) {
    assert!(uri.is_equivalent(uri), "{}", uri.as_str());
    let copy = uri.to_buf();
    assert_eq!(copy.as_uri().as_str(), uri.as_str());
    let Some(sip) = uri.sip() else { return };
    black_box((
        sip.port(),
        sip.transport(),
        sip.maddr(),
        sip.is_loose_router(),
        sip.headers(),
    ));
    if let Some(user) = sip.user()
        && let Ok(plain) = std::str::from_utf8(&unescape(user))
    {
        assert_eq!(&*unescape(&escape_user(plain)), plain.as_bytes());
    }
}

fn reparse(bytes: Bytes) -> Message {
    // An edit may lengthen a message that was at a limit.
    let wide = Limits {
        start_line: 65_535,
        headers: 1_024,
        header_line: 65_535,
        vias: 1_024,
        ..Limits::default()
    };
    match parse(bytes.clone(), Framing::Stream, &wide) {
        Parsed::Understood(message) => message,
        other => panic!(
            "what was written is not understood: {other:?}\n{}",
            bytes.escape_ascii()
        ),
    }
}

/// Without edits everything but Content-Length leaves as it came.
fn passes_through(message: &Message) {
    let mut out = BytesMut::new();
    if let Err(error) = Edits::new().write(message, &mut out) {
        assert_eq!(error, WriteError::TooLarge);
        return;
    }
    let after = reparse(out.freeze());
    let fields = |message: &Message| -> Vec<(String, Vec<u8>)> {
        let kept = message
            .iter()
            .filter(|field| field.name != HeaderName::ContentLength.into());
        kept.map(|field| (field.name.as_str().to_owned(), field.value.to_vec()))
            .collect()
    };
    assert_eq!(fields(message), fields(&after));
    assert_eq!(message.body(), after.body());
}

/// The edits of a record-routing proxy that rewrites SDP: its own values are on top, the peer's stay below.
fn forwards(message: &Message) {
    let mut edits = Edits::new();
    let vias = message.vias().count();
    match message {
        Message::Request(request) => {
            let source = ([192, 0, 2, 9], 5062).into();
            edits
                .request_uri("sip:next@192.0.2.1")
                .push_via("SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bKfuzz")
                .stamp_via(ViaStamp::for_source(&request.top_via(), source))
                .decrement_max_forwards()
                .record_route("<sip:192.0.2.2;lr>")
                .pop_route();
        }
        Message::Response(_) => {
            edits.pop_via();
        }
    }
    edits
        .set("x-inin-cnv", "b7b7a1a2")
        .remove(HeaderName::AcceptLanguage)
        .body("application/sdp", &b"v=0\r\n"[..]);
    let mut out = BytesMut::new();
    match edits.write(message, &mut out) {
        Ok(()) => {}
        Err(error) => {
            assert_eq!(error, WriteError::TooLarge);
            assert!(out.is_empty(), "a failed write leaves nothing behind");
            return;
        }
    }
    // A response whose only Via was ours has none left; it ends here and is never parsed again.
    if matches!(message, Message::Response(_)) && vias == 1 {
        return;
    }
    let after = match message {
        Message::Request(_) => reparse(out.freeze()),
        // The next Via was never checked and may be malformed.
        Message::Response(_) if message.vias().nth(1).is_none_or(|via| via.is_err()) => return,
        Message::Response(_) => reparse(out.freeze()),
    };
    assert_eq!(after.call_id(), message.call_id());
    assert_eq!(
        (after.from_tag(), after.to_tag()),
        (message.from_tag(), message.to_tag())
    );
    assert_eq!(
        (after.cseq_number(), after.cseq_method()),
        (message.cseq_number(), message.cseq_method())
    );
    assert_eq!(after.body(), b"v=0\r\n");
    if let Message::Request(request) = &after {
        assert_eq!(request.uri_text(), "sip:next@192.0.2.1");
        assert_eq!(request.branch(), Some("z9hG4bKfuzz"));
        assert_eq!(request.vias().count(), vias + 1);
        assert!(
            request
                .max_forwards()
                .is_some_and(|hops| hops <= 70 || message.max_forwards() > Some(70))
        );
        let top = request.addresses(HeaderName::RecordRoute).next().and_then(Result::ok);
        assert_eq!(
            top.map(|address| address.uri().as_str().to_owned()).as_deref(),
            Some("sip:192.0.2.2;lr")
        );
    }
}

/// A response to it, and the CANCEL and ACK that go with it, are messages of the same transaction.
fn answers(request: &Request) {
    if *request.method() == Method::Ack {
        return;
    }
    let busy = match ResponseBuilder::new(request, StatusCode::BUSY_HERE)
        .to_tag("fuzz")
        .build()
    {
        Ok(bytes) => bytes,
        Err(error) => return assert_eq!(error, WriteError::TooLarge),
    };
    let Message::Response(response) = reparse(busy) else {
        panic!("a response was built")
    };
    assert_eq!(
        (response.call_id(), response.branch()),
        (request.call_id(), request.branch())
    );
    assert_eq!(response.to_tag(), Some(request.to_tag().unwrap_or("fuzz")));
    if *request.method() != Method::Invite {
        return;
    }
    for (built, method) in [
        (ack_for_failure(request, &response), Method::Ack),
        (cancel_for(request), Method::Cancel),
    ] {
        let Ok(bytes) = built.build() else { continue };
        let Message::Request(hop) = reparse(bytes) else {
            panic!("a request was built")
        };
        assert_eq!(*hop.method(), method);
        assert_eq!((hop.uri_text(), hop.branch()), (request.uri_text(), request.branch()));
        assert_eq!(
            (hop.call_id(), hop.cseq_number()),
            (request.call_id(), request.cseq_number())
        );
    }
}

/// The answer to a wrong request is framed by us, whatever the request holds.
fn answers_bad(bad: &BadRequest) {
    assert_ne!(*bad.method(), Method::Ack);
    black_box(bad.top_via().port_or_default());
    let source = ([192, 0, 2, 9], 5062).into();
    let Ok(answer) = bad.response("fuzz", source) else {
        return;
    };
    assert!(answer.starts_with(format!("SIP/2.0 {} ", bad.status().as_u16()).as_bytes()));
    let ends = answer.windows(4).filter(|window| window == b"\r\n\r\n").count();
    assert_eq!(
        (ends, answer.ends_with(b"\r\n\r\n")),
        (1, true),
        "{}",
        answer.escape_ascii()
    );
}
