//! Digest authentication: credentials and challenges made of anything are refused or answered, never believed.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use trunkline_sip::digest::{Algorithm, ClientDigest, DigestServer, NonceKey, Outcome, ReplayGuard, Role, ha1};
use trunkline_sip::header::{AuthScheme, HeaderName};
use trunkline_sip::message::{Message, Request, Response};
use trunkline_sip::method::Method;
use trunkline_sip::parse::{Framing, Limits, Parsed, parse};

const REALM: &str = "fuzz.example";
const PASSWORD: &str = "correct horse";

/// The input is the value of an Authorization, then of a WWW-Authenticate field.
pub fn run(data: &[u8]) {
    let server = DigestServer::new(REALM, Role::UserAgent);
    let key = NonceKey::new([7; 32]);
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let mut replays = ReplayGuard::new(16);
    let mut rng = StdRng::seed_from_u64(1);
    if let Some(request) = register(HeaderName::Authorization.as_str(), data) {
        let outcome = server.verify(&request, &key, wall, &mut replays, |user, algorithm| {
            Some(ha1(algorithm, user, REALM, PASSWORD))
        });
        assert!(
            !matches!(outcome, Outcome::Ok(_)),
            "nobody can know a nonce of this key"
        );
    }
    if let Some(challenge) = unauthorized(data) {
        answers_challenge(&challenge, &mut rng);
    }
    round_trip(data, &server, &key, wall, &mut rng);
}

/// A REGISTER with one more field; `None` when the value cannot stand in a message.
fn register(name: &str, value: &[u8]) -> Option<Request> {
    let mut bytes = b"REGISTER sip:fuzz.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nFrom: <sip:a@fuzz.example>;tag=1\r\n\
        To: <sip:a@fuzz.example>\r\nCall-ID: 1\r\nCSeq: 1 REGISTER\r\n"
        .to_vec();
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(b": ");
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(b"\r\n\r\n");
    match parse(Bytes::from(bytes), Framing::Datagram, &Limits::default()) {
        Parsed::Understood(Message::Request(request)) => Some(request),
        _ => None,
    }
}

fn unauthorized(value: &[u8]) -> Option<Response> {
    let mut bytes = b"SIP/2.0 401 Unauthorized\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nFrom: <sip:a@fuzz.example>;tag=1\r\n\
        To: <sip:a@fuzz.example>;tag=2\r\nCall-ID: 1\r\nCSeq: 1 REGISTER\r\nWWW-Authenticate: "
        .to_vec();
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(b"\r\n\r\n");
    match parse(Bytes::from(bytes), Framing::Datagram, &Limits::default()) {
        Parsed::Understood(Message::Response(response)) => Some(response),
        _ => None,
    }
}

/// Whatever a server asks, the credentials are one well-formed field.
fn answers_challenge(challenge: &Response, rng: &mut StdRng) {
    let Ok(mut client) = ClientDigest::from_challenge(challenge) else {
        return;
    };
    let (field, value) = client.authorize("alice \"x\\", PASSWORD, &Method::Register, "sip:fuzz.example", rng);
    assert_eq!(field, HeaderName::Authorization);
    let auth = AuthScheme::parse(value.as_bytes());
    assert!(
        auth.is_ok_and(|auth| auth.is_digest() && auth.value("response").is_some()),
        "{value}"
    );
    assert!(!value.contains(PASSWORD));
}

/// A client with the password is let in once per count, under any name the input makes; without it, never.
fn round_trip(data: &[u8], server: &DigestServer, key: &NonceKey, wall: SystemTime, rng: &mut StdRng) {
    let Ok(user) = std::str::from_utf8(data) else { return };
    if user.is_empty() || user.len() > 128 || user.chars().any(char::is_control) {
        return;
    }
    let wrong = data.len() % 2 == 1;
    for value in server.challenges(key, wall, rng, false) {
        // The challenges of one response share a nonce, of which a client uses one.
        let mut replays = ReplayGuard::new(16);
        let Some(challenge) = unauthorized(value.as_bytes()) else {
            panic!("our own challenge: {value}")
        };
        let mut client = ClientDigest::from_challenge(&challenge).expect("our own challenge is supported");
        let password = if wrong { "wrong" } else { PASSWORD };
        let (_, credentials) = client.authorize(user, password, &Method::Register, "sip:fuzz.example", rng);
        let Some(request) = register("Authorization", credentials.as_bytes()) else {
            panic!("our own credentials: {credentials}")
        };
        let lookup = |_: &str, algorithm: Algorithm| Some(ha1(algorithm, user, REALM, PASSWORD));
        let first = server.verify(&request, key, wall, &mut replays, lookup);
        match first {
            Outcome::Ok(proof) if !wrong => assert_eq!(proof.username(), user),
            Outcome::BadCredentials { .. } if wrong => continue,
            // The hash covers the name as it was given to it; a name with folding white space does not survive a header.
            Outcome::Malformed(_) => continue,
            other => panic!("{other:?} for {credentials}"),
        }
        let again = server.verify(&request, key, wall, &mut replays, lookup);
        assert!(matches!(again, Outcome::Replay { .. }), "{again:?}");
    }
}
