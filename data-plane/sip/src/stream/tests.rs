use super::*;
use crate::parse::{Framing, Parsed, parse};

const ONE: &[u8] = b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/TCP a\r\nl: 3\r\n\r\nabc";
const TWO: &[u8] = b"BYE sip:a SIP/2.0\r\nContent-Length :\r\n 0\r\n\r\n";

fn framer() -> Framer {
    Framer::new(Limits {
        message: 200,
        ..Limits::default()
    })
}

fn drain(framer: &mut Framer) -> Result<Vec<Frame>, StreamError> {
    let mut frames = Vec::new();
    while let Some(frame) = framer.poll()? {
        frames.push(frame);
    }
    Ok(frames)
}

fn message(bytes: &'static [u8]) -> Frame {
    Frame::Message(Bytes::from_static(bytes))
}

#[test]
fn messages_come_out_whole_however_they_arrive() {
    let stream = [ONE, TWO, ONE].concat();
    for size in 1..=stream.len() {
        let mut framer = framer();
        let mut frames = Vec::new();
        for chunk in stream.chunks(size) {
            framer.push(chunk);
            frames.extend(drain(&mut framer).unwrap());
        }
        assert_eq!(frames, [message(ONE), message(TWO), message(ONE)], "chunks of {size}");
        assert_eq!(framer.buffered(), 0);
    }
}

#[test]
fn keep_alives_are_told_from_messages() {
    let mut framer = framer();
    framer.push(b"\r\n\r\n");
    assert_eq!(drain(&mut framer), Ok(vec![Frame::Ping]));
    framer.push(b"\r\n");
    assert_eq!(drain(&mut framer), Ok(vec![Frame::Pong]));
    framer.push(TWO);
    framer.push(b"\r\n");
    framer.push(TWO);
    assert_eq!(drain(&mut framer), Ok(vec![message(TWO), Frame::Pong, message(TWO)]));
    framer.push(b"\r");
    assert_eq!(drain(&mut framer), Ok(vec![]));
    framer.push(b"\n\r");
    assert_eq!(drain(&mut framer), Ok(vec![Frame::Pong]));
    framer.push(b"\n");
    assert_eq!(
        drain(&mut framer),
        Ok(vec![Frame::Ping]),
        "a ping in two halves is still answered"
    );
}

#[test]
fn what_is_not_sip_ends_the_connection_at_the_first_byte() {
    for first in [&b"\x16\x03\x01"[..], b"{", b" INVITE", b"\nINVITE", b"\0"] {
        let mut framer = framer();
        framer.push(first);
        assert_eq!(framer.poll(), Err(StreamError::NotSip), "{first:?}");
        framer.push(ONE);
        assert_eq!(framer.poll(), Err(StreamError::NotSip), "the error stays");
        assert_eq!(framer.buffered(), 0);
    }
}

#[test]
fn a_header_section_without_end_is_cut_off_at_the_limit() {
    let mut framer = framer();
    for _ in 0..200 {
        framer.push(b"A");
        assert_eq!(framer.poll(), Ok(None));
    }
    framer.push(b"A");
    assert_eq!(framer.poll(), Err(StreamError::TooLarge));
}

#[test]
fn without_a_usable_length_the_header_section_is_given_out_to_be_answered() {
    for (length, error, status) in [
        ("X: y", StreamError::ContentLength, 400),
        ("Content-Length: -1", StreamError::ContentLength, 400),
        ("Content-Length: 3\r\nl: 3", StreamError::ContentLength, 400),
        ("Content-Length: 5000", StreamError::TooLarge, 513),
        ("Content-Length: 4294967295", StreamError::TooLarge, 513),
    ] {
        let head = format!(
            "OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/TCP a\r\nf: <sip:a>;tag=1\r\nt: <sip:b>\r\ni: 1\r\nCSeq: 1 OPTIONS\r\n{length}\r\n\r\n"
        );
        let mut framer = framer();
        framer.push(head.as_bytes());
        framer.push(ONE);
        let Ok(Some(Frame::Message(bytes))) = framer.poll() else {
            panic!("{length}")
        };
        assert_eq!(bytes, head.as_bytes());
        let limits = Limits {
            message: 200,
            ..Limits::default()
        };
        let Parsed::Answerable(bad) = parse(bytes, Framing::Stream, &limits) else {
            panic!("{length}")
        };
        assert_eq!(bad.status().as_u16(), status, "{length}");
        assert_eq!(framer.poll(), Err(error), "{length}");
    }
}
