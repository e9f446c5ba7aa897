//! One engine, its phones and the network between them, on one clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use trunkline_engine::io::{
    ConnectionId, Destination, Effect, Flow, Listener, Now, RelayCommand, RelayEvent, Report, ResolveId, SessionId,
    TransmitFailure, Transport,
};
use trunkline_engine::{Engine, EngineConfig, Gauges};
use trunkline_media::relay::SessionConfig;
use trunkline_shared::acl::AccessList;
use trunkline_shared::call::{CallEnd, CallRecord, CallState};
use trunkline_shared::credential::{Credential, Ha1Set};
use trunkline_shared::line::Line;
use trunkline_shared::name::{ConversationId, TrunkId, WorkerId};
use trunkline_shared::route::Route;
use trunkline_shared::secret::Secret;
use trunkline_shared::snapshot::{Body, Resource, ResourceKey, Snapshot};
use trunkline_shared::trunk::Trunk;
use trunkline_sip::digest::{Algorithm, ha1};

use crate::env::TestEnv;
use crate::phone::Phone;

/// The addresses of the edge, by trunk.
pub const MAIN: &str = "192.0.2.1:8060";
pub const MAIN6: &str = "[2001:db8::1]:8060";
pub const OTHER: &str = "192.0.2.1:8070";
pub const SECURE: &str = "192.0.2.1:8061";

pub struct World {
    pub now: Instant,
    pub engine: Engine,
    pub env: TestEnv,
    pub phones: Vec<Phone>,
    pub snapshot: Arc<Snapshot>,
    pub reports: Vec<Report>,
    pub relays: HashMap<SessionId, SessionConfig>,
    /// Share of datagrams that are lost, repeated.
    pub loss: f64,
    pub repeat: f64,
    /// Longest time a datagram takes; different ones overtake each other.
    pub delay: Duration,
    /// Addresses that refuse connections.
    pub unreachable: HashSet<SocketAddr>,
    /// What names resolve to.
    pub names: HashMap<String, Vec<SocketAddr>>,
    epoch: Instant,
    queue: BinaryHeap<Reverse<Due>>,
    serial: u64,
    rng: StdRng,
    version: i64,
    /// Every message of a phone.
    pub heard: Vec<Bytes>,
    /// Every message of the edge, and where it went.
    pub sent: Vec<(SocketAddr, Bytes)>,
    /// How often each phone has connected anew.
    connections: HashMap<usize, u64>,
    /// Connections that are lost.
    lost: HashSet<ConnectionId>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Instant,
    serial: u64,
    what: What,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    ToEdge(usize, Bytes),
    ToPhone(usize, Bytes),
    /// From the edge to itself: to, from.
    Mirror(SocketAddr, SocketAddr, Bytes),
    Closed(SessionId),
    Failed(u64),
    FlowGone(u64),
    Resolved(u64, Vec<SocketAddr>),
}

#[expect(
    clippy::disallowed_methods,
    reason = "a starting point; from here on the test moves the clock"
)]
fn epoch() -> Instant {
    Instant::now()
}

impl World {
    /// Trunk `main` by UDP, `other` by UDP, `secure` by TLS with SRTP; everybody allowed.
    pub fn new() -> Self {
        Self::seeded(1)
    }

