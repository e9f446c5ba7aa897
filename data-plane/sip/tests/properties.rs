//! Properties that hold for any input: nothing panics, what is understood survives writing, edits do what they say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use trunkline_sip::edit::Edits;
use trunkline_sip::header::{
    AuthScheme, CSeq, Contact, ContentType, Event, Expires, HeaderName, MaxForwards, MinSe, NameAddr, RAck, Reason,
    RetryAfter, SessionExpires, SubscriptionState, TypedHeader, Via, Warning,
};
use trunkline_sip::message::{Message, Request};
use trunkline_sip::method::Method;
use trunkline_sip::parse::{Framing, Limits, Parsed, parse, peek_call_id};
use trunkline_sip::status::StatusCode;
use trunkline_sip::stream::{Frame, Framer};
use trunkline_sip::uri::{Uri, escape_user, unescape};
use trunkline_sip::write::{RequestBuilder, ResponseBuilder, ViaStamp, ack_for_failure, cancel_for};

/// Seeds that reach deep into the parser when a few bytes change.
const SEEDS: [&[u8]; 6] = [
    include_bytes!("torture/wsinv.dat"),
    include_bytes!("torture/intmeth.dat"),
    include_bytes!("torture/esc01.dat"),
    include_bytes!("torture/mpart01.dat"),
    include_bytes!("torture/scalar02.dat"),
    include_bytes!("torture/bcast.dat"),
];

/// Bytes that mean something to the grammar, more often than others.
fn spiced() -> impl Strategy<Value = u8> {
    prop_oneof![select(&b"\r\n\0 \t:;,<>\"\\@=%[]()/?&*.SIP20"[..]), any::<u8>()]
}

/// A seed with some bytes overwritten, cut out or inserted.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), 0..3usize, vec(spiced(), 0..6));
    (select(&SEEDS[..]), vec(change, 0..8)).prop_map(|(seed, changes)| {
        let mut bytes = seed.to_vec();
        for (at, cut, insert) in changes {
            let at = at.index(bytes.len() + 1);
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, insert);
        }
        bytes
    })
}

fn parse_datagram(bytes: impl Into<Bytes>) -> Parsed {
    parse(bytes.into(), Framing::Datagram, &Limits::default())
}

fn request(bytes: Bytes) -> Request {
    match parse_datagram(bytes) {
        Parsed::Understood(Message::Request(request)) => request,
        other => panic!("not an understood request: {other:?}"),
    }
}

/// Calls everything that reads a message.
fn read_everything(message: &Message) {
    let named = message
        .iter()
        .filter(|field| !field.name.as_str().is_empty() && field.value.len() < 65_536)
        .count();
    assert_eq!(named, message.iter().count());
    let _ = (
        message.top_via().branch(),
        message.from().tag(),
        message.to().display_text(),
        message.q850_cause(),
    );
    let _ = (
        message.vias().count(),
        message.contacts().count(),
        message.tokens(HeaderName::Supported).count(),
    );
    let _ = message.addresses(HeaderName::Route).count() + message.addresses(HeaderName::RecordRoute).count();
    let _ = (
        message.typed::<SessionExpires>(),
        message.typed::<ContentType<'_>>(),
        message.typed::<Expires>(),
    );
    let _ = format!("{message:?}");
    if let Some(request) = message.request() {
        let _ = (request.uri().params().iter().count(), format!("{:?}", request.uri()));
    }
    assert_eq!(message.branch(), message.top_via().branch());
    assert_eq!(message.from_tag(), message.from().tag());
    assert_eq!(message.to_tag(), message.to().tag());
    assert_eq!(peek_call_id(message.bytes()), Some(message.call_id().as_bytes()));
}

fn survives(bytes: Vec<u8>, framing: Framing) {
    match parse(Bytes::from(bytes), framing, &Limits::default()) {
        Parsed::Understood(message) => {
            read_everything(&message);
            let mut out = BytesMut::new();
            Edits::new().write(&message, &mut out).unwrap();
            let Parsed::Understood(again) = parse(out.freeze(), Framing::Stream, &Limits::default()) else {
                panic!("what was understood is not understood any more")
            };
            assert_eq!(again.body(), message.body());
            let kept = |message: &Message| {
                let kept = message
                    .iter()
                    .filter(|field| field.name != HeaderName::ContentLength.into());
                kept.map(|field| (field.name.as_str().to_owned(), field.value.to_vec()))
                    .collect::<Vec<_>>()
            };
            assert_eq!(kept(&again), kept(&message));
            if let Some(request) = message.request() {
                let stamp = ViaStamp::forced("192.0.2.1:5060".parse().unwrap());
                let answer = ResponseBuilder::new(request, StatusCode::OK)
                    .to_tag("t")
                    .stamp_via(stamp)
                    .build();
                assert!(matches!(parse_datagram(answer.unwrap()), Parsed::Understood(_)));
                assert_eq!(
                    self::request(cancel_for(request).build().unwrap()).call_id(),
                    message.call_id()
                );
            }
        }
        Parsed::Answerable(bad) => {
            let answer = bad.response("tag", "192.0.2.1:5060".parse().unwrap()).unwrap();
            assert!(answer.ends_with(b"Content-Length: 0\r\n\r\n"));
            assert_eq!(
                crlf_count(&answer),
                answer.iter().filter(|byte| **byte == b'\n').count()
            );
        }
        Parsed::Drop(_) => {}
    }
}

