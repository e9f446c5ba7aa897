//! The engine itself: its parts, its clock, and what goes in and out. What it does with messages is in the sibling files.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
// Most keys here are numbers of ours, which nobody outside chooses: they need no keyed hash.
use hashbrown::HashMap;
use rand_core::CryptoRng;
use smallvec::SmallVec;
use trunkline_shared::name::{ConversationId, WorkerId};
use trunkline_shared::rate::TokenBucket;
use trunkline_shared::snapshot::Snapshot;
use trunkline_sip::digest::NonceKey;
use trunkline_sip::method::Method;
use trunkline_sip::parse::Limits;
use trunkline_sip::timer::{Reliability, TimerConfig};
use trunkline_sip::transaction::{
    ClientRequest, ClientTransactionId, Event, SendError, ServerTransactionId, Stats, TransactionId, Transactions,
    TransactionsConfig,
};

use crate::auth::{Failures, nonce_keys};
use crate::call::{Call, CallKey, Deadline};
use crate::identify::Listeners;
use crate::inbound::{ClientUse, ServerEntry, ServerRole};
use crate::io::{
    ConnectionId, Destination, Effect, Env, Listener, Now, Report, ResolveId, SessionId, TransmitFailure,
    TransmitToken, Transport, TransportExt as _,
};
use crate::metrics::Counter;
use crate::proxy::{Proxy, ProxyKey};
use crate::token::Tokens;

/// What an engine is told once, at its start.
#[derive(Clone)]
pub struct EngineConfig {
    /// Number of this shard, 0-based.
    pub shard: u16,
    /// The worker, for bindings and records.
    pub worker: WorkerId,
    /// Most calls of this shard, ended ones that wait for their last figures included; more are answered 503.
    pub max_calls: usize,
    /// Most live transactions of this shard; more are answered 503 statelessly.
    pub max_transactions: u32,
    /// Most targets one request is sent to in all.
    pub max_branches: usize,
    /// Bounds of the parser.
    pub limits: Limits,
    /// SIP timers.
    pub timers: TimerConfig,
    /// Key of the Record-Route tokens, the same for all shards of a worker and unknown to everybody else.
    pub token_key: [u8; 32],
}

impl EngineConfig {
    /// Defaults for shard `shard` of `worker`: 20,000 calls, 131,072 transactions, 32 branches.
    ///
    /// Timer C is an hour: every branch has the dial timeout of its trunk, 1 s to 1 h, in its place (row 15).
    pub fn new(shard: u16, worker: WorkerId, token_key: [u8; 32]) -> Self {
        let timers = TimerConfig::default();
        let hour = std::time::Duration::from_secs(3600);
        Self {
            shard,
            worker,
            max_calls: 20_000,
            max_transactions: 1 << 17,
            max_branches: 32,
            limits: Limits::default(),
            timers: timers.clone().with_timer_c(hour).unwrap_or(timers),
            token_key,
        }
    }
}

impl std::fmt::Debug for EngineConfig {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineConfig")
            .field("shard", &self.shard)
            .field("worker", &self.worker)
            .field("max_calls", &self.max_calls)
            .field("max_transactions", &self.max_transactions)
            .finish_non_exhaustive()
    }
}

/// How much an engine holds at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gauges {
    /// Calls that are not over.
    pub active_calls: usize,
    /// Calls that are over and wait for their last figures or answers.
    pub ending_calls: usize,
    /// Live transactions.
    pub transactions: usize,
    /// Relay sessions.
    pub relay_sessions: usize,
    /// Names being looked up.
    pub resolves: usize,
    /// Entries of all other tables that live and die with transactions and calls: zero when those are.
    pub entries: usize,
}