    pub fn seeded(seed: u64) -> Self {
        let now = epoch();
        let config = EngineConfig::new(0, WorkerId::new("w1").expect("a worker id"), [7; 32]);
        let engine = Engine::new(config, Box::new(StdRng::seed_from_u64(seed)));
        let mut world = Self {
            now,
            engine,
            env: TestEnv::default(),
            phones: Vec::new(),
            snapshot: Arc::new(Snapshot::default()),
            reports: Vec::new(),
            relays: HashMap::new(),
            loss: 0.0,
            repeat: 0.0,
            delay: Duration::from_millis(1),
            unreachable: HashSet::new(),
            names: HashMap::new(),
            epoch: now,
            queue: BinaryHeap::new(),
            serial: 0,
            rng: StdRng::seed_from_u64(seed.wrapping_add(1)),
            version: 0,
            heard: Vec::new(),
            sent: Vec::new(),
            connections: HashMap::new(),
            lost: HashSet::new(),
        };
        let listener = |trunk: &str, transport, address: &str| Listener {
            trunk: TrunkId::new(trunk).expect("a trunk id"),
            transport,
            local: address.parse().expect("an address"),
            advertised: address.parse().expect("an address"),
        };
        world.engine.set_listeners(Arc::from([
            listener("main", Transport::Udp, MAIN),
            listener("other", Transport::Udp, OTHER),
            listener("secure", Transport::Tls, SECURE),
            listener("main", Transport::Udp, MAIN6),
        ]));
        for (id, transport, port) in [
            ("main", Transport::Udp, 8060),
            ("other", Transport::Udp, 8070),
            ("secure", Transport::Tls, 8061),
        ] {
            let mut trunk = Trunk::with_defaults(TrunkId::new(id).expect("a trunk id"), id);
            trunk.transport = transport;
            trunk.listen_port = port;
            trunk.acl = AccessList::new(true, true, Vec::new(), Vec::new());
            trunk.max_call_rate = "1000/1s".parse().expect("a rate");
            world.put(Body::Trunk(Arc::new(trunk)));
        }
        world
    }

    /// Puts a resource in force.
    pub fn put(&mut self, body: Body) {
        self.version += 1;
        let applied = self.snapshot.apply(
            vec![Resource {
                version: self.version,
                body,
            }],
            &[],
            self.version,
        );
        assert!(applied.rejections.is_empty(), "{:?}", applied.rejections);
        self.snapshot = Arc::new(applied.snapshot);
        let now = self.clock();
        self.engine.set_snapshot(now, Arc::clone(&self.snapshot));
    }

    pub fn remove(&mut self, key: ResourceKey) {
        self.version += 1;
        self.snapshot = Arc::new(self.snapshot.apply(Vec::new(), &[key], self.version).snapshot);
        let now = self.clock();
        self.engine.set_snapshot(now, Arc::clone(&self.snapshot));
    }

    /// Changes a trunk.
    pub fn trunk(&mut self, id: &str, change: impl FnOnce(&mut Trunk)) {
        let id = TrunkId::new(id).expect("a trunk id");
        let mut trunk = (**self.snapshot.trunk(&id).expect("the trunk")).clone();
        change(&mut trunk);
        self.put(Body::Trunk(Arc::new(trunk)));
    }

    pub fn credential(&mut self, trunk: &str, user: &str, password: &str, realm: &str) {
        let hash = |algorithm| ha1(algorithm, user, realm, password).expose_hex().to_owned();
        let credential = Credential {
            name: format!("trunks/{trunk}/credentials/{user}").parse().expect("a name"),
            username: user.into(),
            enabled: true,
            aor_user: user.into(),
            realm: realm.into(),
            ha1: Ha1Set::new(
                hash(Algorithm::Md5),
                hash(Algorithm::Sha256),
                hash(Algorithm::Sha512_256),
            )
            .expect("hashes"),
        };
        self.put(Body::Credential(Arc::new(credential)));
    }

    pub fn line(&mut self, trunk: &str, id: &str, host: &str, priority: u16) {
        let (host, port) = host
            .rsplit_once(':')
            .map_or((host, None), |(host, port)| (host, port.parse().ok()));
        let line = Line {
            name: format!("trunks/{trunk}/lines/{id}").parse().expect("a name"),
            display_name: "".into(),
            enabled: true,
            host: host.parse().expect("a host"),
            port,
            transport: None,
            priority,
            weight: 1,
            auth_username: "".into(),
            auth_password: Secret::default(),
            has_password: false,
            registration_interval: None,
            options_interval: None,
            registration_user: "".into(),
        };
        self.put(Body::Line(Arc::new(line)));
    }