/// Line ends that are CRLF.
fn crlf_count(bytes: &[u8]) -> usize {
    bytes.windows(2).filter(|pair| *pair == b"\r\n").count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_survived(bytes in vec(spiced(), 0..400)) {
        survives(bytes.clone(), Framing::Datagram);
        survives(bytes, Framing::Stream);
    }

    #[test]
    fn damaged_messages_are_survived(bytes in mutated()) {
        survives(bytes.clone(), Framing::Datagram);
        survives(bytes, Framing::Stream);
    }

    #[test]
    fn any_value_is_survived_by_every_header_parser(value in vec(spiced(), 0..80)) {
        let value = &value[..];
        let _ = Via::parse(value).map(|via| (via.received(), via.rport(), via.unique_branch().map(str::len)));
        let _ = NameAddr::parse(value).map(|address| (address.expires(), address.q(), format!("{address:?}")));
        let _ = (Contact::parse(value).is_ok(), Uri::parse(value).is_ok(), CSeq::parse(value).is_ok());
        let _ = (RAck::parse(value).is_ok(), MaxForwards::parse(value).is_ok(), MinSe::parse(value).is_ok());
        let _ = Reason::parse(value).map(|reason| (reason.q850_cause(), reason.text().map(|text| text.len())));
        let _ = (RetryAfter::parse(value).is_ok(), Warning::parse(value).is_ok(), Event::parse(value).is_ok());
        let _ = (SubscriptionState::parse(value).is_ok(), ContentType::parse(value).is_ok());
        let _ = AuthScheme::parse(value).map(|auth| auth.params().map(|param| param.unquoted().len()).sum::<usize>());
        let _ = (Method::parse(value), peek_call_id(value), HeaderName::lookup(value));
    }

    #[test]
    fn a_uri_is_equivalent_to_itself_and_a_user_survives_escaping(user in ".{1,20}", text in "sip:[a-z%0-9;=?&@:.]{1,30}") {
        if let Ok(uri) = Uri::parse(text.as_bytes()) {
            prop_assert!(uri.is_equivalent(&uri));
            prop_assert_eq!(uri.to_buf().to_string(), text.clone());
        }
        let written = format!("sip:{}@example.com", escape_user(&user));
        let uri = Uri::parse(written.as_bytes()).unwrap();
        prop_assert_eq!(&*unescape(uri.user().unwrap()), user.as_bytes());
    }

    #[test]
    fn what_is_built_reads_back(
        method in "[A-Z]{1,10}",
        user in "[a-z0-9]{1,8}",
        tag in "[a-zA-Z0-9.-]{1,12}",
        call_id in "[!-~]{1,30}",
        cseq in any::<u32>(),
        extra in vec(("X-[A-Za-z]{1,8}", "[ -~]{0,40}"), 0..10),
        body in vec(any::<u8>(), 0..200),
    ) {
        let method = Method::parse(method.as_bytes()).unwrap();
        let mut builder = RequestBuilder::new(&method, format_args!("sip:{user}@example.com"))
            .header(HeaderName::Via, "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKp")
            .header(HeaderName::From, format_args!("<sip:{user}@example.com>;tag={tag}"))
            .header(HeaderName::To, "<sip:to@example.com>")
            .header(HeaderName::CallId, &call_id)
            .header(HeaderName::CSeq, format_args!("{cseq} {method}"));
        for (name, value) in &extra {
            builder = builder.header(&name[..], value);
        }
        let built = builder.body("application/octet-stream", body.clone()).build().unwrap();
        let read = parse(built.clone(), Framing::Stream, &Limits::default());
        let Parsed::Understood(Message::Request(read)) = read else { panic!("{read:?}") };
        prop_assert_eq!(read.bytes(), &built);
        prop_assert_eq!((read.method(), read.call_id(), read.cseq_number()), (&method, &call_id[..], cseq));
        prop_assert_eq!((read.from_tag(), read.uri().user()), (Some(&tag[..]), Some(&user[..])));
        prop_assert_eq!(read.body(), &body[..]);
        let values: Vec<_> = read.iter().filter(|field| field.name.as_str().starts_with("X-")).collect();
        prop_assert_eq!(values.len(), extra.len());
        for (field, (name, value)) in values.iter().zip(&extra) {
            prop_assert_eq!((field.name.as_str(), field.value), (&name[..], value.trim_matches(' ').as_bytes()));
        }
        let failure = ResponseBuilder::new(&read, StatusCode::BUSY_HERE).to_tag("b").build().unwrap();
        let Parsed::Understood(Message::Response(failure)) = parse_datagram(failure) else { panic!() };
        prop_assert_eq!((failure.call_id(), failure.cseq_number(), failure.branch()), (&call_id[..], cseq, read.branch()));
        let ack = request(ack_for_failure(&read, &failure).build().unwrap());
        prop_assert_eq!((ack.method(), ack.to_tag(), ack.cseq_number()), (&Method::Ack, Some("b"), cseq));
    }

    #[test]
    fn vias_pushed_are_vias_popped(seed in select(&SEEDS[..4]), pushed in 1..4usize) {
        let before = request(Bytes::copy_from_slice(seed));
        let mut push = Edits::new();
        for index in 0..pushed {
            push.push_via(format_args!("SIP/2.0/UDP h{index};branch=z9hG4bK{index}"));
        }
        let mut out = BytesMut::new();
        push.write_request(&before, &mut out).unwrap();
        let forwarded = request(out.freeze());
        let top = format!("z9hG4bK{}", pushed - 1);
        prop_assert_eq!(forwarded.branch(), Some(&top[..]));
        let mut pop = Edits::new();
        for _ in 0..pushed {
            pop.pop_via();
        }
        let mut out = BytesMut::new();
        pop.write_request(&forwarded, &mut out).unwrap();
        let after = request(out.freeze());
        prop_assert_eq!(after.values(HeaderName::Via).collect::<Vec<_>>(), before.values(HeaderName::Via).collect::<Vec<_>>());
        prop_assert_eq!(after.body(), before.body());
    }

    #[test]
    fn routes_leave_from_the_top_in_order(lines in vec(vec("[a-z]{1,5}", 1..4), 0..4), popped in 0..8usize, last in any::<bool>()) {
        let mut builder = RequestBuilder::new(&Method::Bye, "sip:a")
            .header(HeaderName::Via, "SIP/2.0/UDP a")
            .header(HeaderName::From, "<sip:a>;tag=1")
            .header(HeaderName::To, "<sip:b>;tag=2")
            .header(HeaderName::CallId, 1)
            .header(HeaderName::CSeq, "1 BYE");
        for line in &lines {
            builder = builder.header(HeaderName::Route, line.iter().map(|host| format!("<sip:{host};lr>")).collect::<Vec<_>>().join(" ,\r\n "));
        }
        let before = request(builder.build().unwrap());
        let mut edits = Edits::new();
        for _ in 0..popped {
            edits.pop_route();
        }
        if last {
            edits.pop_last_route();
        }
        let mut out = BytesMut::new();
        edits.write_request(&before, &mut out).unwrap();
        let after = request(out.freeze());
        let mut expected: Vec<&[u8]> = before.values(HeaderName::Route).collect();
        if last {
            expected.pop();
        }
        expected.drain(..popped.min(expected.len()));
        prop_assert_eq!(after.values(HeaderName::Route).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn no_value_breaks_out_of_its_field(value in vec(spiced(), 0..30)) {
        let before = request(Bytes::from_static(SEEDS[2]));
        let mut edits = Edits::new();
        edits.add_bytes("X-Value", &value);
        let mut out = BytesMut::new();
        if edits.write_request(&before, &mut out).is_ok() {
            let after = request(out.freeze());
            // Content-Length is there before and after: one field more is the one added.
            prop_assert_eq!(after.iter().count(), before.iter().count() + 1);
            prop_assert!(after.contains("X-Value"));
        }
    }

    #[test]
    fn a_stream_gives_the_same_frames_in_any_pieces(cuts in vec(1..60usize, 1..40), bytes in vec(spiced(), 0..40)) {
        let mut stream = Vec::new();
        for seed in [SEEDS[0], SEEDS[3], SEEDS[5]] {
            stream.extend_from_slice(seed);
        }
        stream.extend_from_slice(&bytes);
        let messages = |pieces: &mut dyn Iterator<Item = usize>| {
            let mut framer = Framer::new(Limits::default());
            let (mut found, mut rest) = (Vec::new(), &stream[..]);
            while !rest.is_empty() {
                let (piece, tail) = rest.split_at(pieces.next().unwrap_or(rest.len()).min(rest.len()));
                framer.push(piece);
                rest = tail;
                while let Ok(Some(frame)) = framer.poll() {
                    if let Frame::Message(message) = frame {
                        found.push(message);
                    }
                }
            }
            found
        };
        let whole = messages(&mut std::iter::empty());
        prop_assert!(whole.len() >= 3);
        prop_assert_eq!(messages(&mut cuts.into_iter().cycle()), whole);
    }
}
