//! The transaction layer of RFC 3261 §17 with RFC 6026 and RFC 4320: one [`Transactions`] per shard, sans-IO.
//!
//! It absorbs retransmissions, sends its own, acknowledges 300-699 to INVITE, and ends every transaction in finite
//! time. It is not a message parser (callers hand in the fields that match), not a transport (it hands out bytes with
//! the caller's destination token `D`), and not a transaction user: it never invents a response.
//!
//! # Order of calls
//!
//! 1. `handle_request`, `handle_response`, `handle_transport_error`, `handle_timeout`: something happened. The first
//!    two say at once what the caller is to do with its message.
//! 2. `send_request`, `respond`, `cancel`, `abandon`: the transaction user acts.
//! 3. After any of them: [`Transactions::poll_transmit`] and [`Transactions::poll_event`] until both give `None`, then
//!    [`Transactions::poll_timeout`] for the time of the next [`Transactions::handle_timeout`].
//!
//! ```
//! # use std::time::Instant;
//! # use bytes::Bytes;
//! # use trunkline_sip::{method::Method, timer::Reliability};
//! # use trunkline_sip::transaction::{ClientRequest, Transactions, TransactionsConfig};
//! # #[allow(clippy::disallowed_methods, reason = "an example has to get a clock from somewhere")]
//! # let now = Instant::now();
//! let mut transactions: Transactions<&str> = Transactions::new(TransactionsConfig::default(), [1, 2]);
//! let id = transactions.send_request(now, ClientRequest {
//!     method: &Method::Options,
//!     branch: b"z9hG4bK776asdhds",
//!     bytes: Bytes::from_static(b"OPTIONS sip:carol@chicago.com SIP/2.0\r\n..."),
//!     destination: "192.0.2.4:5060",
//!     reliability: Reliability::Unreliable,
//! })?;
//! let transmit = transactions.poll_transmit().expect("the request goes out at once");
//! assert_eq!(transmit.destination, "192.0.2.4:5060");
//! # let _ = id;
//! # Ok::<(), trunkline_sip::transaction::SendError>(())
//! ```

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use thiserror::Error;

use crate::message::{Message, Request, Response};
use crate::method::Method;
use crate::parse::{Framing, Limits, Parsed, parse};
use crate::status::StatusCode;
use crate::timer::{Reliability, TimerConfig};
use crate::write::{self, RequestBuilder};

mod action;
mod client_invite;
mod client_non_invite;
mod key;
mod machine;
mod server_invite;
mod server_non_invite;
mod stats;
mod table;
mod timer_queue;

pub use key::{RequestKey, ResponseKey, Rfc2543Key};
pub use stats::Stats;

use action::{Action, Actions, Context, Notice};
use machine::Machine;
use table::{Handle, Table};

/// A client transaction: a request of ours that waits for its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientTransactionId(Handle);

/// A server transaction: a received request that waits for our response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServerTransactionId(Handle);

/// A transaction of either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionId {
    /// See [`ClientTransactionId`].
    Client(ClientTransactionId),
    /// See [`ServerTransactionId`].
    Server(ServerTransactionId),
}

/// Limits and timers of one [`Transactions`].
#[derive(Debug, Clone)]
pub struct TransactionsConfig {
    /// Timer values.
    pub timers: TimerConfig,
    /// How many transactions may be live at once, 1 to 2^31. Requests that end or cancel something (BYE, CANCEL, PRACK,
    /// UPDATE and the like, see [`Transactions::handle_request`]) may use an eighth more.
    pub capacity: u32,
}

impl Default for TransactionsConfig {
    /// RFC timers and 131072 transactions: 2,000 calls per second on UDP, each live for about 32 s on both sides.
    fn default() -> Self {
        Self { timers: TimerConfig::default(), capacity: 1 << 17 }
    }
}

/// A request to send in a new client transaction.
#[derive(Debug, Clone)]
pub struct ClientRequest<'a, D> {
    /// The method of the request line; ACK has no client transaction.
    pub method: &'a Method,
    /// The branch of the top Via of `bytes`, unique over all requests but a CANCEL, which has that of its INVITE.
    pub branch: &'a [u8],
    /// The whole message; kept, not copied, while it may have to be retransmitted or acknowledged.
    pub bytes: Bytes,
    /// Where to send it, and every retransmission of it.
    pub destination: D,
    /// Whether that transport retransmits by itself.
    pub reliability: Reliability,
}

/// Bytes for the transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit<D> {
    /// The token the caller gave with the request.
    pub destination: D,
    /// One whole message.
    pub bytes: Bytes,
    /// Whom to name in [`Transactions::handle_transport_error`]; may be gone by then, which is no error.
    pub transaction: TransactionId,
}

