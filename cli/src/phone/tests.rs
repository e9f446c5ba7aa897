//! Phones against a stateless record-routing proxy with a registrar, over real sockets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::BytesMut;
use rustls::ServerConfig;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use trunkline_media::SrtpSuite;
use trunkline_sip::digest::{DigestServer, NonceKey, Outcome, ReplayGuard, Role, ha1};
use trunkline_sip::edit::Edits;
use trunkline_sip::header::{Contact, Expires};
use trunkline_sip::message::Message;
use trunkline_sip::parse::{Framing, Limits, Parsed, parse};
use trunkline_sip::stream::{Frame, Framer};
use trunkline_sip::uri::Uri;
use trunkline_sip::write::ViaStamp;

use super::audio::{Audio, Ports};
use super::session::{Offer, answer};
use super::*;

const PASSWORD: &str = "correct horse";
const TALK: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// Registrar, and the decisions of the proxy.
struct Registrar {
    contacts: HashMap<String, (SocketAddr, String)>,
    digest: DigestServer,
    key: NonceKey,
    replays: ReplayGuard,
    /// Users that authenticated, in order.
    seen: Vec<(Method, String)>,
}

impl Registrar {
    fn new() -> Self {
        Self {
            contacts: HashMap::new(),
            digest: DigestServer::new("test", Role::UserAgent),
            key: NonceKey::new([7; 32]),
            replays: ReplayGuard::new(1000),
            seen: Vec::new(),
        }
    }

    /// The answer to a request that is not to be forwarded.
    fn answer(&mut self, request: &Request, source: SocketAddr) -> Option<Bytes> {
        if request.to_tag().is_some() || *request.method() == Method::Ack {
            return None;
        }
        let lookup = |user: &str, algorithm| Some(ha1(algorithm, user, "test", PASSWORD));
        let now = SystemTime::now();
        match self.digest.verify(request, &self.key, now, &mut self.replays, lookup) {
            Outcome::Ok(user) => self.seen.push((request.method().clone(), user.username().to_owned())),
            _ => {
                let mut builder = respond(request, StatusCode::UNAUTHORIZED, source);
                for challenge in self.digest.challenges(&self.key, now, &mut rand::rng(), false) {
                    builder = builder.header(HeaderName::WwwAuthenticate, challenge);
                }
                return Some(builder.build().unwrap());
            }
        }
        match request.method() {
            Method::Register => Some(self.register(request, source)),
            _ if self.contacts.contains_key(user(&request.uri())) => None,
            _ => Some(respond(request, StatusCode::NOT_FOUND, source).build().unwrap()),
        }
    }

    fn register(&mut self, request: &Request, source: SocketAddr) -> Bytes {
        let Some(Ok(Contact::Address(contact))) = request.contacts().next() else {
            panic!("a REGISTER has a Contact")
        };
        let expires = request.typed::<Expires>().unwrap().unwrap().0;
        let mut builder = respond(request, StatusCode::OK, source);
        let user = user(&request.to().uri()).to_owned();
        if expires == 0 {
            self.contacts.remove(&user);
        } else {
            let uri = contact.uri().as_str();
            builder = builder.header(
                HeaderName::Contact,
                format_args!("<{uri}>;expires={}", expires.min(120)),
            );
            self.contacts.insert(user, (source, uri.to_owned()));
        }
        builder.build().unwrap()
    }
}

fn respond(request: &Request, status: StatusCode, source: SocketAddr) -> ResponseBuilder<'_> {
    ResponseBuilder::new(request, status)
        .to_tag("edge")
        .stamp_via(ViaStamp::for_source(&request.top_via(), source))
}

fn user<'a>(uri: &Uri<'a>) -> &'a str {
    uri.user().unwrap()
}

/// A proxy on one UDP socket. `lose` picks messages that are lost the first time they come.
struct Proxy {
    socket: UdpSocket,
    address: SocketAddr,
    registrar: Registrar,
    lose: fn(&Message) -> bool,
    lost: Vec<Bytes>,
}

