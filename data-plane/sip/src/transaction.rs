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

use crate::message::{Message, Request, Response};
use crate::method::Method;
use crate::parse::{Framing, Limits, Parsed, parse};
use crate::status::StatusCode;
use crate::timer::{Reliability, TimerConfig};
use crate::write::{self, RequestBuilder};

mod action;
mod client_invite;
mod client_non_invite;
mod exchange;
mod key;
mod machine;
mod server_invite;
mod server_non_invite;
mod stats;
mod table;
mod timer_queue;

pub use exchange::{Cancel, ClientRequest, Event, RequestOutcome, RespondError, ResponseOutcome, SendError, Transmit};
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
    /// RFC timers and 131072 transactions. A call over UDP keeps its INVITE for 32 s and its BYE for 32 s and 5 s after the
    /// answer, on both sides about 100 transaction-seconds: room for 1,300 calls per second on one shard.
    fn default() -> Self {
        Self {
            timers: TimerConfig::default(),
            capacity: 1 << 17,
        }
    }
}

/// Every live transaction of one shard. `D` says where bytes go, in whatever terms the caller thinks of that.
///
/// See the [module documentation](self) for the order of calls. Memory is bounded by [`TransactionsConfig::capacity`]
/// and by what one call to a `handle_` method can produce.
#[derive(Debug)]
pub struct Transactions<D> {
    config: TransactionsConfig,
    table: Table<Transaction<D>>,
    /// Requests other than INVITE that were answered and are kept for their retransmissions (timer J), oldest first. A
    /// full table lets go of these before it refuses new work.
    answered: VecDeque<Handle>,
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
            answered: VecDeque::new(),
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
        self.table
            .get(id.0)
            .is_some_and(|transaction| transaction.machine.is_pending())
    }

    /// Where the responses of a server transaction, or the request of a client transaction, go.
    #[must_use]
    pub fn destination(&self, id: TransactionId) -> Option<&D> {
        self.table.get(id.handle()).map(|transaction| &transaction.destination)
    }

    /// A request arrived; `destination` is where its responses go (RFC 3261 §18.2.2, RFC 3581 §4).
    ///
    /// When the table is full, it forgets answered requests other than INVITE, oldest first: repeated, they count as new. When
    /// there are none, new work is refused, while BYE, CANCEL, PRACK, UPDATE, INFO and NOTIFY may use the
    /// reserve: they belong to calls that were let in and mostly make room.
    pub fn handle_request(
        &mut self,
        now: Instant,
        key: RequestKey<'_>,
        destination: D,
        reliability: Reliability,
    ) -> RequestOutcome {
        let matched_method = if *key.method == Method::Ack {
            &Method::Invite
        } else {
            key.method
        };
        key::write_server(&mut self.key, &key, matched_method);
        let vacant = match self.table.look_up(&self.key) {
            Err(vacant) => vacant,
            Ok(handle) => {
                let passed = self.step(now, handle, |machine, context| {
                    machine.request_again(*key.method == Method::Ack, context)
                });
                return if passed {
                    RequestOutcome::Ack(Some(ServerTransactionId(handle)))
                } else {
                    self.stats.requests_absorbed += 1;
                    RequestOutcome::Absorbed
                };
            }
        };
        if *key.method == Method::Ack {
            return RequestOutcome::Ack(None);
        }
        if !self.has_room(key.method) {
            return RequestOutcome::Overloaded;
        }
        let context = Context {
            timers: &self.config.timers,
            reliability,
        };
        let (machine, actions) = Machine::receive(key.method, context);
        let transaction = Transaction {
            machine,
            destination,
            reliability,
        };
        let handle = self.table.insert_at(vacant, &self.key, transaction);
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
                RequestOutcome::Cancel {
                    transaction,
                    invite: self.table.find(&self.key).map(ServerTransactionId),
                }
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
        if self.step(now, handle, |machine, context| {
            machine.response(status, build_ack, context)
        }) {
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
        let ClientRequest {
            method,
            branch,
            bytes,
            destination,
            reliability,
        } = request;
        if *method == Method::Ack {
            return Err(SendError::Ack);
        }
        if !self.has_room(method) {
            return Err(SendError::Overloaded);
        }
        key::write_client(&mut self.key, method, branch);
        let context = Context {
            timers: &self.config.timers,
            reliability,
        };
        let (machine, actions) = Machine::send(method, bytes, context);
        let transaction = Transaction {
            machine,
            destination,
            reliability,
        };
        let handle = self
            .table
            .insert(&self.key, transaction)
            .map_err(|_| SendError::BranchInUse)?;
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
        self.note_answered(id.0);
        Ok(())
    }

    /// The transaction user wants an INVITE of its own cancelled.
    pub fn cancel(&mut self, now: Instant, id: ClientTransactionId) -> Cancel {
        let Some(transaction) = self.table.get(id.0) else {
            return Cancel::NotPossible;
        };
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
        let limit = if uses_reserve(method) {
            capacity + capacity / 8 + 1
        } else {
            capacity
        };
        while self.table.len() >= limit
            && let Some(oldest) = self.answered.pop_front()
        {
            if self.table.get(oldest).is_some() {
                self.stats.let_go += 1;
                self.terminate(oldest);
            }
        }
        let room = self.table.len() < limit;
        self.stats.overloaded += u64::from(!room);
        room
    }

    fn note_answered(&mut self, handle: Handle) {
        let is_answered = |handle: Handle| {
            self.table
                .get(handle)
                .is_some_and(|transaction| transaction.machine.is_answered())
        };
        // They end in the order they were answered in; those that were abandoned were the last.
        while self.answered.front().is_some_and(|oldest| !is_answered(*oldest)) {
            self.answered.pop_front();
        }
        while self.answered.back().is_some_and(|newest| !is_answered(*newest)) {
            self.answered.pop_back();
        }
        if is_answered(handle) {
            self.answered.push_back(handle);
        }
    }

    /// Puts one input into a machine and carries its actions out. True when the message put in is for the transaction
    /// user.
    fn step(
        &mut self,
        now: Instant,
        handle: Handle,
        transition: impl FnOnce(Machine, Context<'_>) -> (Machine, Actions),
    ) -> bool {
        let Some(transaction) = self.table.get_mut(handle) else {
            return false;
        };
        let context = Context {
            timers: &self.config.timers,
            reliability: transaction.reliability,
        };
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
        if self
            .table
            .get(handle)
            .is_some_and(|transaction| transaction.machine.is_terminated())
        {
            self.terminate(handle);
        }
        passed
    }

    fn transmit(&mut self, handle: Handle, bytes: Bytes) {
        if let Some(transaction) = self.table.get(handle) {
            let destination = transaction.destination.clone();
            self.transmits.push_back(Transmit {
                destination,
                bytes,
                transaction: transaction.id(handle),
            });
        }
    }

    fn retransmit(&mut self, handle: Handle, bytes: Bytes) {
        if self.transmits.len() >= TRANSMIT_QUEUE {
            self.stats.retransmissions_dropped += 1;
            return;
        }
        match self
            .table
            .get(handle)
            .map(|transaction| transaction.machine.retransmits_request())
        {
            Some(true) => self.stats.requests_retransmitted += 1,
            _ => self.stats.answers_retransmitted += 1,
        }
        self.transmit(handle, bytes);
    }

    fn inform(&mut self, handle: Handle, notice: Notice) {
        let (client, server) = (ClientTransactionId(handle), ServerTransactionId(handle));
        let Some(id) = self.table.get(handle).map(|transaction| transaction.id(handle)) else {
            return;
        };
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
    matches!(
        method,
        Method::Bye | Method::Cancel | Method::Prack | Method::Update | Method::Info | Method::Notify
    )
}

#[cfg(test)]
pub(crate) mod tests;
