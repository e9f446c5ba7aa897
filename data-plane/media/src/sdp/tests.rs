//! Tests of the parser and the writer.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

/// A description as a desk phone with video sends it.
const PHONE: &str = "v=0\r\n\
    o=alice 2890844526 2890844526 IN IP4 192.0.2.1\r\n\
    s=-\r\n\
    c=IN IP4 192.0.2.1\r\n\
    b=AS:128\r\n\
    t=0 0\r\n\
    a=group:BUNDLE 0 1\r\n\
    m=audio 49170 RTP/SAVP 0 96 101\r\n\
    a=rtpmap:0 PCMU/8000\r\n\
    a=rtpmap:96 opus/48000/2\r\n\
    a=fmtp:96 useinbandfec=1\r\n\
    a=rtpmap:101 telephone-event/8000\r\n\
    a=fmtp:101 0-15\r\n\
    a=ptime:20\r\n\
    a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj\r\n\
    a=rtcp:53020 IN IP4 192.0.2.2\r\n\
    a=rtcp-mux\r\n\
    a=sendonly\r\n\
    a=mid:0\r\n\
    m=video 51372/2 RTP/AVPF 31\r\n\
    c=IN IP6 2001:db8::5\r\n\
    a=rtcp-fb:* nack\r\n";

fn with_lines(lines: &str) -> Vec<u8> {
    format!("v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n{lines}").into_bytes()
}

fn typed(text: &str) -> Result<TypedAttribute<'_>, SdpError> {
    Attribute::from_text(text).typed()
}

#[test]
fn a_phones_description_is_understood() {
    let sdp = parse(PHONE.as_bytes()).unwrap();
    assert_eq!(
        (sdp.origin().username, sdp.origin().session_version),
        ("alice", "2890844526")
    );
    assert_eq!(sdp.connection().unwrap().ip(), Some(Ipv4Addr::new(192, 0, 2, 1).into()));
    assert_eq!(sdp.bandwidth(None).collect::<Vec<_>>(), ["AS:128"]);
    assert_eq!(sdp.session_lines().len(), 7);
    let [audio, video] = sdp.media() else {
        panic!("two media sections")
    };
    assert!(audio.is_audio() && !video.is_audio());
    assert_eq!(
        (audio.port, audio.protocol, audio.formats.as_slice()),
        (49170, Protocol::RtpSavp, &["0", "96", "101"][..])
    );
    assert_eq!(
        (video.port, video.port_count, video.protocol),
        (51372, 2, Protocol::RtpAvpf)
    );
    assert_eq!(sdp.direction(0), Direction::SendOnly);
    assert_eq!(sdp.direction(1), Direction::SendRecv);
    assert_eq!(
        sdp.connection_for(1).unwrap().ip(),
        Some("2001:db8::5".parse().unwrap())
    );
    let address = sdp.media_address(0).unwrap();
    assert_eq!(
        (address.rtp, address.rtcp),
        ("192.0.2.1:49170".parse().unwrap(), "192.0.2.2:53020".parse().unwrap())
    );
    assert_eq!(sdp.media_address(1).unwrap().rtcp.port(), 51373);
    assert_eq!(sdp.media_lines(1).len(), 2);
    assert_eq!(sdp.media_lines(2), []);
    assert_eq!(sdp.media_attributes(0).count(), 11);
}

#[test]
fn every_line_is_written_again_in_its_order() {
    assert_eq!(parse(PHONE.as_bytes()).unwrap().to_bytes(), PHONE.as_bytes());
    let odd = "v=0\r\nx=unknown\r\no=- 1 1 IN IP4 0.0.0.0\r\nt=0 0\r\ns=late\r\na=\r\n";
    assert_eq!(parse(odd.as_bytes()).unwrap().to_bytes(), odd.as_bytes());
}

#[test]
fn octets_outside_utf_8_are_kept_and_their_lines_skipped() {
    let body = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=J\xfcrgen\r\na=note:\xff\r\n";
    let sdp = parse(body).unwrap();
    assert_eq!(sdp.to_bytes(), &body[..]);
    assert_eq!(sdp.attributes().count(), 0);
}