impl Proxy {
    async fn bind(lose: fn(&Message) -> bool) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        Self {
            socket,
            address,
            registrar: Registrar::new(),
            lose,
            lost: Vec::new(),
        }
    }

    /// Serves until `done` is.
    async fn serve<T>(&mut self, done: impl Future<Output = T>) -> T {
        let mut done = std::pin::pin!(done);
        loop {
            let mut buffer = vec![0; 65_535];
            let (length, source) = tokio::select! {
                value = &mut done => return value,
                received = self.socket.recv_from(&mut buffer) => received.unwrap(),
            };
            buffer.truncate(length);
            let Parsed::Understood(message) = parse(buffer.into(), Framing::Datagram, &Limits::default()) else {
                panic!("the phones write good messages")
            };
            if (self.lose)(&message) && !self.lost.contains(message.bytes()) {
                self.lost.push(message.bytes().clone());
                continue;
            }
            self.pass(&message, source).await;
        }
    }

    async fn pass(&mut self, message: &Message, source: SocketAddr) {
        let mut edits = Edits::new();
        let to = match message {
            Message::Response(response) => {
                let via = response.vias().nth(1).unwrap().unwrap();
                edits.pop_via();
                SocketAddr::new(via.received().unwrap(), via.rport().unwrap())
            }
            Message::Request(request) => {
                if request.to_tag() == Some("edge") {
                    return;
                }
                if let Some(answer) = self.registrar.answer(request, source) {
                    self.socket.send_to(&answer, source).await.unwrap();
                    return;
                }
                let branch = request.branch().unwrap();
                edits
                    .stamp_via(ViaStamp::for_source(&request.top_via(), source))
                    .decrement_max_forwards();
                edits.push_via(format_args!("SIP/2.0/UDP {};branch={branch}p", self.address));
                if request.to_tag().is_some() {
                    edits.pop_route();
                    let uri = request.uri();
                    let sip = uri.sip().unwrap();
                    SocketAddr::new(sip.host().ip().unwrap(), sip.port().unwrap())
                } else {
                    let (to, contact) = &self.registrar.contacts[user(&request.uri())];
                    edits
                        .record_route(format_args!("<sip:{};lr>", self.address))
                        .request_uri(contact);
                    *to
                }
            }
        };
        let mut out = BytesMut::new();
        edits.write(message, &mut out).unwrap();
        self.socket.send_to(&out, to).await.unwrap();
    }
}

fn account(user: &str, password: &str) -> Account {
    Account {
        user: user.into(),
        password: Secret::new(password.into()),
    }
}

async fn phone(user: &str, proxy: &Proxy) -> Phone {
    Phone::open(account(user, PASSWORD), &Server::Udp(proxy.address))
        .await
        .unwrap()
}

async fn talk_over(duration: Duration, lose: fn(&Message) -> bool) -> (CallReport, CallReport, Proxy) {
    let mut proxy = Proxy::bind(lose).await;
    let (mut alice, mut bob) = (phone("alice", &proxy).await, phone("bob", &proxy).await);
    let script = async {
        for phone in [&mut alice, &mut bob] {
            let registered = phone.register(Duration::from_secs(300)).await.unwrap();
            assert_eq!(
                (registered.algorithm, registered.expires.as_secs()),
                (Some(Algorithm::Sha256), 120)
            );
        }
        let out = Talk {
            send: 440.0,
            expect: 620.0,
            duration,
        };
        let back = Talk {
            send: 620.0,
            expect: 440.0,
            duration,
        };
        let (over, hung_up) = oneshot::channel::<()>();
        let calling = async {
            let called = alice.call("bob", &out).await;
            drop(over);
            called
        };
        let answering = async {
            let answered = bob.answer(&back, PATIENCE).await?;
            bob.attend(hung_up).await.map(|()| answered)
        };
        let ends = tokio::try_join!(calling, answering).unwrap();
        for phone in [&mut alice, &mut bob] {
            phone.unregister().await.unwrap();
        }
        ends
    };
    let (called, answered) = proxy.serve(script).await;
    (called, answered, proxy)
}

fn assert_heard(report: &CallReport) {
    let audio = &report.audio;
    assert_eq!((audio.codec, audio.suite, audio.rejected), ("PCMU", None, 0));
    assert!(audio.received > 40 && audio.reports > 0, "{audio:?}");
    assert!(audio.heard.blocks >= 8 && audio.heard.own == 0, "{audio:?}");
    assert!(audio.heard.expected + 1 >= audio.heard.blocks, "{audio:?}");
}

#[tokio::test]
async fn two_phones_register_call_and_hear_each_other() {
    let (called, answered, proxy) = talk_over(TALK, |_| false).await;
    assert_eq!(called.call_id, answered.call_id);
    assert!(called.ringing.unwrap() <= called.setup);
    assert_heard(&called);
    assert_heard(&answered);
    assert!(proxy.registrar.contacts.is_empty(), "both are unregistered");
    let [alice, bob] = ["alice", "bob"].map(|user| (Method::Register, user.to_owned()));
    let invite = (Method::Invite, "alice".to_owned());
    assert_eq!(proxy.registrar.seen, [alice.clone(), bob.clone(), invite, alice, bob]);
}

#[tokio::test]
async fn every_message_of_a_call_may_be_lost_once() {
    // Long enough for the second ACK, which comes with the third 200, 1.5 s after the first.
    let (called, answered, proxy) = talk_over(3 * TALK, |message| match message {
        Message::Request(request) => matches!(request.method(), Method::Invite | Method::Ack | Method::Bye),
        Message::Response(response) => response.status().is_success(),
    })
    .await;
    assert_heard(&called);
    assert_heard(&answered);
    assert!(proxy.lost.len() >= 6, "INVITE twice, 200, ACK, BYE and its 200");
}