/// One shard of the signalling plane.
///
/// Call order: any of `handle_*`, `set_*`, `drain`, `hang_up`; then [`Engine::poll_effect`] until `None`; then
/// [`Engine::poll_timeout`] for the time of the next [`Engine::handle_timeout`]. See [`crate::io`].
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) rng: Box<dyn CryptoRng + Send>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) listeners: Listeners,
    pub(crate) draining: bool,
    pub(crate) tokens: Tokens,
    /// Keys of digest nonces in force, the current one first.
    pub(crate) nonce_keys: Vec<NonceKey>,
    pub(crate) transactions: Transactions<Destination>,
    pub(crate) servers: HashMap<ServerTransactionId, ServerEntry>,
    pub(crate) clients: HashMap<ClientTransactionId, ClientEntry>,
    pub(crate) transmits: HashMap<TransmitToken, ClientTransactionId>,
    /// Requests without a final response, by the connection they went out on.
    by_connection: HashMap<ConnectionId, SmallVec<[ClientTransactionId; 2]>>,
    pub(crate) calls: HashMap<CallKey, Box<Call>>,
    pub(crate) active_calls: usize,
    /// Callers choose the Call-ID: this one has a keyed hash.
    pub(crate) calls_by_call_id: std::collections::HashMap<Box<str>, SmallVec<[CallKey; 1]>>,
    pub(crate) calls_by_conversation: HashMap<ConversationId, CallKey>,
    pub(crate) sessions: HashMap<SessionId, CallKey>,
    pub(crate) resolves: HashMap<ResolveId, (CallKey, u32)>,
    pub(crate) deadlines: BTreeSet<(Instant, CallKey, Deadline)>,
    pub(crate) proxies: HashMap<ProxyKey, Proxy>,
    /// Refused calls that are reported; beyond this rate they are only counted.
    pub(crate) refusal_reports: Option<TokenBucket>,
    /// Digest failures by Call-ID: a chain of challenges is given up after a few.
    pub(crate) failures: Failures,
    serial: u64,
    /// Retransmissions counted so far.
    retransmitted: u64,
    effects: VecDeque<Effect>,
}

/// A client transaction: whose it is, and the token its transmissions carry.
#[derive(Debug)]
pub(crate) struct ClientEntry {
    pub(crate) owner: ClientUse,
    pub(crate) token: TransmitToken,
    /// Its connection is known to be gone, or its flow refused it.
    pub(crate) flow_gone: bool,
    connection: Option<ConnectionId>,
}

/// The clocks and the shared state, for the length of one input.
#[derive(Clone, Copy)]
pub(crate) struct Cx<'a> {
    pub(crate) now: Now,
    pub(crate) env: &'a dyn Env,
}

impl Engine {
    /// An engine without configuration: until [`Engine::set_snapshot`] every request is refused.
    pub fn new(config: EngineConfig, mut rng: Box<dyn CryptoRng + Send>) -> Self {
        let seed = [rng.next_u64(), rng.next_u64()];
        let transactions = TransactionsConfig {
            timers: config.timers.clone(),
            capacity: config.max_transactions,
        };
        let tokens = Tokens::new(&config.token_key);
        let snapshot = Arc::new(Snapshot::default());
        Self {
            nonce_keys: nonce_keys(&snapshot, &tokens),
            tokens,
            transactions: Transactions::new(transactions, seed),
            config,
            rng,
            snapshot,
            listeners: Listeners::new(Arc::from([])),
            draining: false,
            servers: HashMap::new(),
            clients: HashMap::new(),
            transmits: HashMap::new(),
            by_connection: HashMap::new(),
            calls: HashMap::new(),
            active_calls: 0,
            calls_by_call_id: std::collections::HashMap::new(),
            calls_by_conversation: HashMap::new(),
            sessions: HashMap::new(),
            resolves: HashMap::new(),
            deadlines: BTreeSet::new(),
            proxies: HashMap::new(),
            refusal_reports: None,
            failures: Failures::default(),
            serial: 0,
            retransmitted: 0,
            effects: VecDeque::new(),
        }
    }

