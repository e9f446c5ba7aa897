use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::header::HeaderName;
use crate::message::Request;
use crate::method::Method;
use crate::parse::tests::{request, response as sip_response};

const REALM: &str = "edge.example.com";

fn rng() -> StdRng {
    StdRng::seed_from_u64(7)
}

fn wall(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
}

fn key() -> NonceKey {
    NonceKey::new([7; 32])
}

fn register(authorization: &str) -> Request {
    let line = if authorization.is_empty() {
        String::new()
    } else {
        format!("Authorization: {authorization}\n")
    };
    request(&format!(
        "REGISTER sip:edge.example.com SIP/2.0\nVia: SIP/2.0/UDP a\nFrom: <sip:a@b>;tag=1\nTo: <sip:a@b>\nCall-ID: 1\n\
         CSeq: 1 REGISTER\n{line}\n"
    ))
}

fn lookup(user: &str, algorithm: Algorithm) -> Option<Ha1> {
    (user == "alice").then(|| ha1(algorithm, "alice", REALM, "secret"))
}

fn server() -> DigestServer {
    DigestServer::new(REALM, Role::UserAgent)
}

/// A client that has read a challenge made at `at`.
fn client(server: &DigestServer, at: SystemTime) -> ClientDigest {
    let challenges = server.challenges(&key(), at, &mut rng(), false);
    challenged(
        &challenges
            .iter()
            .map(|value| format!("WWW-Authenticate: {value}\n"))
            .collect::<String>(),
    )
    .unwrap()
}

fn challenged(lines: &str) -> Result<ClientDigest, ChallengeError> {
    ClientDigest::from_challenge(&sip_response(&format!(
        "SIP/2.0 401 Unauthorized\nVia: SIP/2.0/UDP a\nFrom: <sip:a@b>;tag=1\nTo: <sip:a@b>;tag=2\nCall-ID: 1\nCSeq: 1 REGISTER\n{lines}\n"
    )))
}

fn authorize(client: &mut ClientDigest, user: &str, password: &str) -> String {
    let (name, value) = client.authorize(user, password, &Method::Register, "sip:edge.example.com", &mut rng());
    assert_eq!(name, HeaderName::Authorization);
    value
}

fn verify(authorization: &str, at: SystemTime, replays: &mut ReplayGuard) -> Outcome {
    server().verify(&register(authorization), &key(), at, replays, lookup)
}