#[test]
fn lenient_forms_are_understood() {
    let bare_lf = PHONE.replace("\r\n", "\n");
    assert_eq!(parse(bare_lf.as_bytes()).unwrap().to_bytes(), PHONE.as_bytes());
    let no_last_line_end = PHONE.trim_end();
    assert_eq!(parse(no_last_line_end.as_bytes()).unwrap().to_bytes(), PHONE.as_bytes());
    let blank_lines = format!("{}\r\n\r\n", PHONE.replace("s=-\r\n", "s=-\r\n\r\n"));
    assert_eq!(parse(blank_lines.as_bytes()).unwrap().to_bytes(), PHONE.as_bytes());
    // No s= and no t=, and an o= version wider than 64 bits.
    let bare = b"v=0\no=- 9 99999999999999999999999 IN IP4 h\nm=audio 9 RTP/AVP 0\n";
    assert_eq!(parse(bare).unwrap().origin().session_version, "99999999999999999999999");
}

#[test]
fn what_is_not_sdp_is_dropped() {
    for body in [
        &b""[..],
        b"\r\n",
        b"hello",
        b"o=- 1 1 IN IP4 h\r\n",
        b"v=1\r\n",
        b"\0\0",
        b"<xml/>",
    ] {
        assert_eq!(parse(body).map(|_| ()), Err(SdpError::NotSdp));
    }
    assert!(!SdpError::NotSdp.is_answerable());
}

#[test]
fn broken_lines_are_answerable_and_named() {
    let table = [
        (&b"v=0\r\ns=-\r\n"[..], SdpError::MissingOrigin),
        (b"v=0\r\no=- 1 IN IP4 h\r\n", SdpError::Value { line: 2, field: 'o' }),
        (
            b"v=0\r\no=- 1 1 IN IP4 h x\r\n",
            SdpError::Value { line: 2, field: 'o' },
        ),
        (b"v=0\r\nnonsense\r\n", SdpError::Line { line: 2 }),
        (b"v=0\r\n\r\ns=a\rb\r\n", SdpError::Line { line: 3 }),
        (b"v=0\r\ns=a\0b\r\n", SdpError::Line { line: 2 }),
    ];
    for (body, error) in table {
        assert_eq!(parse(body).map(|_| ()), Err(error));
        assert!(error.is_answerable());
    }
    let lines = [
        ("c=IN IP4\r\n", 'c'),
        ("c=IN IP4 2001:db8::1\r\n", 'c'),
        ("c=IN IP6 192.0.2.1\r\n", 'c'),
        ("c=ATM IP4 192.0.2.1\r\n", 'c'),
        ("c=IN IP4 a b\r\n", 'c'),
        ("c=IN IP4 bad!host\r\n", 'c'),
        ("m=audio\r\n", 'm'),
        ("m=audio 65536 RTP/AVP 0\r\n", 'm'),
        ("m=audio -1 RTP/AVP 0\r\n", 'm'),
        ("m=audio 1/0 RTP/AVP 0\r\n", 'm'),
        ("m=audio 1 RTP/AVP\r\n", 'm'),
    ];
    for (text, field) in lines {
        let body = with_lines(text);
        assert_eq!(
            parse(&body).map(|_| ()),
            Err(SdpError::Value { line: 5, field }),
            "{text}"
        );
    }
}

#[test]
fn names_and_multicast_addresses_are_told_apart_from_unicast() {
    let body =
        with_lines("c=IN IP4 224.2.1.1/127/3\r\nm=audio 9 RTP/AVP 0\r\nm=audio 9 RTP/AVP 0\r\nc=IN IP4 a.example\r\n");
    let sdp = parse(&body).unwrap();
    assert!(sdp.connection_for(0).unwrap().ip().unwrap().is_multicast());
    assert_eq!(sdp.connection_for(1).unwrap().host, Host::Name("a.example"));
    assert_eq!(sdp.media_address(1), None);
}

#[test]
fn a_broken_rtcp_attribute_leaves_the_next_port() {
    let body = with_lines("c=IN IP4 192.0.2.1\r\nm=audio 65535 RTP/AVP 0\r\na=rtcp:x\r\na=rtcp:9 IN IP4 a.example\r\n");
    assert_eq!(parse(&body).unwrap().media_address(0).unwrap().rtcp.port(), 65535);
}