    /// Puts a configuration in force. Running calls keep the trunks they were admitted with; new requests see the new ones.
    pub fn set_snapshot(&mut self, _now: Now, snapshot: Arc<Snapshot>) {
        self.nonce_keys = nonce_keys(&snapshot, &self.tokens);
        self.snapshot = snapshot;
    }

    /// Tells where the worker listens, whole, whenever that changes.
    pub fn set_listeners(&mut self, listeners: Arc<[Listener]>) {
        self.listeners = Listeners::new(listeners);
    }

    /// Refuses new work (503, Retry-After 60) and keeps what runs, or takes new work again.
    pub fn drain(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// Sending what `token` belongs to has failed: acts as on a 503 (RFC 3261 §8.1.3.1).
    pub fn handle_transmit_failed(&mut self, now: Now, env: &dyn Env, token: TransmitToken, failure: TransmitFailure) {
        let cx = Cx { now, env };
        if let Some(&client) = self.transmits.get(&token) {
            self.note_transmit_failure(client, failure);
            self.transactions
                .handle_transport_error(now.mono, TransactionId::Client(client));
        }
        self.settle(cx);
    }

    /// A connection is gone: what was last sent on it as a request has failed.
    pub fn handle_connection_closed(&mut self, now: Now, env: &dyn Env, connection: ConnectionId) {
        let cx = Cx { now, env };
        for client in self.by_connection.remove(&connection).unwrap_or_default() {
            self.note_transmit_failure(client, TransmitFailure::FlowGone);
            self.transactions
                .handle_transport_error(now.mono, TransactionId::Client(client));
        }
        self.settle(cx);
    }

    /// Fires every timer that is due.
    pub fn handle_timeout(&mut self, now: Now, env: &dyn Env) {
        let cx = Cx { now, env };
        self.transactions.handle_timeout(now.mono);
        self.settle(cx);
        while let Some(&(at, key, deadline)) = self.deadlines.first() {
            if at > now.mono {
                break;
            }
            self.deadlines.remove(&(at, key, deadline));
            self.handle_deadline(cx, key, deadline);
            self.settle(cx);
        }
    }

    /// When to call [`Engine::handle_timeout`] next; `None` when nothing waits for time.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = self.deadlines.first().map(|(at, ..)| *at);
        own.into_iter().chain(self.transactions.poll_timeout()).min()
    }

