//! An engine with one trunk, the phones it talks to, and the shared state in plain cells: what a worker would add is left out.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use trunkline_engine::io::{
    Budgets, Contact, Effect, Env, Flow, Listener, Now, RelayCommand, RelayEvent, SessionId, Transport,
};
use trunkline_engine::metrics::Counter;
use trunkline_engine::{Engine, EngineConfig, Gauges};
use trunkline_media::negotiate::{AddressFamily, PortLease, PortsExhausted};
use trunkline_media::relay::PortId;
use trunkline_shared::acl::AccessList;
use trunkline_shared::binding::Aor;
use trunkline_shared::credential::{Credential, Ha1Set};
use trunkline_shared::name::{TrunkId, WorkerId};
use trunkline_shared::property::{CustomProperties, CustomProperty, PropertyValue};
use trunkline_shared::reject::Reject;
use trunkline_shared::snapshot::{Body, Resource, Snapshot};
use trunkline_shared::trunk::Trunk;
use trunkline_sip::digest::{Algorithm, ClientDigest, ReplayGuard, ha1};
use trunkline_sip::header::HeaderName;
use trunkline_sip::message::{Message, Request, Response};
use trunkline_sip::method::Method;
use trunkline_sip::parse::{Framing, Limits, Parsed, parse};
use trunkline_sip::status::StatusCode;
use trunkline_sip::write::ResponseBuilder;

/// Users that register and are called.
const USERS: usize = 1000;
/// What the clock moves on by with every unit. At a thousand a second the table holds as many transactions as a busy shard's.
const STEP: Duration = Duration::from_millis(1);
const EDGE: &str = "192.0.2.1:8060";
const REALM: &str = "phones.test";
const PHONE: &str = "198.51.100.10:5060";
const CALLEE: &str = "198.51.100.20:5060";

const SDP: &str = "v=0\r\no=- 1 1 IN IP4 198.51.100.10\r\ns=-\r\nc=IN IP4 198.51.100.10\r\nt=0 0\r\n\
m=audio 40000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\n";

/// What shards share.
#[derive(Default)]
pub struct Shared {
    contacts: RefCell<HashMap<Aor, Vec<Contact>>>,
    guard: RefCell<Option<ReplayGuard>>,
    ports: Cell<u32>,
    counted: Cell<u64>,
}

impl Budgets for Shared {
    fn take_registration(&self, _trunk: &Trunk, _now: Instant) -> Result<(), Duration> {
        Ok(())
    }

    fn take_call(&self, _trunk: &Trunk, _now: Instant) -> Result<(), Duration> {
        Ok(())
    }

    fn acquire_call_slot(&self, _trunk: &Trunk) -> bool {
        true
    }

    fn release_call_slot(&self, _trunk: &TrunkId) {}
}

impl Env for Shared {
    fn contacts(&self, aor: &Aor) -> Vec<Contact> {
        self.contacts.borrow().get(aor).cloned().unwrap_or_default()
    }

    fn update_contacts(&self, aor: &Aor, change: &mut dyn FnMut(&mut Vec<Contact>) -> bool) {
        change(self.contacts.borrow_mut().entry(aor.clone()).or_default());
    }

    fn lease_ports(
        &self,
        _trunk: &TrunkId,
        local: IpAddr,
        _family: AddressFamily,
    ) -> Result<PortLease, PortsExhausted> {
        let id = self.ports.get();
        self.ports.set(id + 1);
        let port = 16_384 + (id % 8000) as u16 * 2;
        Ok(PortLease {
            id: PortId(id),
            rtp: SocketAddr::new(local, port),
            rtcp: SocketAddr::new(local, port + 1),
        })
    }

    fn release_ports(&self, _ports: PortId) {}

    fn with_replay_guard(&self, check: &mut dyn FnMut(&mut ReplayGuard)) {
        check(self.guard.borrow_mut().get_or_insert_with(|| ReplayGuard::new(100_000)));
    }

    fn count(&self, _counter: Counter) {
        self.counted.set(self.counted.get() + 1);
    }