#[tokio::test]
async fn a_wrong_password_is_called_that() {
    let mut proxy = Proxy::bind(|_| false).await;
    let mut phone = Phone::open(account("alice", "wrong"), &Server::Udp(proxy.address))
        .await
        .unwrap();
    let error = proxy.serve(phone.register(TALK)).await.unwrap_err();
    assert!(matches!(error, PhoneError::Credentials { realm } if realm == "test"));
}

#[tokio::test]
async fn a_call_to_nobody_is_refused_with_the_servers_words() {
    let mut proxy = Proxy::bind(|_| false).await;
    let mut phone = phone("alice", &proxy).await;
    let talk = Talk {
        send: 440.0,
        expect: 620.0,
        duration: TALK,
    };
    let error = proxy.serve(phone.call("nobody", &talk)).await.unwrap_err();
    assert_eq!(error.to_string(), "INVITE was refused with 404 Not Found");
}

#[tokio::test]
async fn a_call_that_never_comes_is_waited_for_no_longer_than_asked() {
    let mut proxy = Proxy::bind(|_| false).await;
    let mut phone = phone("bob", &proxy).await;
    let talk = Talk {
        send: 440.0,
        expect: 620.0,
        duration: TALK,
    };
    let error = proxy
        .serve(phone.answer(&talk, Duration::from_millis(50)))
        .await
        .unwrap_err();
    assert!(matches!(error, PhoneError::Missing { what: "call", .. }));
}

/// Answers the requests of one TLS connection, and pings it before every answer.
async fn serve_tls(listener: TcpListener, config: Arc<ServerConfig>) {
    let (connection, source) = listener.accept().await.unwrap();
    let Ok(mut stream) = TlsAcceptor::from(config).accept(connection).await else {
        return;
    };
    let mut registrar = Registrar::new();
    let mut framer = Framer::new(Limits::default());
    let mut buffer = BytesMut::new();
    loop {
        buffer.clear();
        if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
            return;
        }
        framer.push(&buffer);
        while let Some(frame) = framer.poll().unwrap() {
            let Frame::Message(bytes) = frame else { continue };
            let Parsed::Understood(Message::Request(request)) = parse(bytes, Framing::Stream, &Limits::default())
            else {
                panic!("the phone writes good requests")
            };
            let answer = registrar.answer(&request, source).unwrap();
            stream.write_all(b"\r\n\r\n").await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    }
}

#[tokio::test]
async fn over_tls_a_phone_registers_only_with_a_server_its_authority_vouches_for() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![made.cert.der().clone()],
            PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into(),
        )
        .unwrap();
    let config = Arc::new(config);
    for (authority, accepted) in [(made.cert.pem(), true), (other.cert.pem(), false)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, authority).unwrap();
        let server = Server::Tls(address, tls_config(&file).unwrap());
        let serving = tokio::spawn(serve_tls(listener, config.clone()));
        match Phone::open(account("alice", PASSWORD), &server).await {
            Ok(mut phone) => {
                assert!(accepted);
                let registered = phone.register(Duration::from_secs(60)).await.unwrap();
                assert_eq!(registered.algorithm, Some(Algorithm::Sha256));
                phone.unregister().await.unwrap();
            }
            Err(error) => {
                assert!(!accepted && matches!(error, PhoneError::Connect { .. }), "{error:?}");
            }
        }
        serving.await.unwrap();
    }
    std::fs::write(directory.path().join("empty.pem"), "").unwrap();
    assert!(tls_config(&directory.path().join("empty.pem")).is_err());
}

#[tokio::test]
async fn srtp_carries_the_tones_and_a_wrong_key_carries_nothing() {
    let ip = std::net::Ipv4Addr::LOCALHOST.into();
    let (one, other) = (Ports::bind(ip).await.unwrap(), Ports::bind(ip).await.unwrap());
    assert!(one.address().port().is_multiple_of(2));
    let offer = Offer::new(one.address(), true, &mut rand::rng());
    let (body, mut callee) = answer(other.address(), true, &offer.body, &mut rand::rng()).unwrap();
    let caller = offer.answered(&body).unwrap();
    let stranger = Offer::new(one.address(), true, &mut rand::rng());
    let (_, wrong) = answer(other.address(), true, &stranger.body, &mut rand::rng()).unwrap();
    callee.keys.as_mut().unwrap().receive = wrong.keys.unwrap().receive;
    let mut caller = Audio::start(one, caller, 440.0, 620.0);
    let mut callee = Audio::start(other, callee, 620.0, 440.0);
    let end = Instant::now() + TALK;
    while Instant::now() < end {
        tokio::select! {
            step = caller.step() => step.unwrap(),
            step = callee.step() => step.unwrap(),
        }
    }
    let (caller, callee) = (caller.finish(), callee.finish());
    assert_eq!(caller.suite, Some(SrtpSuite::AesCm128HmacSha1_80));
    assert!(
        caller.received > 40 && caller.rejected == 0 && caller.heard.expected >= 8,
        "{caller:?}"
    );
    assert!(
        callee.received == 0 && callee.rejected > 40 && callee.heard.blocks == 0,
        "{callee:?}"
    );
}