    /// The next thing the worker is to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// How much is held.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            active_calls: self.active_calls,
            ending_calls: self.calls.len() - self.active_calls,
            transactions: self.transactions.len(),
            relay_sessions: self.sessions.len(),
            resolves: self.resolves.len(),
            entries: self.servers.len()
                + self.clients.len()
                + self.transmits.len()
                + self.by_connection.len()
                + self.proxies.len()
                + self.deadlines.len()
                + self.calls_by_call_id.len()
                + self.calls_by_conversation.len(),
        }
    }

    /// The transaction layer's counters so far.
    pub fn transaction_stats(&self) -> &Stats {
        self.transactions.stats()
    }

    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(crate) fn report(&mut self, report: Report) {
        self.effect(Effect::Report(report));
    }

    /// Hands a message to the transport without a transaction: an ACK for a 2xx, a stateless answer.
    pub(crate) fn transmit(&mut self, cx: Cx<'_>, to: Destination, bytes: Bytes) {
        cx.env.count(Counter::MessagesSent);
        self.effect(Effect::Transmit { to, bytes, token: None });
    }

    /// Starts a client transaction.
    pub(crate) fn send_request(
        &mut self,
        cx: Cx<'_>,
        method: &Method,
        branch: &str,
        bytes: Bytes,
        destination: Destination,
        owner: ClientUse,
    ) -> Result<ClientTransactionId, SendError> {
        let reliability = reliability(destination.transport());
        let connection = destination.connection();
        let request = ClientRequest {
            method,
            branch: branch.as_bytes(),
            bytes,
            destination,
            reliability,
        };
        let client = self.transactions.send_request(cx.now.mono, request)?;
        let token = TransmitToken(self.next_serial());
        self.transmits.insert(token, client);
        self.clients.insert(
            client,
            ClientEntry {
                owner,
                token,
                flow_gone: false,
                connection,
            },
        );
        if let Some(connection) = connection {
            self.by_connection.entry(connection).or_default().push(client);
        }
        Ok(client)
    }

    /// Takes what the transaction layer has to say until it is silent.
    pub(crate) fn settle(&mut self, cx: Cx<'_>) {
        loop {
            self.settle_transmits(cx);
            let Some(event) = self.transactions.poll_event() else {
                break;
            };
            self.handle_event(cx, event);
        }
        let stats = self.transactions.stats();
        let retransmitted = stats.requests_retransmitted + stats.answers_retransmitted;
        for _ in self.retransmitted..retransmitted {
            cx.env.count(Counter::RetransmissionsSent);
        }
        self.retransmitted = retransmitted;
    }

    /// Takes what the transaction layer has to send.
    pub(crate) fn settle_transmits(&mut self, cx: Cx<'_>) {
        while let Some(transmit) = self.transactions.poll_transmit() {
            let token = match transmit.transaction {
                TransactionId::Client(client) => self.clients.get(&client).map(|entry| entry.token),
                TransactionId::Server(_) => None,
            };
            cx.env.count(Counter::MessagesSent);
            self.effect(Effect::Transmit {
                to: transmit.destination,
                bytes: transmit.bytes,
                token,
            });
        }
    }

    fn note_transmit_failure(&mut self, client: ClientTransactionId, failure: TransmitFailure) {
        if let Some(entry) = self.clients.get_mut(&client) {
            entry.flow_gone = failure == TransmitFailure::FlowGone;
        }
    }

    fn forget_client(&mut self, client: ClientTransactionId) {
        let Some(entry) = self.clients.remove(&client) else {
            return;
        };
        self.transmits.remove(&entry.token);
        if let ClientUse::Branch { call, branch } = entry.owner {
            self.branch_settled(call, branch);
        }
        if let Some(connection) = entry.connection
            && let Some(on_it) = self.by_connection.get_mut(&connection)
        {
            on_it.retain(|other| *other != client);
            if on_it.is_empty() {
                self.by_connection.remove(&connection);
            }
        }
    }

    fn handle_event(&mut self, cx: Cx<'_>, event: Event) {
        match event {
            Event::Timeout(client) => self.client_timed_out(cx, client),
            Event::TimerC(client) | Event::CancelDue(client) => self.cancel_now(cx, client),
            Event::TransportError(TransactionId::Client(client)) => self.client_unreachable(cx, client),
            Event::TryingDue(server) => self.send_trying(cx, server),
            Event::Terminated(TransactionId::Client(client)) => {
                self.forget_client(client);
            }
            Event::Terminated(TransactionId::Server(server)) | Event::Unanswered(server) => {
                let entry = self.servers.remove(&server);
                if let Some(ServerRole::Proxied(key)) = entry.map(|entry| entry.role) {
                    self.forget_proxy(key);
                }
            }
            // The caller is gone after a refusal: there is nothing left to end.
            Event::AckMissing(_) | Event::TransportError(TransactionId::Server(_)) => {}
        }
    }
}

impl Destination {
    /// The transport it uses.
    pub const fn transport(&self) -> Transport {
        match self {
            Self::Flow(flow) => flow.transport,
            Self::Peer { transport, .. } => *transport,
        }
    }

    /// The connection it names, when it names one.
    pub const fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Flow(flow) => flow.connection,
            Self::Peer { .. } => None,
        }
    }

    /// The peer's address.
    pub const fn remote(&self) -> std::net::SocketAddr {
        match self {
            Self::Flow(flow) => flow.remote,
            Self::Peer { remote, .. } => *remote,
        }
    }
}

pub(crate) fn reliability(transport: Transport) -> Reliability {
    if transport.reliable() {
        Reliability::Reliable
    } else {
        Reliability::Unreliable
    }
}