    fn count_reject(&self, _reject: Reject, _trunk: Option<&TrunkId>) {
        self.counted.set(self.counted.get() + 1);
    }
}

/// The engine, the phones and the clock.
pub struct Bench {
    engine: Engine,
    env: Shared,
    trunk: TrunkId,
    now: Now,
    serial: u64,
    rng: StdRng,
    /// What the engine has sent since it was last looked at: where to, and what.
    sent: Vec<(SocketAddr, Bytes)>,
    closing: Vec<SessionId>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "a starting point; the bench moves the clock by itself"
)]
fn epoch() -> Instant {
    Instant::now()
}

impl Bench {
    /// A trunk with or without digest.
    pub fn new(digest: bool) -> Self {
        let now = Now {
            mono: epoch(),
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        };
        let id = TrunkId::new("main").expect("a trunk id");
        let config = EngineConfig::new(0, WorkerId::new("w1").expect("a worker id"), [7; 32]);
        let mut engine = Engine::new(config, Box::new(StdRng::seed_from_u64(1)));
        engine.set_listeners(Arc::from([Listener {
            trunk: id.clone(),
            transport: Transport::Udp,
            local: address(EDGE),
            advertised: address(EDGE),
        }]));
        engine.set_snapshot(now, Arc::new(snapshot(&id, digest)));
        Self {
            engine,
            env: Shared::default(),
            trunk: id,
            now,
            serial: 0,
            rng: StdRng::seed_from_u64(2),
            sent: Vec::new(),
            closing: Vec::new(),
        }
    }

    /// One REGISTER without credentials, its challenge, one with them, its 200.
    pub fn register(&mut self) {
        let n = self.next();
        let user = n as usize % USERS;
        let request = |cseq: u32, credentials: &str| {
            format!(
                "REGISTER sip:{EDGE} SIP/2.0\r\n\
Via: SIP/2.0/UDP {PHONE};rport;branch=z9hG4bK-{n}-{cseq}\r\nMax-Forwards: 70\r\n\
From: <sip:u{user:05}@{REALM}>;tag={n}R\r\nTo: <sip:u{user:05}@{REALM}>\r\nCall-ID: {n}-4711@198.51.100.10\r\n\
CSeq: {cseq} REGISTER\r\nContact: <sip:u{user:05}@{PHONE}>\r\n{credentials}Expires: 600\r\nUser-Agent: load-test\r\n\
Content-Length: 0\r\n\r\n"
            )
        };
        self.hear(address(PHONE), request(1, ""));
        let challenge = self.response(StatusCode::UNAUTHORIZED);
        let (name, secret, uri) = (format!("u{user:05}"), format!("secret-{user}"), format!("sip:{EDGE}"));
        let mut client = ClientDigest::from_challenge(&challenge).expect("a challenge");
        let (_, credentials) = client.authorize(&name, &secret, &Method::Register, &uri, &mut self.rng);
        self.hear(address(PHONE), request(2, &format!("Authorization: {credentials}\r\n")));
        self.response(StatusCode::OK);
    }

    /// Registers the callee, on a trunk without digest.
    pub fn register_callee(&mut self) {
        self.hear(
            address(CALLEE),
            format!(
                "REGISTER sip:{EDGE} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLEE};rport;branch=z9hG4bK-callee\r\n\
From: <sip:callee@{REALM}>;tag=1\r\nTo: <sip:callee@{REALM}>\r\nCall-ID: callee@198.51.100.20\r\nCSeq: 1 REGISTER\r\n\
Contact: <sip:callee@{CALLEE}>\r\nExpires: 3600\r\nContent-Length: 0\r\n\r\n"
            ),
        );
        self.response(StatusCode::OK);
    }

