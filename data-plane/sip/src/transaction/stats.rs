//! What the transaction layer counted. Counters only grow; the worker turns them into metrics.

/// Counters of one [`Transactions`](super::Transactions), since its creation. Units: messages or transactions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// INVITE client transactions started.
    pub client_invite: u64,
    /// Other client transactions started.
    pub client_non_invite: u64,
    /// INVITE server transactions started.
    pub server_invite: u64,
    /// Other server transactions started.
    pub server_non_invite: u64,
    /// Transactions refused because the table was full.
    pub overloaded: u64,
    /// Answered requests forgotten before timer J because the table was full.
    pub let_go: u64,
    /// Received requests absorbed: retransmissions, ACKs for 300-699, ACKs nothing waited for.
    pub requests_absorbed: u64,
    /// Received responses absorbed: retransmissions, and final responses the machine has no arrow for.
    pub responses_absorbed: u64,
    /// Received responses that match no client transaction (to be dropped, RFC 6026 §7.3).
    pub responses_unmatched: u64,
    /// Requests retransmitted by timers A and E.
    pub requests_retransmitted: u64,
    /// Responses and ACKs sent again: timer G, and answers to retransmissions.
    pub answers_retransmitted: u64,
    /// Retransmissions not sent because the caller let the transmit queue fill up.
    pub retransmissions_dropped: u64,
    /// Client transactions that ended by timer B or F, or after an unanswered CANCEL.
    pub timeouts: u64,
    /// INVITEs that ran into timer C.
    pub timer_c: u64,
    /// INVITE server transactions that ended by timer H.
    pub acks_missing: u64,
    /// Server transactions the transaction user never answered.
    pub unanswered: u64,
    /// Transport errors told to a machine.
    pub transport_errors: u64,
    /// Transactions that ended, in whatever way.
    pub terminated: u64,
}