    pub fn route(&mut self, route: Route) {
        self.put(Body::Route(Arc::new(route)));
    }

    /// Adds a phone of a trunk by UDP, or of the trunk `secure` by TLS.
    pub fn phone(&mut self, user: &str, address: &str, edge: &str) -> usize {
        let transport = if edge == SECURE { "TLS" } else { "UDP" };
        let seed = self.phones.len() as u64 + 100;
        self.phones.push(Phone::new(
            user,
            address,
            edge.parse().expect("an address"),
            transport,
            seed,
        ));
        self.phones.len() - 1
    }

    /// Adds a phone and registers it.
    pub fn registered(&mut self, user: &str, address: &str, edge: &str) -> usize {
        let phone = self.phone(user, address, edge);
        self.act(phone, |phone, now| phone.register(now, 3600));
        self.run(Duration::from_secs(1));
        assert_eq!(
            self.phones[phone]
                .statuses(&trunkline_sip::method::Method::Register)
                .last(),
            Some(&200),
            "{user}"
        );
        phone
    }

    /// Alice and Bob on trunk `main`.
    pub fn pair() -> (Self, usize, usize) {
        let mut world = Self::new();
        let alice = world.registered("alice", "198.51.100.10:5060", MAIN);
        let bob = world.registered("bob", "198.51.100.20:5060", MAIN);
        (world, alice, bob)
    }

    pub fn clock(&self) -> Now {
        Now {
            mono: self.now,
            wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + (self.now - self.epoch),
        }
    }

    /// Lets a phone do something.
    pub fn act<T>(&mut self, phone: usize, act: impl FnOnce(&mut Phone, Instant) -> T) -> T {
        let result = act(&mut self.phones[phone], self.now);
        self.collect();
        result
    }