    /// INVITE, 100, 180, 200, ACK.
    pub fn call(&mut self, media: bool) -> Held {
        let n = self.next();
        let body = if media { SDP } else { "" };
        let content = if media { "Content-Type: application/sdp\r\n" } else { "" };
        let length = body.len();
        self.hear(
            address(PHONE),
            format!(
                "INVITE sip:callee@{EDGE} SIP/2.0\r\nVia: SIP/2.0/UDP {PHONE};rport;branch=z9hG4bK-{n}-1\r\n\
Max-Forwards: 70\r\nFrom: <sip:caller{n}@{REALM}>;tag={n}C\r\nTo: <sip:callee@{REALM}>\r\nCall-ID: {n}-4711@198.51.100.10\r\n\
CSeq: 1 INVITE\r\nContact: <sip:caller@{PHONE}>\r\nUser-Agent: load-test\r\n\
Allow: INVITE, ACK, BYE, CANCEL, OPTIONS\r\n{content}Content-Length: {length}\r\n\r\n{body}"
            ),
        );
        let invite = self.request_at_callee();
        self.sent.clear();
        for status in [StatusCode::RINGING, StatusCode::OK] {
            let builder = ResponseBuilder::new(&invite, status)
                .to_tag(format!("{n}A"))
                .header(HeaderName::Contact, format_args!("<sip:{CALLEE}>"));
            let builder = if media && status == StatusCode::OK {
                builder.body("application/sdp", SDP.replace(" 8 0 101", " 8 101"))
            } else {
                builder
            };
            self.hear(address(CALLEE), builder.build().expect("a response"));
        }
        let success = self.response(StatusCode::OK);
        let mut routes: Vec<&str> = success
            .lines(HeaderName::RecordRoute)
            .map(|line| std::str::from_utf8(line).expect("text"))
            .collect();
        routes.reverse();
        let contact = success.line_text(HeaderName::Contact).expect("a Contact");
        let held = Held {
            n,
            target: contact.trim_matches(['<', '>']).to_owned(),
            routes: routes.iter().map(|route| format!("Route: {route}\r\n")).collect(),
            to: success.line_text(HeaderName::To).expect("a To").to_owned(),
        };
        self.hear(address(PHONE), held.request("ACK", 1));
        self.sent.clear();
        held
    }

    /// BYE and 200.
    pub fn hang_up(&mut self, held: &Held) {
        self.hear(address(PHONE), held.request("BYE", 2));
        let bye = self.request_at_callee();
        self.sent.clear();
        self.hear(
            address(CALLEE),
            ResponseBuilder::new(&bye, StatusCode::OK).build().expect("a response"),
        );
        self.response(StatusCode::OK);
        for session in std::mem::take(&mut self.closing) {
            let (now, env) = (self.now, &self.env);
            self.engine
                .handle_relay_event(now, env, session, RelayEvent::Closed(Box::default()));
        }
        self.settle();
    }

    /// Every transaction to its end, which is part of the work; nothing may be left.
    pub fn finish(mut self) {
        let end = self.now.mono + Duration::from_secs(64);
        while let Some(at) = self.engine.poll_timeout().filter(|at| *at <= end) {
            self.advance(at.max(self.now.mono) - self.now.mono);
            timeout(&mut self.engine, self.now, &self.env);
            self.settle();
        }
        assert_eq!(self.engine.gauges(), Gauges::default());
    }

    fn next(&mut self) -> u64 {
        self.advance(STEP);
        if self.engine.poll_timeout().is_some_and(|at| at <= self.now.mono) {
            timeout(&mut self.engine, self.now, &self.env);
            self.settle();
        }
        self.sent.clear();
        self.serial += 1;
        self.serial
    }

    fn advance(&mut self, by: Duration) {
        self.now.mono += by;
        self.now.wall += by;
    }

    fn hear(&mut self, from: SocketAddr, text: impl Into<Bytes>) {
        let flow = Flow {
            trunk: self.trunk.clone(),
            transport: Transport::Udp,
            local: address(EDGE),
            remote: from,
            connection: None,
        };
        message(&mut self.engine, self.now, &self.env, flow, text.into());
        self.settle();
    }