/// What a received request is. The caller still holds the message.
#[must_use = "every outcome asks something of the caller"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// A new request: answer it with [`Transactions::respond`].
    New(ServerTransactionId),
    /// A retransmission or an ACK for a 300-699. Nothing to do; an answer, if one is due, is in the transmit queue.
    Absorbed,
    /// An ACK for the transaction user: one for a 2xx. It names the INVITE when it came on the branch of an accepted one;
    /// normally it has a branch of its own and is `None` (RFC 6026 §7.1).
    Ack(Option<ServerTransactionId>),
    /// A new CANCEL (RFC 3261 §9.2): answer `transaction` with 200 when there is an `invite`, with 481 when there is
    /// none. When the INVITE has no final response yet ([`Transactions::is_pending`]), cancel its branches.
    Cancel {
        /// The transaction of the CANCEL itself.
        transaction: ServerTransactionId,
        /// The INVITE it is for.
        invite: Option<ServerTransactionId>,
    },
    /// The table is full; nothing was stored. Answer statelessly with 503 or drop.
    Overloaded,
}

/// What a received response is. The caller still holds the message.
#[must_use = "a delivered response belongs to the transaction user"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseOutcome {
    /// For the transaction user that started this client transaction. A 300-699 to INVITE is acknowledged already. On a
    /// reliable transport a final response is the end: [`Event::Terminated`] may wait already, and the id be dead.
    Deliver(ClientTransactionId),
    /// A retransmission, answered where it has to be.
    Absorbed,
    /// No client transaction waits for it: drop it, never forward it (RFC 6026 §7.3, §8.10).
    Unmatched,
}

/// What the transaction user learns apart from messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// No final response in time (timer B or F, or 64*T1 after a CANCEL). For an INVITE act as on a 408; for anything
    /// else send nothing upstream (RFC 4320 §4.2).
    Timeout(ClientTransactionId),
    /// No final response within timer C (RFC 3261 §16.8): send a CANCEL now, built from
    /// [`Transactions::request`]; the INVITE has another 64*T1 for its final response.
    TimerC(ClientTransactionId),
    /// The first provisional response to an INVITE came after [`Cancel::AfterProvisional`]: send the CANCEL now, built
    /// from [`Transactions::request`].
    CancelDue(ClientTransactionId),
    /// Send a 100 (Trying) now: after 200 ms for an INVITE (a caller that knows it will take longer sends it at once),
    /// when RFC 4320 §4.1 asks for it otherwise.
    TryingDue(ServerTransactionId),
    /// A 300-699 was never acknowledged (timer H).
    AckMissing(ServerTransactionId),
    /// The transaction user never answered: 64*T1 for a non-INVITE, whose client gave up as well, 1 hour for an INVITE.
    Unanswered(ServerTransactionId),
    /// The transport could not send: act as on a 503 (RFC 3261 §8.1.3.1). An INVITE server transaction lives on
    /// (RFC 6026 §7.1), every other one is terminated.
    TransportError(TransactionId),
    /// The transaction is gone and its id is dead. The last event of every transaction.
    Terminated(TransactionId),
}

/// What became of the wish to cancel an INVITE (RFC 3261 §9.1).
#[must_use = "the CANCEL is sent by the caller"]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancel {
    /// Send a CANCEL now, built from this INVITE as it was sent.
    Now(Bytes),
    /// No provisional response yet: [`Event::CancelDue`] will come with it, unless a final response comes first.
    AfterProvisional,
    /// Nothing to cancel: not an INVITE, already cancelled, already answered, or gone.
    NotPossible,
}

/// Why a request was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SendError {
    /// The table is full.
    #[error("transaction table is full")]
    Overloaded,
    /// A client transaction with this branch and method is live.
    #[error("branch is in use by a live client transaction of the same method")]
    BranchInUse,
    /// An ACK is no transaction: one for a 2xx goes to the transport directly (RFC 3261 §13.2.2.4).
    #[error("ACK has no client transaction")]
    Ack,
}

/// Why a response was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RespondError {
    /// The transaction is gone; a late response must not be sent (RFC 4320 §4.2, RFC 6026 §7.1).
    #[error("server transaction is gone")]
    Gone,
    /// A final response was sent before. An INVITE that got a 2xx still takes more of them.
    #[error("a final response was sent before")]
    AlreadyFinal,
    /// No provisional response but 100 to a non-INVITE, and that not before [`Event::TryingDue`] on an unreliable
    /// transport (RFC 4320 §4.1).
    #[error("provisional response to a non-INVITE request is forbidden or too early")]
    Provisional,
    /// No 408 to a non-INVITE (RFC 4320 §4.2).
    #[error("408 to a non-INVITE request is forbidden")]
    RequestTimeout,
}