    /// Lets the time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step(end) {}
        self.now = end;
    }

    pub fn run_seconds(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    /// Goes to the next thing that is due before `end`. False when there is none.
    fn step(&mut self, end: Instant) -> bool {
        self.collect();
        let phones = self.phones.iter().filter_map(Phone::next_timeout);
        let queued = self.queue.peek().map(|due| due.0.at);
        let next = phones.chain(queued).chain(self.engine.poll_timeout()).min();
        let Some(at) = next.filter(|at| *at <= end) else {
            return false;
        };
        self.now = self.now.max(at);
        if queued.is_some_and(|queued| queued <= self.now) {
            let due = self.queue.pop().expect("peeked").0;
            self.deliver(due.what);
        } else {
            for phone in &mut self.phones {
                if phone.next_timeout().is_some_and(|at| at <= self.now) {
                    phone.timeout(self.now);
                }
            }
            if self.engine.poll_timeout().is_some_and(|at| at <= self.now) {
                let now = self.clock();
                self.engine.handle_timeout(now, &self.env);
            }
        }
        self.collect();
        true
    }

    fn deliver(&mut self, what: What) {
        let now = self.clock();
        match what {
            What::ToEdge(phone, bytes) => {
                let flow = self.flow(phone);
                self.engine.handle_message(now, &self.env, flow, bytes);
            }
            What::ToPhone(phone, bytes) => self.phones[phone].receive(self.now, bytes),
            What::Mirror(to, from, bytes) => {
                let trunk = TrunkId::new("main").expect("a trunk id");
                let flow = Flow {
                    trunk,
                    transport: Transport::Udp,
                    local: to,
                    remote: from,
                    connection: None,
                };
                self.engine.handle_message(now, &self.env, flow, bytes);
            }
            What::Closed(session) => {
                self.relays.remove(&session);
                self.engine
                    .handle_relay_event(now, &self.env, session, RelayEvent::Closed(Box::default()));
            }
            What::Failed(token) => {
                let token = trunkline_engine::io::TransmitToken(token);
                self.engine
                    .handle_transmit_failed(now, &self.env, token, TransmitFailure::Unreachable);
            }
            What::FlowGone(token) => {
                let token = trunkline_engine::io::TransmitToken(token);
                self.engine
                    .handle_transmit_failed(now, &self.env, token, TransmitFailure::FlowGone);
            }
            What::Resolved(id, addresses) => {
                let result = if addresses.is_empty() {
                    Err(trunkline_engine::io::ResolveFailed)
                } else {
                    Ok(addresses)
                };
                self.engine.handle_resolved(now, &self.env, ResolveId(id), result);
            }
        }
    }

    pub fn flow(&self, phone: usize) -> Flow {
        let from = &self.phones[phone];
        let edge = from.edge;
        let (trunk, transport) = match edge.port() {
            8070 => ("other", Transport::Udp),
            8061 => ("secure", Transport::Tls),
            _ => ("main", Transport::Udp),
        };
        let connection = (transport == Transport::Tls).then(|| self.connection(phone));
        Flow {
            trunk: TrunkId::new(trunk).expect("a trunk id"),
            transport,
            local: edge,
            remote: from.address,
            connection,
        }
    }

    /// Connection `n` of a phone has the number `n * 1000` plus that of the phone.
    fn connection(&self, phone: usize) -> ConnectionId {
        let count = self.connections.get(&phone).copied().unwrap_or(0);
        ConnectionId(count * 1000 + phone as u64)
    }

    /// The connection of a phone is lost; what it sends next goes over another one.
    pub fn disconnect(&mut self, phone: usize) {
        let connection = self.connection(phone);
        self.lost.insert(connection);
        *self.connections.entry(phone).or_default() += 1;
        let now = self.clock();
        self.engine.handle_connection_closed(now, &self.env, connection);
        self.collect();
    }

    /// Gives the edge a message as if a phone had sent it.
    pub fn inject(&mut self, phone: usize, text: impl Into<Bytes>) {
        let (now, flow) = (self.clock(), self.flow(phone));
        self.engine.handle_message(now, &self.env, flow, text.into());
        self.collect();
    }

    /// Takes what phones and engine want to send.
    pub fn collect(&mut self) {
        for phone in 0..self.phones.len() {
            while let Some(bytes) = self.phones[phone].out.pop_front() {
                let reliable = self.phones[phone].transport != "UDP";
                self.heard.push(bytes.clone());
                self.send(What::ToEdge(phone, bytes), reliable);
            }
        }
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Transmit { to, bytes, token } => self.transmit(&to, bytes, token.map(|token| token.0)),
                Effect::Resolve { id, host, .. } => {
                    let addresses = self.names.get(&*host).cloned().unwrap_or_default();
                    self.send(What::Resolved(id.0, addresses), true);
                }
                Effect::Relay { session, command } => match command {
                    RelayCommand::Apply(config) => {
                        self.relays.insert(session, *config);
                    }
                    RelayCommand::Close => self.send(What::Closed(session), true),
                },
                Effect::Report(report) => self.reports.push(report),
                Effect::CloseConnection(_) => {}
            }
        }
    }

    fn transmit(&mut self, to: &Destination, bytes: Bytes, token: Option<u64>) {
        let remote = to.remote();
        self.sent.push((remote, bytes.clone()));
        if to
            .connection()
            .is_some_and(|connection| self.lost.contains(&connection))
        {
            if let Some(token) = token {
                self.send(What::FlowGone(token), true);
            }
            return;
        }
        if self.unreachable.contains(&remote) {
            if let Some(token) = token {
                self.send(What::Failed(token), true);
            }
            return;
        }
        if remote == MAIN.parse().expect("an address") {
            return self.send(What::Mirror(remote, remote, bytes), true);
        }
        let by_connection = to
            .connection()
            .map(|connection| usize::try_from(connection.0 % 1000).expect("a phone"));
        let phone = by_connection.or_else(|| self.phones.iter().position(|phone| phone.address == remote));
        if let Some(phone) = phone {
            let reliable = to.transport() != Transport::Udp;
            self.send(What::ToPhone(phone, bytes), reliable);
        }
    }

    fn send(&mut self, what: What, reliable: bool) {
        let copies = match &what {
            What::ToEdge(..) | What::ToPhone(..) if !reliable => {
                let lost = self.rng.random_bool(self.loss);
                let twice = self.rng.random_bool(self.repeat);
                usize::from(!lost) + usize::from(twice)
            }
            _ => 1,
        };
        let mut what = Some(what);
        for copy in (0..copies).rev() {
            let next = if copy == 0 {
                what.take()
            } else {
                what.as_ref().map(What::again)
            };
            let Some(next) = next else { break };
            let jitter = if reliable {
                Duration::from_millis(1)
            } else {
                self.delay.mul_f64(self.rng.random::<f64>())
            };
            self.serial += 1;
            self.queue.push(Reverse(Due {
                at: self.now + jitter,
                serial: self.serial,
                what: next,
            }));
        }
    }

    /// The relay says that a leg is silent.
    pub fn idle(&mut self, leg: trunkline_media::relay::LegId) {
        let session = *self.relays.keys().next().expect("a relay session");
        let now = self.clock();
        self.engine
            .handle_relay_event(now, &self.env, session, RelayEvent::Idle { leg });
        self.collect();
    }

    pub fn hang_up(&mut self, id: ConversationId) -> bool {
        let now = self.clock();
        let found = self.engine.hang_up(now, &self.env, id);
        self.collect();
        found
    }

    /// The records of calls, as last reported, in the order of their first report.
    pub fn records(&self) -> Vec<&CallRecord> {
        let mut order: Vec<ConversationId> = Vec::new();
        let mut last: HashMap<ConversationId, &CallRecord> = HashMap::new();
        for report in &self.reports {
            if let Report::Call(record) = report
                && last.insert(record.id, record).is_none()
            {
                order.push(record.id);
            }
        }
        order.into_iter().map(|id| last[&id]).collect()
    }

    pub fn record(&self) -> &CallRecord {
        self.records().last().expect("a call was reported")
    }

    pub fn end(&self) -> &CallEnd {
        self.record().end().expect("the call has ended")
    }

    /// Lets everything run out and checks that nothing is left.
    pub fn finish(mut self) {
        self.loss = 0.0;
        self.run_seconds(400);
        assert_eq!(
            self.engine.gauges(),
            Gauges::default(),
            "something is left in the engine"
        );
        assert_eq!(self.env.leases(), 0, "ports are left");
        assert_eq!(self.env.slots_taken(), 0, "call slots are left");
        assert!(self.env.lowest_slot_count() >= 0);
        assert!(self.relays.is_empty(), "relay sessions are left");
        for phone in &self.phones {
            assert_eq!(phone.transactions(), 0, "{} waits for something", phone.user);
        }
        let mut ended: HashMap<ConversationId, usize> = HashMap::new();
        for report in &self.reports {
            if let Report::Call(record) = report {
                let count = ended.entry(record.id).or_default();
                *count += usize::from(matches!(record.state, CallState::Ended(_)));
            }
        }
        assert!(
            ended.values().all(|count| *count == 1),
            "every call has exactly one ended record: {ended:?}"
        );
    }
}

impl What {
    fn again(&self) -> Self {
        match self {
            Self::ToEdge(phone, bytes) => Self::ToEdge(*phone, bytes.clone()),
            Self::ToPhone(phone, bytes) => Self::ToPhone(*phone, bytes.clone()),
            Self::Mirror(to, from, bytes) => Self::Mirror(*to, *from, bytes.clone()),
            Self::Closed(session) => Self::Closed(*session),
            Self::Failed(token) => Self::Failed(*token),
            Self::FlowGone(token) => Self::FlowGone(*token),
            Self::Resolved(id, addresses) => Self::Resolved(*id, addresses.clone()),
        }
    }
}
