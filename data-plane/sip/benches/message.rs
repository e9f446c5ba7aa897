//! What a message costs before anybody decides about it: read, passed on, its credentials checked.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use rand::SeedableRng;
use rand::rngs::StdRng;
use trunkline_sip::digest::{Algorithm, ClientDigest, DigestServer, NonceKey, Outcome, ReplayGuard, Role, ha1};
use trunkline_sip::edit::Edits;
use trunkline_sip::message::{Message, Request};
use trunkline_sip::method::Method;
use trunkline_sip::parse::{Framing, Limits, Parsed, parse, peek_call_id};
use trunkline_sip::status::StatusCode;
use trunkline_sip::write::{ResponseBuilder, ViaStamp};

const REGISTER: &str = "REGISTER sip:192.0.2.1:8060 SIP/2.0\r\n\
Via: SIP/2.0/UDP 198.51.100.10:5060;rport;branch=z9hG4bK-24678-19310-2\r\n\
Max-Forwards: 70\r\nFrom: <sip:u09309@phones.test>;tag=24678R19310\r\nTo: <sip:u09309@phones.test>\r\n\
Call-ID: 19310-24678@198.51.100.10\r\nCSeq: 2 REGISTER\r\nContact: <sip:u09309@198.51.100.10:5060>\r\n\
Expires: 600\r\nUser-Agent: load-test\r\nContent-Length: 0\r\n\r\n";

const INVITE: &str = "INVITE sip:callee@192.0.2.1:8060 SIP/2.0\r\n\
Via: SIP/2.0/UDP 198.51.100.10:5060;rport;branch=z9hG4bK-24678-1-0\r\nMax-Forwards: 70\r\n\
From: \"Alice\" <sip:alice@phones.test>;tag=24678C1\r\nTo: <sip:callee@phones.test>\r\nCall-ID: 1-24678@198.51.100.10\r\n\
CSeq: 1 INVITE\r\nContact: <sip:alice@198.51.100.10:5060>\r\nUser-Agent: load-test\r\n\
Allow: INVITE, ACK, BYE, CANCEL, OPTIONS\r\nSupported: timer, replaces\r\nContent-Type: application/sdp\r\n\
Content-Length: 142\r\n\r\n\
v=0\r\no=- 1 1 IN IP4 198.51.100.10\r\ns=-\r\nc=IN IP4 198.51.100.10\r\nt=0 0\r\nm=audio 40000 RTP/AVP 8 0\r\n\
a=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n";

fn main() {
    divan::main();
}

fn request(text: &'static str) -> Request {
    understood(Bytes::from_static(text.as_bytes()))
}

fn understood(bytes: Bytes) -> Request {
    match parse(bytes, Framing::Datagram, &Limits::default()) {
        Parsed::Understood(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// The header table and what selects a transaction.
#[divan::bench(args = [REGISTER, INVITE])]
fn parse_request(bencher: Bencher<'_, '_>, text: &'static str) {
    let bytes = Bytes::from_static(text.as_bytes());
    bencher
        .counter(BytesCount::of_str(text))
        .bench(|| understood(black_box(bytes.clone())));
}

/// What chooses the shard.
#[divan::bench]
fn peek() -> Option<usize> {
    peek_call_id(black_box(INVITE.as_bytes())).map(<[u8]>::len)
}

/// An INVITE as it leaves: Via, Record-Route, Max-Forwards, Request-URI.
#[divan::bench]
fn forward(bencher: Bencher<'_, '_>) {
    let request = request(INVITE);
    let stamp = ViaStamp::forced("198.51.100.10:5060".parse().expect("an address"));
    bencher.bench(|| {
        let mut edits = Edits::new();
        edits
            .stamp_via(stamp)
            .push_via("SIP/2.0/UDP 192.0.2.1:8060;branch=z9hG4bKdeadbeefdeadbeef")
            .decrement_max_forwards()
            .request_uri("sip:callee@198.51.100.20:5060")
            .record_route("<sip:token@192.0.2.1:8060;lr>");
        let mut out = BytesMut::new();
        edits.write_request(black_box(&request), &mut out).expect("written");
        out
    });
}

/// A 200 to a REGISTER.
#[divan::bench]
fn respond(bencher: Bencher<'_, '_>) {
    let request = request(REGISTER);
    let stamp = ViaStamp::forced("198.51.100.10:5060".parse().expect("an address"));
    bencher.bench(|| {
        ResponseBuilder::new(black_box(&request), StatusCode::OK)
            .stamp_via(stamp)
            .to_tag("deadbeefdeadbeef")
            .build()
            .expect("written")
    });
}

/// Credentials checked, replay guard included.
#[divan::bench(args = [Algorithm::Md5, Algorithm::Sha256])]
fn digest(bencher: Bencher<'_, '_>, algorithm: Algorithm) {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let key = NonceKey::new([7; 32]);
    let server = DigestServer::new("phones.test", Role::UserAgent).with_algorithms([algorithm]);
    let mut rng = StdRng::seed_from_u64(1);
    let challenge = server.challenges(&key, wall, &mut rng, false).remove(0);
    let refused = ResponseBuilder::new(&request(REGISTER), StatusCode::UNAUTHORIZED)
        .to_tag("1")
        .header("WWW-Authenticate", challenge)
        .build()
        .expect("written");
    let Parsed::Understood(Message::Response(refused)) = parse(refused, Framing::Datagram, &Limits::default()) else {
        panic!("the challenge cannot be read");
    };
    let mut client = ClientDigest::from_challenge(&refused).expect("a challenge");
    let uri = "sip:192.0.2.1:8060";
    let (name, value) = client.authorize("u09309", "secret", &Method::Register, uri, &mut rng);
    let text = REGISTER.replace("Expires:", &format!("{name}: {value}\r\nExpires:"));
    let request = understood(text.into());
    let secret = ha1(algorithm, "u09309", "phones.test", "secret");
    bencher.bench_local(|| {
        // A new guard each time, or all but the first would be replays.
        let mut guard = ReplayGuard::new(1);
        let outcome = server.verify(black_box(&request), &key, wall, &mut guard, |_, _| Some(secret.clone()));
        assert!(matches!(outcome, Outcome::Ok(_)), "{outcome:?}");
    });
}