#[test]
fn rfc_7616_3_9_1_vectors() {
    for (algorithm, expected) in [
        (Algorithm::Md5, "8ca523f5e9506fed4657c9700eebdbec"),
        (
            Algorithm::Sha256,
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
        ),
    ] {
        let secret = ha1(algorithm, "Mufasa", "http-auth@example.org", "Circle of Life");
        let input = ResponseInput {
            nonce: "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
            count: Some(("00000001", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")),
            method: "GET",
            uri: "/dir/index.html",
        };
        assert_eq!(response(&secret, &input).as_str(), expected);
    }
}

/// RFC 7616 §3.9.2 with the response of erratum 4897; the printed one was made with SHA-512 cut short.
#[test]
fn rfc_7616_3_9_2_vector_as_corrected() {
    let secret = ha1(
        Algorithm::Sha512_256,
        "J\u{e4}s\u{f8}n Doe",
        "api@example.org",
        "Secret, or not?",
    );
    let input = ResponseInput {
        nonce: "5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK",
        count: Some(("00000001", "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v")),
        method: "GET",
        uri: "/doe.json",
    };
    let expected = "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5";
    assert_eq!(response(&secret, &input).as_str(), expected);
}

/// RFC 2617 §3.5.
#[test]
fn rfc_2617_3_5_vector() {
    let secret = ha1(Algorithm::Md5, "Mufasa", "testrealm@host.com", "Circle Of Life");
    assert_eq!(secret.expose_hex(), "939e7578ed9e3c518a452acee763bce9");
    let nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093";
    let count = Some(("00000001", "0a4f113b"));
    let input = ResponseInput {
        nonce,
        count,
        method: "GET",
        uri: "/dir/index.html",
    };
    assert_eq!(response(&secret, &input).as_str(), "6629fae49393a05397450978507c4ef1");
}

#[test]
fn challenges_offer_sha_256_then_md5_with_one_nonce() {
    let challenges = server().challenges(&key(), wall(0), &mut rng(), true);
    assert_eq!(challenges.len(), 2);
    assert!(
        challenges[0].contains("algorithm=SHA-256, qop=\"auth\", stale=true"),
        "{}",
        challenges[0]
    );
    assert!(challenges[1].contains("algorithm=MD5"), "{}", challenges[1]);
    let nonce = |value: &str| {
        value
            .split("nonce=\"")
            .nth(1)
            .unwrap()
            .split('"')
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(nonce(&challenges[0]), nonce(&challenges[1]));
    assert_eq!(nonce(&challenges[0]).len(), 43);
    let awkward = DigestServer::new("a\"b\\c", Role::Proxy).challenges(&key(), wall(0), &mut rng(), false);
    assert!(
        awkward[0].starts_with("Digest realm=\"a\\\"b\\\\c\", "),
        "{}",
        awkward[0]
    );
}

#[test]
fn every_algorithm_we_accept_authenticates() {
    for algorithm in [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256] {
        let offering = DigestServer::new(REALM, Role::UserAgent).with_algorithms([algorithm]);
        let mut client = client(&offering, wall(0));
        let authorization = authorize(&mut client, "alice", "secret");
        let Outcome::Ok(proof) = verify(&authorization, wall(1), &mut ReplayGuard::new(8)) else {
            panic!("{authorization}")
        };
        assert_eq!((proof.username(), proof.algorithm()), ("alice", algorithm));
    }
}

#[test]
fn a_client_counts_and_a_repetition_is_refused() {
    let mut replays = ReplayGuard::new(8);
    let mut client = client(&server(), wall(0));
    assert_eq!(client.algorithm(), Algorithm::Sha256);
    let first = authorize(&mut client, "alice", "secret");
    let second = authorize(&mut client, "alice", "secret");
    assert!(first.contains("nc=00000001") && second.contains("nc=00000002"));
    assert!(matches!(verify(&second, wall(1), &mut replays), Outcome::Ok(_)));
    assert!(
        matches!(verify(&first, wall(1), &mut replays), Outcome::Ok(_)),
        "datagrams may overtake each other"
    );
    for again in [&first, &second] {
        assert_eq!(
            verify(again, wall(2), &mut replays),
            Outcome::Replay {
                username: "alice".into()
            }
        );
    }
}

#[test]
fn wrong_credentials_are_told_apart() {
    let mut replays = ReplayGuard::new(8);
    let good = authorize(&mut client(&server(), wall(0)), "alice", "secret");
    let mut check = |authorization: &str| verify(authorization, wall(1), &mut replays);
    let wrong = authorize(&mut client(&server(), wall(0)), "alice", "guess");
    assert_eq!(
        check(&wrong),
        Outcome::BadCredentials {
            username: "alice".into()
        }
    );
    let unknown = authorize(&mut client(&server(), wall(0)), "Alice", "secret");
    assert_eq!(
        check(&unknown),
        Outcome::UnknownUser {
            username: "Alice".into()
        }
    );
    assert_eq!(check(""), Outcome::Missing);
    assert_eq!(check("Basic YTpi"), Outcome::Missing);
    assert_eq!(check(&good.replace(REALM, "elsewhere")), Outcome::Missing);
    for (from, to, reason) in [
        ("qop=auth", "qop=auth-int", "qop was not offered"),
        ("nc=00000001", "nc=1", "nc is not eight hexadecimal digits above 0"),
        (
            "nc=00000001",
            "nc=00000000",
            "nc is not eight hexadecimal digits above 0",
        ),
        (
            "nc=00000001",
            "nc=+0000001",
            "nc is not eight hexadecimal digits above 0",
        ),
        ("SHA-256", "SHA-1", "algorithm was not offered"),
        ("SHA-256", "MD5", "response has the wrong length"),
        (
            "algorithm=SHA-256",
            "userhash=true, algorithm=SHA-256",
            "userhash is not offered",
        ),
        ("username=\"alice\"", "user=\"alice\"", "username is missing"),
        (
            "uri=\"sip:edge.example.com\"",
            "uri=\"sip:bob@edge.example.com\"",
            "digest uri names another resource",
        ),
        (
            "uri=\"sip:edge.example.com\"",
            "uri=\"\"",
            "digest uri names another resource",
        ),
        ("qop=auth", "qop=\"auth", "credentials do not parse"),
    ] {
        assert!(good.contains(from), "{from}");
        assert_eq!(
            check(&good.replacen(from, to, 1)),
            Outcome::Malformed(reason),
            "{from} became {to}"
        );
    }
    assert!(
        matches!(check(&good), Outcome::Ok(_)),
        "failures used no nonce count up"
    );
}

#[test]
fn only_what_is_offered_is_accepted() {
    let strict = DigestServer::new(REALM, Role::UserAgent).with_algorithms([Algorithm::Sha256]);
    let md5 = DigestServer::new(REALM, Role::UserAgent).with_algorithms([Algorithm::Md5]);
    let authorization = authorize(&mut client(&md5, wall(0)), "alice", "secret");
    let outcome = strict.verify(
        &register(&authorization),
        &key(),
        wall(1),
        &mut ReplayGuard::new(8),
        lookup,
    );
    assert_eq!(outcome, Outcome::Malformed("algorithm was not offered"));
}

#[test]
fn nonces_expire_and_belong_to_one_key_and_one_realm() {
    let mut replays = ReplayGuard::new(8);
    let authorization = authorize(&mut client(&server(), wall(0)), "alice", "secret");
    assert_eq!(verify(&authorization, wall(301), &mut replays), Outcome::Stale);
    assert_eq!(
        server().verify(
            &register(&authorization),
            &NonceKey::new([8; 32]),
            wall(1),
            &mut replays,
            lookup
        ),
        Outcome::Stale
    );
    let future = authorize(&mut client(&server(), wall(100)), "alice", "secret");
    assert_eq!(verify(&future, wall(0), &mut replays), Outcome::Stale);
    assert!(
        matches!(verify(&future, wall(80), &mut replays), Outcome::Ok(_)),
        "clocks may differ by seconds"
    );
    let other = key().issue("other", wall(0), &mut rng());
    assert_eq!(key().check(&other, REALM, wall(0), Duration::from_secs(300)), None);
    let ours = key().issue(REALM, wall(0), &mut rng());
    assert!(key().check(&ours, REALM, wall(300), Duration::from_secs(300)).is_some());
    for at in 0..ours.len() {
        let mut forged = ours.clone().into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap();
        assert_eq!(
            key().check(&forged, REALM, wall(0), Duration::from_secs(300)),
            None,
            "byte {at}"
        );
    }
    for junk in ["", "x", &"=".repeat(43), &"\u{e9}".repeat(43), &"A".repeat(5000)] {
        assert_eq!(key().check(junk, REALM, wall(0), Duration::from_secs(300)), None);
    }
}

#[test]
fn a_client_without_qop_gets_in_once_per_nonce() {
    let nonce = key().issue(REALM, wall(0), &mut rng());
    let secret = ha1(Algorithm::Md5, "alice", REALM, "secret");
    let input = ResponseInput {
        nonce: &nonce,
        count: None,
        method: "REGISTER",
        uri: "sip:edge.example.com",
    };
    let answer = response(&secret, &input);
    let authorization = format!(
        "Digest username=\"alice\", realm=\"{REALM}\", nonce=\"{nonce}\", uri=\"sip:edge.example.com\", response=\"{}\"",
        answer.as_str()
    );
    let mut replays = ReplayGuard::new(8);
    assert!(matches!(verify(&authorization, wall(1), &mut replays), Outcome::Ok(_)));
    assert_eq!(
        verify(&authorization, wall(1), &mut replays),
        Outcome::Replay {
            username: "alice".into()
        }
    );
}

#[test]
fn the_digest_uri_may_differ_in_parameters_and_port() {
    let mut client = client(&server(), wall(0));
    let uri = "sip:EDGE.example.com:5060;transport=tcp";
    let (_, value) = client.authorize("alice", "secret", &Method::Register, uri, &mut rng());
    assert!(matches!(
        verify(&value, wall(1), &mut ReplayGuard::new(8)),
        Outcome::Ok(_)
    ));
}

#[test]
fn the_client_takes_the_first_challenge_it_can_answer() {
    let lines = "WWW-Authenticate: Basic realm=\"a\"\n\
                 WWW-Authenticate: Digest realm=\"a\", nonce=\"n\", algorithm=SHA-256-sess, qop=\"auth\"\n\
                 WWW-Authenticate: Digest realm=\"a\", nonce=\"n\", algorithm=SHA-256, qop=\"auth-int\"\n\
                 WWW-Authenticate: Digest realm=\"a\\\"b\", nonce=\"n\", opaque=\"o\", qop=\"auth-int,auth\", stale=TRUE\n\
                 WWW-Authenticate: Digest realm=\"a\", nonce=\"n\", algorithm=SHA-256, qop=\"auth\"\n";
    let mut client = challenged(lines).unwrap();
    assert_eq!(
        (client.algorithm(), client.is_stale(), client.realm()),
        (Algorithm::Md5, true, "a\\\"b")
    );
    let value = authorize(&mut client, "al\"ice", "x");
    assert!(
        value.contains("username=\"al\\\"ice\"")
            && value.contains("opaque=\"o\"")
            && value.contains("realm=\"a\\\"b\"")
    );
    assert_eq!(challenged("").unwrap_err(), ChallengeError::NoneSupported);
    let busy = "SIP/2.0 486 Busy\nVia: SIP/2.0/UDP a\nFrom: <sip:a@b>;tag=1\nTo: <sip:a@b>;tag=2\nCall-ID: 1\nCSeq: 1 INVITE\n\n";
    assert_eq!(
        ClientDigest::from_challenge(&sip_response(busy)).unwrap_err(),
        ChallengeError::NotAChallenge
    );
}

#[test]
fn proxy_credentials_stand_in_their_own_header() {
    let proxy = DigestServer::new(REALM, Role::Proxy);
    assert_eq!(
        (proxy.role().status().as_u16(), proxy.role().challenge_header()),
        (407, HeaderName::ProxyAuthenticate)
    );
    let authorization = authorize(&mut client(&server(), wall(0)), "alice", "secret");
    let mut replays = ReplayGuard::new(8);
    assert_eq!(
        proxy.verify(&register(&authorization), &key(), wall(1), &mut replays, lookup),
        Outcome::Missing
    );
    let moved = register(&authorization).bytes().to_vec();
    let moved = String::from_utf8(moved)
        .unwrap()
        .replace("\r\n", "\n")
        .replace("Authorization:", "Proxy-Authorization:");
    let outcome = proxy.verify(&request(&moved), &key(), wall(1), &mut replays, lookup);
    assert!(matches!(outcome, Outcome::Ok(_)), "{outcome:?}");
}

#[test]
fn secrets_do_not_show() {
    let secret = ha1(Algorithm::Md5, "alice", REALM, "secret");
    let mut client = client(&server(), wall(0));
    authorize(&mut client, "alice", "secret");
    let shown = format!("{secret:?} {:?} {client:?}", key());
    assert!(
        !shown.contains(secret.expose_hex()) && !shown.contains("7, 7") && !shown.contains("nonce"),
        "{shown}"
    );
    assert!(Ha1::from_hex(Algorithm::Md5, secret.expose_hex()).is_some());
    for bad in ["", "zz", &"a".repeat(31), &"a".repeat(64), &"\u{e9}".repeat(16)] {
        assert!(Ha1::from_hex(Algorithm::Md5, bad).is_none(), "{bad}");
    }
}