    fn settle(&mut self) {
        let _ = black_box(self.engine.poll_timeout());
        while let Some(effect) = effect(&mut self.engine) {
            match effect {
                Effect::Transmit { to, bytes, .. } => self.sent.push((to.remote(), bytes)),
                Effect::Relay {
                    session,
                    command: RelayCommand::Close,
                } => self.closing.push(session),
                other => drop(black_box(other)),
            }
        }
    }

    /// The last response sent, which has this status.
    fn response(&mut self, status: StatusCode) -> Response {
        let (_, bytes) = self.sent.pop().expect("something was sent");
        match read(bytes) {
            Message::Response(response) if response.status() == status => response,
            other => panic!("{other:?} instead of {status}"),
        }
    }

    fn request_at_callee(&mut self) -> Request {
        let to_callee = self.sent.iter().find(|(to, _)| *to == address(CALLEE));
        match read(to_callee.expect("the callee was sent something").1.clone()) {
            Message::Request(request) => request,
            other => panic!("{other:?} instead of a request"),
        }
    }
}

/// A call that is up.
pub struct Held {
    n: u64,
    target: String,
    routes: String,
    to: String,
}

impl Held {
    fn request(&self, method: &str, cseq: u32) -> String {
        let Self { n, target, routes, to } = self;
        format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {PHONE};rport;branch=z9hG4bK-{n}-{method}\r\n\
Max-Forwards: 70\r\n{routes}From: <sip:caller{n}@{REALM}>;tag={n}C\r\nTo: {to}\r\nCall-ID: {n}-4711@198.51.100.10\r\n\
CSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n"
        )
    }
}

// What is counted: the engine is entered here and nowhere else, so that a tool can tell its work from that of the phones.

#[inline(never)]
fn message(engine: &mut Engine, now: Now, env: &Shared, flow: Flow, bytes: Bytes) {
    engine.handle_message(now, env, flow, bytes);
}

#[inline(never)]
fn timeout(engine: &mut Engine, now: Now, env: &Shared) {
    engine.handle_timeout(now, env);
}

#[inline(never)]
fn effect(engine: &mut Engine) -> Option<Effect> {
    engine.poll_effect()
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn read(bytes: Bytes) -> Message {
    match parse(bytes, Framing::Datagram, &Limits::default()) {
        Parsed::Understood(message) => message,
        other => panic!("{other:?}"),
    }
}

fn snapshot(trunk_id: &TrunkId, digest: bool) -> Snapshot {
    // What the load generators of the system benchmarks answer.
    let md5_only = CustomProperty::new("digest.algorithms", PropertyValue::Text("MD5".into())).expect("a property");
    let mut trunk = Trunk::with_defaults(trunk_id.clone(), "Main");
    trunk.listen_port = 8060;
    trunk.acl = AccessList::new(true, true, Vec::new(), Vec::new());
    trunk.inbound_digest.enabled = digest;
    trunk.inbound_digest.realm = REALM.into();
    trunk.domains = vec![REALM.parse().expect("a domain")];
    trunk.properties = CustomProperties::new(vec![md5_only]).expect("properties");
    let resource = |body| Resource { version: 1, body };
    let mut resources = vec![resource(Body::Trunk(Arc::new(trunk)))];
    for user in 0..USERS {
        let name = format!("u{user:05}");
        let hash = |algorithm| {
            ha1(algorithm, &name, REALM, &format!("secret-{user}"))
                .expose_hex()
                .to_owned()
        };
        let ha1 = Ha1Set::new(
            hash(Algorithm::Md5),
            hash(Algorithm::Sha256),
            hash(Algorithm::Sha512_256),
        );
        resources.push(resource(Body::Credential(Arc::new(Credential {
            name: format!("trunks/main/credentials/{name}").parse().expect("a name"),
            username: name.as_str().into(),
            enabled: true,
            aor_user: name.as_str().into(),
            realm: REALM.into(),
            ha1: ha1.expect("hashes"),
        }))));
    }
    let applied = Snapshot::default().apply(resources, &[], 1);
    assert!(applied.rejections.is_empty(), "{:?}", applied.rejections);
    applied.snapshot
}