/// Every live transaction of one shard. `D` says where bytes go, in whatever terms the caller thinks of that.
///
/// See the [module documentation](self) for the order of calls. Memory is bounded by [`TransactionsConfig::capacity`]
/// and by what one call to a `handle_` method can produce.
#[derive(Debug)]
pub struct Transactions<D> {
    config: TransactionsConfig,
    table: Table<Transaction<D>>,
    transmits: VecDeque<Transmit<D>>,
    events: VecDeque<Event>,
    stats: Stats,
    /// The canonical key of the message at hand; kept to save the allocation.
    key: Vec<u8>,
}

#[derive(Debug)]
struct Transaction<D> {
    machine: Machine,
    destination: D,
    reliability: Reliability,
}

/// Retransmissions beyond this many waiting sends are left out: the peer's next one, or our next timer, makes up for it.
const TRANSMIT_QUEUE: usize = 4096;

impl<D: Clone> Transactions<D> {
    /// An empty layer. `seed` keys the hash of the table and has to be unpredictable to peers.
    #[must_use]
    pub fn new(config: TransactionsConfig, seed: [u64; 2]) -> Self {
        Self {
            config,
            table: Table::new(seed),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
            key: Vec::new(),
        }
    }

    /// How many transactions are live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no transaction is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The counters so far.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The timer values in force.
    #[must_use]
    pub fn timers(&self) -> &TimerConfig {
        &self.config.timers
    }

    /// The INVITE as sent, while it waits for its final response: what CANCEL is built from.
    #[must_use]
    pub fn request(&self, id: ClientTransactionId) -> Option<&Bytes> {
        self.table.get(id.0)?.machine.request()
    }

    /// Whether a server transaction still waits for its final response.
    #[must_use]
    pub fn is_pending(&self, id: ServerTransactionId) -> bool {
        self.table.get(id.0).is_some_and(|transaction| transaction.machine.is_pending())
    }

    /// Where the responses of a server transaction, or the request of a client transaction, go.
    #[must_use]
    pub fn destination(&self, id: TransactionId) -> Option<&D> {
        self.table.get(id.handle()).map(|transaction| &transaction.destination)
    }

    /// A request arrived; `destination` is where its responses go (RFC 3261 §18.2.2, RFC 3581 §4).
    ///
    /// When the table is full, new work is refused, while BYE, CANCEL, PRACK, UPDATE, INFO and NOTIFY may use the
    /// reserve: they belong to calls that were let in and mostly make room.
    pub fn handle_request(
        &mut self,
        now: Instant,
        key: RequestKey<'_>,
        destination: D,
        reliability: Reliability,
    ) -> RequestOutcome {
        let matched_method = if *key.method == Method::Ack { &Method::Invite } else { key.method };
        key::write_server(&mut self.key, &key, matched_method);
        if let Some(handle) = self.table.find(&self.key) {
            let passed = self.step(now, handle, |machine, context| machine.request_again(*key.method == Method::Ack, context));
            return if passed {
                RequestOutcome::Ack(Some(ServerTransactionId(handle)))
            } else {
                self.stats.requests_absorbed += 1;
                RequestOutcome::Absorbed
            };
        }
        if *key.method == Method::Ack {
            return RequestOutcome::Ack(None);
        }
        if !self.has_room(key.method) {
            return RequestOutcome::Overloaded;
        }
        let context = Context { timers: &self.config.timers, reliability };
        let (machine, actions) = Machine::receive(key.method, context);
        let transaction = Transaction { machine, destination, reliability };
        let handle = self.table.insert(&self.key, transaction).expect("the key was looked up and not found");
        self.perform(now, handle, actions);
        let transaction = ServerTransactionId(handle);
        match key.method {
            Method::Invite => {
                self.stats.server_invite += 1;
                RequestOutcome::New(transaction)
            }
            Method::Cancel => {
                self.stats.server_non_invite += 1;
                key::write_server(&mut self.key, &key, &Method::Invite);
                RequestOutcome::Cancel { transaction, invite: self.table.find(&self.key).map(ServerTransactionId) }
            }
            _ => {
                self.stats.server_non_invite += 1;
                RequestOutcome::New(transaction)
            }
        }
    }