#[test]
fn limits_hold_and_are_not_answered() {
    let limit = |body: &[u8]| match parse(body) {
        Err(error @ SdpError::TooLarge(limit)) if !error.is_answerable() => limit,
        other => panic!("{other:?}"),
    };
    assert_eq!(limit(&vec![b'a'; MAX_SIZE + 1]), Limit::Size);
    assert_eq!(limit(&with_lines(&"\n".repeat(MAX_LINES))), Limit::Lines);
    assert_eq!(
        limit(&with_lines(&format!("a={}", "x".repeat(MAX_LINE_LENGTH - 1)))),
        Limit::LineLength
    );
    assert_eq!(
        limit(&with_lines(&"m=audio 0 RTP/AVP 0\n".repeat(MAX_MEDIA + 1))),
        Limit::Media
    );
    assert_eq!(
        limit(&with_lines(&"a=x\n".repeat(MAX_ATTRIBUTES + 1))),
        Limit::Attributes
    );
    assert_eq!(
        limit(&with_lines(&format!(
            "m=audio 0 RTP/AVP{}",
            " 0".repeat(MAX_FORMATS + 1)
        ))),
        Limit::Formats
    );
    assert!(parse(&with_lines(&"a=x\n".repeat(MAX_ATTRIBUTES))).is_ok());
    let sections = format!("m=audio 0 RTP/AVP 0\n{}", "a=x\n".repeat(MAX_ATTRIBUTES));
    assert!(parse(&with_lines(&sections.repeat(3))).is_ok());
}

#[test]
fn attributes_are_read_into_types() {
    use TypedAttribute as T;
    assert_eq!(
        typed("rtpmap:96 opus/48000/2"),
        Ok(T::RtpMap(RtpMap {
            payload_type: 96,
            encoding: "opus",
            clock_rate: 48000,
            channels: Some(2)
        }))
    );
    assert_eq!(
        typed("FMTP:96  a=1; b"),
        Ok(T::Fmtp(Fmtp {
            format: "96",
            parameters: "a=1; b"
        }))
    );
    assert_eq!(typed("ptime: 20"), Ok(T::Ptime(20)));
    assert_eq!(typed("maxptime:62.5"), Ok(T::MaxPtime(62)));
    assert_eq!(typed("SendRecv"), Ok(T::Direction(Direction::SendRecv)));
    assert_eq!(typed("rtcp:9"), Ok(T::Rtcp(Rtcp { port: 9, host: None })));
    assert_eq!(typed("rtcp-mux"), Ok(T::RtcpMux));
    assert_eq!(typed("crypto:1 X inline:k"), Ok(T::Crypto("1 X inline:k")));
    assert_eq!(
        typed("candidate:1 1 UDP 2130706431 192.0.2.1 8998 typ host generation 0"),
        Ok(T::Candidate(Candidate {
            foundation: "1",
            component: 1,
            transport: "UDP",
            priority: 2130706431,
            address: "192.0.2.1",
            port: 8998,
            kind: "host"
        }))
    );
    assert_eq!(
        typed("fingerprint:sha-1 4A:AD"),
        Ok(T::Fingerprint(Fingerprint {
            hash: "sha-1",
            value: "4A:AD"
        }))
    );
    assert_eq!(typed("setup:actpass"), Ok(T::Setup(Setup::ActPass)));
    assert_eq!(
        typed("group:LS 1 2"),
        Ok(T::Group(Group {
            semantics: "LS",
            mids: "1 2"
        }))
    );
    assert_eq!(typed("mid:1"), Ok(T::Mid("1")));
    assert_eq!(
        typed("extmap:1/recvonly urn:x y"),
        Ok(T::ExtMap(ExtMap {
            id: 1,
            direction: Some(Direction::RecvOnly),
            uri: "urn:x"
        }))
    );
    assert_eq!(
        typed("ssrc:314 cname:a"),
        Ok(T::Ssrc(Ssrc {
            ssrc: 314,
            attribute: "cname:a"
        }))
    );
    assert_eq!(
        typed("rtcp-fb:* ccm fir"),
        Ok(T::RtcpFeedback(RtcpFeedback {
            payload_type: None,
            feedback: "ccm fir"
        }))
    );
    assert_eq!(typed("label:7"), Ok(T::Label("7")));
    assert_eq!(
        typed("ice-lite"),
        Ok(T::Other(Attribute {
            name: "ice-lite",
            value: None
        }))
    );
}

