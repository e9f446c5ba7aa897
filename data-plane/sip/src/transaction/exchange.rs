//! What goes into the layer and what comes out of it.

use bytes::Bytes;
use thiserror::Error;

#[cfg(doc)]
use super::Transactions;
use super::{ClientTransactionId, ServerTransactionId, TransactionId};
use crate::method::Method;
use crate::timer::Reliability;

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