    /// A response arrived whose top Via is ours.
    ///
    /// `build_ack` is called for the first 300-699 to an INVITE, with the INVITE as sent, and returns the ACK of
    /// RFC 3261 §17.1.1.3; when it returns `None` the response is treated as if it had not come.
    pub fn handle_response(
        &mut self,
        now: Instant,
        key: ResponseKey<'_>,
        status: StatusCode,
        build_ack: impl FnOnce(&Bytes) -> Option<Bytes>,
    ) -> ResponseOutcome {
        key::write_client(&mut self.key, key.method, key.branch);
        let Some(handle) = self.table.find(&self.key) else {
            self.stats.responses_unmatched += 1;
            return ResponseOutcome::Unmatched;
        };
        if self.step(now, handle, |machine, context| machine.response(status, build_ack, context)) {
            ResponseOutcome::Deliver(ClientTransactionId(handle))
        } else {
            self.stats.responses_absorbed += 1;
            ResponseOutcome::Absorbed
        }
    }

    /// The transport failed to send something of this transaction, or lost the connection it was sent on. A transaction
    /// that is gone is none to worry about.
    pub fn handle_transport_error(&mut self, now: Instant, id: TransactionId) {
        self.step(now, id.handle(), Machine::transport_error);
    }

    /// Fires every timer that is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((handle, timer)) = self.table.take_due(now) {
            self.step(now, handle, |machine, context| machine.timer(timer, context));
        }
    }

    /// When to call [`Transactions::handle_timeout`] next; `None` when no timer runs.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.table.next_deadline()
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit<D>> {
        self.transmits.pop_front()
    }

    /// The next thing to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Starts a client transaction and sends its request.
    pub fn send_request(
        &mut self,
        now: Instant,
        request: ClientRequest<'_, D>,
    ) -> Result<ClientTransactionId, SendError> {
        let ClientRequest { method, branch, bytes, destination, reliability } = request;
        if *method == Method::Ack {
            return Err(SendError::Ack);
        }
        if !self.has_room(method) {
            return Err(SendError::Overloaded);
        }
        key::write_client(&mut self.key, method, branch);
        let context = Context { timers: &self.config.timers, reliability };
        let (machine, actions) = Machine::send(method, bytes, context);
        let transaction = Transaction { machine, destination, reliability };
        let handle = self.table.insert(&self.key, transaction).map_err(|_| SendError::BranchInUse)?;
        if *method == Method::Invite {
            self.stats.client_invite += 1;
        } else {
            self.stats.client_non_invite += 1;
        }
        self.perform(now, handle, actions);
        Ok(ClientTransactionId(handle))
    }

    /// Sends a response of the transaction user. `response` is the whole message with this `status`.
    pub fn respond(
        &mut self,
        now: Instant,
        id: ServerTransactionId,
        status: StatusCode,
        response: Bytes,
    ) -> Result<(), RespondError> {
        let transaction = self.table.get(id.0).ok_or(RespondError::Gone)?;
        transaction.machine.may_respond(status)?;
        self.step(now, id.0, |machine, context| machine.respond(status, response, context));
        Ok(())
    }

    /// The transaction user wants an INVITE of its own cancelled.
    pub fn cancel(&mut self, now: Instant, id: ClientTransactionId) -> Cancel {
        let Some(transaction) = self.table.get(id.0) else { return Cancel::NotPossible };
        let decision = transaction.machine.cancel_decision();
        if decision != Cancel::NotPossible {
            self.step(now, id.0, Machine::cancel);
        }
        decision
    }

    /// Forgets a transaction without another message, for requests that are dropped on purpose. Its retransmissions
    /// count as new afterwards.
    pub fn abandon(&mut self, id: TransactionId) {
        if self.table.get(id.handle()).is_some() {
            self.terminate(id.handle());
        }
    }

    fn has_room(&mut self, method: &Method) -> bool {
        let capacity = self.config.capacity as usize;
        let limit = if uses_reserve(method) { capacity + capacity / 8 + 1 } else { capacity };
        let room = self.table.len() < limit;
        self.stats.overloaded += u64::from(!room);
        room
    }

    /// Puts one input into a machine and carries its actions out. True when the message put in is for the transaction
    /// user.
    fn step(
        &mut self,
        now: Instant,
        handle: Handle,
        transition: impl FnOnce(Machine, Context<'_>) -> (Machine, Actions),
    ) -> bool {
        let Some(transaction) = self.table.get_mut(handle) else { return false };
        let context = Context { timers: &self.config.timers, reliability: transaction.reliability };
        let (machine, actions) = transition(transaction.machine.take(), context);
        transaction.machine = machine;
        self.perform(now, handle, actions)
    }

    fn perform(&mut self, now: Instant, handle: Handle, actions: Actions) -> bool {
        let mut passed = false;
        for action in actions {
            match action {
                Action::Send(bytes) => self.transmit(handle, bytes),
                Action::Resend(bytes) => self.retransmit(handle, bytes),
                Action::Arm(timer, duration) => {
                    let deadline = table::deadline(now, duration);
                    self.table.update_timers(handle, |timers| timers.arm(timer, deadline));
                }
                Action::Disarm(timer) => self.table.update_timers(handle, |timers| timers.disarm(timer)),
                Action::Pass => passed = true,
                Action::Inform(notice) => self.inform(handle, notice),
            }
        }
        if self.table.get(handle).is_some_and(|transaction| transaction.machine.is_terminated()) {
            self.terminate(handle);
        }
        passed
    }

    fn transmit(&mut self, handle: Handle, bytes: Bytes) {
        if let Some(transaction) = self.table.get(handle) {
            let destination = transaction.destination.clone();
            self.transmits.push_back(Transmit { destination, bytes, transaction: transaction.id(handle) });
        }
    }

    fn retransmit(&mut self, handle: Handle, bytes: Bytes) {
        if self.transmits.len() >= TRANSMIT_QUEUE {
            self.stats.retransmissions_dropped += 1;
            return;
        }
        match self.table.get(handle).map(|transaction| transaction.machine.retransmits_request()) {
            Some(true) => self.stats.requests_retransmitted += 1,
            _ => self.stats.answers_retransmitted += 1,
        }
        self.transmit(handle, bytes);
    }

    fn inform(&mut self, handle: Handle, notice: Notice) {
        let (client, server) = (ClientTransactionId(handle), ServerTransactionId(handle));
        let Some(id) = self.table.get(handle).map(|transaction| transaction.id(handle)) else { return };
        let (counter, event) = match notice {
            Notice::Timeout => (Some(&mut self.stats.timeouts), Event::Timeout(client)),
            Notice::TimerC => (Some(&mut self.stats.timer_c), Event::TimerC(client)),
            Notice::CancelDue => (None, Event::CancelDue(client)),
            Notice::TryingDue => (None, Event::TryingDue(server)),
            Notice::AckMissing => (Some(&mut self.stats.acks_missing), Event::AckMissing(server)),
            Notice::Unanswered => (Some(&mut self.stats.unanswered), Event::Unanswered(server)),
            Notice::TransportError => (Some(&mut self.stats.transport_errors), Event::TransportError(id)),
        };
        if let Some(counter) = counter {
            *counter += 1;
        }
        self.events.push_back(event);
    }

    fn terminate(&mut self, handle: Handle) {
        if let Some(transaction) = self.table.remove(handle) {
            self.stats.terminated += 1;
            self.events.push_back(Event::Terminated(transaction.id(handle)));
        }
    }
}