#[test]
fn broken_attributes_name_themselves() {
    for text in [
        "rtpmap:128 x/1",
        "rtpmap:0 PCMU",
        "rtpmap:0 /8000",
        "fmtp:0",
        "ptime:0",
        "ptime:-1",
        "rtcp:0",
        "rtcp:9 IN IP4",
        "crypto:",
        "candidate:1 1 UDP",
        "fingerprint:sha-1 4",
        "setup:maybe",
        "group:",
        "mid:a b",
        "extmap:0 urn:x",
        "ssrc:-1",
        "rtcp-fb:200 nack",
        "label:",
    ] {
        let name = Attribute::from_text(text).name;
        match typed(text) {
            Err(SdpError::Attribute { name: reported }) => assert_eq!(reported, name),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn directions_reverse_and_intersect() {
    use Direction::{Inactive, RecvOnly, SendOnly, SendRecv};
    assert_eq!(
        [SendRecv, SendOnly, RecvOnly, Inactive].map(Direction::reversed),
        [SendRecv, RecvOnly, SendOnly, Inactive]
    );
    for direction in [SendRecv, SendOnly, RecvOnly, Inactive] {
        assert_eq!(direction.intersect(SendRecv), direction);
        assert_eq!(direction.intersect(Inactive), Inactive);
        assert_eq!(Direction::from_name(direction.name()), Some(direction));
    }
    assert_eq!(SendOnly.intersect(RecvOnly), Inactive);
}

#[test]
fn a_value_never_writes_a_second_line() {
    let mut writer = Writer::default();
    writer
        .raw(b's', b"a\r\nb\0")
        .attribute("x", "y\nm=audio 1 RTP/AVP 0")
        .flag("a\rb");
    assert_eq!(writer.finish(), &b"s=ab\r\na=x:ym=audio 1 RTP/AVP 0\r\na=ab\r\n"[..]);
}

/// Lines that are mostly near to SDP.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]=[ -~]{0,40}",
        "m=(audio|video) [0-9]{1,5}(/2)? (RTP/S?AVPF?|udptl)( [0-9]{1,3}){1,4}",
        "c=IN IP[46] [0-9a-f.:]{1,20}",
        "a=(rtpmap|fmtp|rtcp|crypto|candidate|extmap|ssrc|group|setup|mid|rtcp-fb|ptime|fingerprint):[ -~]{0,30}",
        "a=(sendonly|recvonly|inactive|rtcp-mux)",
        ".{0,30}",
    ]
}

proptest! {
    #[test]
    fn any_octets_are_parsed_without_panic(body in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = parse(&body);
    }

    #[test]
    fn what_parses_is_written_and_parsed_alike(lines in prop::collection::vec(line(), 0..30), crlf: bool) {
        let end = if crlf { "\r\n" } else { "\n" };
        let mut body = format!("v=0{end}o=- 1 1 IN IP4 192.0.2.1{end}");
        for line in &lines {
            body.push_str(line);
            body.push_str(end);
        }
        if let Ok(sdp) = parse(body.as_bytes()) {
            for index in 0..=sdp.media().len() {
                let _ = (sdp.direction(index), sdp.media_address(index), sdp.bandwidth(Some(index)).count());
                for attribute in sdp.media_attributes(index).chain(sdp.attributes()) {
                    let _ = attribute.typed();
                }
            }
            let written = sdp.to_bytes();
            let again = parse(&written).unwrap();
            prop_assert_eq!(again.lines(), sdp.lines());
            prop_assert_eq!(again.media().len(), sdp.media().len());
            prop_assert_eq!(again.to_bytes(), written.clone());
            if crlf && !lines.iter().any(String::is_empty) {
                prop_assert_eq!(&written[..], body.as_bytes());
            }
        }
    }

    #[test]
    fn any_attribute_is_read_without_panic(text in "\\PC{0,60}") {
        let _ = Attribute::from_text(&text).typed();
    }
}