impl TransactionId {
    fn handle(self) -> Handle {
        match self {
            Self::Client(ClientTransactionId(handle)) | Self::Server(ServerTransactionId(handle)) => handle,
        }
    }
}

impl<D> Transaction<D> {
    fn id(&self, handle: Handle) -> TransactionId {
        if self.machine.is_client() {
            TransactionId::Client(ClientTransactionId(handle))
        } else {
            TransactionId::Server(ServerTransactionId(handle))
        }
    }
}

/// Builds the ACK that [`Transactions::handle_response`] asks for (RFC 3261 §17.1.1.3), from `response` and the INVITE as
/// sent.
pub fn ack_for(response: &Response) -> impl FnOnce(&Bytes) -> Option<Bytes> + '_ {
    move |invite| write::ack_for_failure(&sent_request(invite)?, response).build().ok()
}

/// Starts the CANCEL for an INVITE as sent (RFC 3261 §9.1), as it comes with [`Cancel::Now`] or from
/// [`Transactions::request`]. Send it with [`Transactions::send_request`] on the branch and to the destination of the
/// INVITE. `None` when the bytes are no request.
#[must_use]
pub fn cancel_for(invite: &Bytes) -> Option<RequestBuilder> {
    Some(write::cancel_for(&sent_request(invite)?))
}

/// What was sent is parsed again instead of being kept parsed: this happens once for a failed call, and a table of fields
/// beside every INVITE would be paid for by all of them.
fn sent_request(bytes: &Bytes) -> Option<Request> {
    match parse(bytes.clone(), Framing::Datagram, &Limits::default()) {
        Parsed::Understood(Message::Request(request)) => Some(request),
        _ => None,
    }
}

/// Requests inside calls that were let in before.
fn uses_reserve(method: &Method) -> bool {
    matches!(method, Method::Bye | Method::Cancel | Method::Prack | Method::Update | Method::Info | Method::Notify)
}

#[cfg(test)]
pub(crate) mod tests;
