//! The contract between the engine and the worker that drives it.
//!
//! One [`Engine`](crate::Engine) is one shard: one thread, no locks. The worker calls `handle_*` with what it received, then
//! drains `poll_effect` until it is empty, then asks `poll_timeout` when to call `handle_timeout`. Nothing here blocks,
//! reads a clock or opens a socket: time and randomness are arguments, I/O is an [`Effect`].
//!
//! Who owns what:
//!
//! | state | owner |
//! |---|---|
//! | transactions, dialogs, calls, media sessions (SDP side) | the shard [`shard_of`] gives for the Call-ID |
//! | registration bindings, budgets, nonce counts, port pool | shared by all shards, behind [`Env`] |
//! | sockets, connections, name resolution, relay sessions (packets) | the worker's I/O threads |
//! | configuration | an `Arc<Snapshot>`, swapped whole by [`Engine::set_snapshot`](crate::Engine::set_snapshot) |

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use trunkline_media::negotiate::{AddressFamily, PortLease, PortsExhausted};
use trunkline_media::relay::{LegId, LegStats, PerLeg, PortId, SessionConfig};
use trunkline_shared::binding::{Aor, AorBindings, Binding};
use trunkline_shared::call::CallRecord;
use trunkline_shared::name::TrunkId;
use trunkline_shared::reject::Reject;
pub use trunkline_shared::trunk::Transport;
use trunkline_shared::trunk::Trunk;
use trunkline_sip::digest::ReplayGuard;

use crate::metrics::Counter;

/// The two clocks, read once per event by the worker.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic: timers and rates.
    pub mono: Instant,
    /// Wall clock: nonces, binding expiry, call records.
    pub wall: SystemTime,
}

/// What the engine asks of a transport beyond its name.
pub(crate) trait TransportExt {
    /// Whether the transport retransmits by itself (RFC 3261 §17).
    fn reliable(self) -> bool;
    /// The value of the `transport` URI parameter (RFC 3261 §19.1.1).
    fn uri_token(self) -> &'static str;
}

impl TransportExt for Transport {
    fn reliable(self) -> bool {
        !matches!(self, Self::Udp)
    }

    fn uri_token(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// A TCP or TLS connection of this worker; never used twice in the life of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Where a message came from, and the way back (RFC 5626 §2 "flow").
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Trunk of the listener, or of the connection the worker opened.
    pub trunk: TrunkId,
    /// Transport of the flow.
    pub transport: Transport,
    /// Our address, as bound (never the unspecified address: a worker bound to that one reads the destination of the datagram).
    pub local: SocketAddr,
    /// The peer's address as seen on the packet.
    pub remote: SocketAddr,
    /// The connection, for TCP and TLS.
    pub connection: Option<ConnectionId>,
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Back over a flow; for TCP and TLS only over that connection, an unknown connection is a transmit failure.
    Flow(Flow),
    /// To an address: over the trunk's UDP listener, or over a connection of the trunk to that address which is reused or opened.
    Peer {
        /// Trunk whose DSCP, timeouts and TLS settings apply.
        trunk: TrunkId,
        /// Transport to use.
        transport: Transport,
        /// Address to send to.
        remote: SocketAddr,
        /// Name the peer's certificate must carry (RFC 5922 §7.1); `None` for an IP literal, which is then the name.
        tls_name: Option<Arc<str>>,
    },
}

/// Correlates a failed [`Effect::Transmit`] with its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransmitToken(pub u64);

/// Why a message could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransmitFailure {
    /// The flow's connection is gone.
    FlowGone,
    /// No connection within the trunk's TCP connection timeout.
    ConnectTimeout,
    /// The peer refused or the network has no way.
    Unreachable,
    /// The TLS handshake failed or the peer's certificate is not the right one.
    Tls,
    /// The connection's send queue is full.
    Congested,
}

/// Correlates [`Effect::Resolve`] with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResolveId(pub u64);

/// A name could not be resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name has no address")]
pub struct ResolveFailed;

/// A relay session of this worker: unique among all shards, see [`SessionId::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl SessionId {
    /// Session `serial` of shard `shard`: the upper 16 bits name the shard, so that events find their way back.
    pub const fn new(shard: u16, serial: u64) -> Self {
        Self((shard as u64) << 48 | (serial & 0x0000_ffff_ffff_ffff))
    }

    /// The shard that owns the session.
    pub const fn shard(self) -> usize {
        (self.0 >> 48) as usize
    }
}

/// One address a trunk listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The trunk.
    pub trunk: TrunkId,
    /// Its transport.
    pub transport: Transport,
    /// Bound address, as it appears in [`Flow::local`].
    pub local: SocketAddr,
    /// Address peers reach it at: Via sent-by and Record-Route carry this one.
    pub advertised: SocketAddr,
}

/// What the engine asks of the worker, in order.
pub enum Effect {
    /// Send one SIP message.
    Transmit {
        /// Where to.
        to: Destination,
        /// The whole message.
        bytes: Bytes,
        /// Handed back to `handle_transmit_failed` when sending fails; `None`: nobody waits for it.
        token: Option<TransmitToken>,
    },
    /// Look a host name up (RFC 3263), answer with `handle_resolved`. Never a literal address.
    Resolve {
        /// Correlation.
        id: ResolveId,
        /// Host name.
        host: Arc<str>,
        /// Port when the configuration names one: then no SRV (RFC 3263 §4.2).
        port: Option<u16>,
        /// Transport the addresses are for.
        transport: Transport,
    },
    /// Change a relay session.
    Relay {
        /// Which.
        session: SessionId,
        /// How.
        command: RelayCommand,
    },
    /// Tell the control plane.
    Report(Report),
    /// Close a connection after what was queued on it is sent.
    CloseConnection(ConnectionId),
}

impl fmt::Debug for Effect {
    /// Without the message, which may hold credentials and media keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transmit { to, bytes, token } => f
                .debug_struct("Transmit")
                .field("to", to)
                .field("length", &bytes.len())
                .field("token", token)
                .finish(),
            Self::Resolve { id, host, .. } => f.debug_struct("Resolve").field("id", id).field("host", host).finish(),
            Self::Relay { session, command } => f
                .debug_struct("Relay")
                .field("session", session)
                .field("command", command)
                .finish(),
            Self::Report(report) => f.debug_tuple("Report").field(report).finish(),
            Self::CloseConnection(id) => f.debug_tuple("CloseConnection").field(id).finish(),
        }
    }
}

/// What to do with a relay session.
#[derive(Debug)]
pub enum RelayCommand {
    /// Create it or bring it to this state (level-triggered).
    Apply(Box<SessionConfig>),
    /// End it and answer with [`RelayEvent::Closed`].
    Close,
}

/// What a relay session tells its shard.
#[derive(Debug)]
pub enum RelayEvent {
    /// No valid RTP from this leg for the configured time (row 31).
    Idle {
        /// The silent leg.
        leg: LegId,
    },
    /// Figures while the session runs.
    Stats(Box<PerLeg<LegStats>>),
    /// The session is gone; the last figures.
    Closed(Box<PerLeg<LegStats>>),
}

/// What goes to the control plane, and to nobody else.
#[derive(Debug, Clone)]
pub enum Report {
    /// The call as it stands; replaces what was reported of it before.
    Call(Box<CallRecord>),
    /// All bindings of an AOR after a change; none: it is not registered.
    Registration(AorBindings),
    /// A digest failure worth keeping.
    AuthenticationFailure {
        /// Trunk that challenged.
        trunk: TrunkId,
        /// Where the request came from.
        source: SocketAddr,
        /// The user it claimed to be; empty when it named none.
        username: String,
        /// Stable token, e.g. `bad_credentials`.
        reason: &'static str,
    },
}

/// A binding and, where this worker holds it, the flow it came by.
#[derive(Debug, Clone)]
pub struct Contact {
    /// What is reported and shared among workers.
    pub binding: Binding,
    /// The flow of the REGISTER; `None` for bindings learned from another worker.
    pub flow: Option<Flow>,
}

/// What the shards of a worker share. Implementations never block for I/O and never call back into an engine.
pub trait Env: Budgets {
    /// Live and expired bindings of an AOR as stored; the engine looks at the expiry itself.
    fn contacts(&self, aor: &Aor) -> Vec<Contact>;

    /// Calls `change` with the bindings of an AOR, atomically with respect to every other shard and to bindings that arrive
    /// from other workers. `change` returns whether it changed them; they are stored then, an empty list removes the AOR.
    fn update_contacts(&self, aor: &Aor, change: &mut dyn FnMut(&mut Vec<Contact>) -> bool);

    /// Leases a pair of media ports for a leg whose signalling uses `local`. The advertised addresses are in the lease.
    ///
    /// # Errors
    /// [`PortsExhausted`] when there is no free pair of that family.
    fn lease_ports(&self, trunk: &TrunkId, local: IpAddr, family: AddressFamily) -> Result<PortLease, PortsExhausted>;

    /// Gives a pair back; the pool keeps it in quarantine before it is used again.
    fn release_ports(&self, ports: PortId);

    /// Calls `check` with the guard that remembers the nonce counts of this worker (RFC 7616 §3.4): one for all shards, or a
    /// captured request could be repeated on each of them.
    fn with_replay_guard(&self, check: &mut dyn FnMut(&mut ReplayGuard));

    /// Adds one to a counter.
    fn count(&self, counter: Counter);

    /// Counts a refusal; the trunk when one decided.
    fn count_reject(&self, reject: Reject, trunk: Option<&TrunkId>);
}

/// Limits that hold for the whole cluster; workers enforce their share.
pub trait Budgets {
    /// Takes one registration of the trunk's rate (row 7).
    ///
    /// # Errors
    /// How long until the next one is free.
    fn take_registration(&self, trunk: &Trunk, now: Instant) -> Result<(), Duration>;

    /// Takes one call of the trunk's rate (row 14).
    ///
    /// # Errors
    /// How long until the next one is free.
    fn take_call(&self, trunk: &Trunk, now: Instant) -> Result<(), Duration>;

    /// Takes one of the trunk's call slots (row 13). Every `true` is paid back by exactly one `release_call_slot`.
    fn acquire_call_slot(&self, trunk: &Trunk) -> bool;

    /// Pays a slot back.
    fn release_call_slot(&self, trunk: &TrunkId);
}

/// The shard that owns everything with this Call-ID.
///
/// Out-of-dialog requests, their dialogs and their responses share the Call-ID, so one shard sees all of a call.
pub fn shard_of(call_id: &[u8], shards: NonZeroUsize) -> usize {
    // FNV-1a with a final mix: two multiplications a byte are cheaper than the table look-up that follows. The spread
    // among a handful of shards does not need to resist an adversary: a shard refuses work beyond its own limits.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in call_id {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^= hash >> 29;
    (hash % shards.get() as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_id_always_has_the_same_shard_and_shards_are_used_evenly() {
        let shards = NonZeroUsize::new(4).expect("four");
        let mut used = [0_u32; 4];
        for serial in 0..4000 {
            let call_id = format!("{serial}@192.0.2.1");
            let shard = shard_of(call_id.as_bytes(), shards);
            assert_eq!(shard, shard_of(call_id.as_bytes(), shards));
            used[shard] += 1;
        }
        assert!(used.iter().all(|count| (800..1200).contains(count)), "{used:?}");
    }

    #[test]
    fn a_session_names_its_shard() {
        assert_eq!(SessionId::new(7, u64::MAX).shard(), 7);
        assert_eq!(SessionId::new(0, 12).shard(), 0);
        assert_ne!(SessionId::new(1, 5), SessionId::new(2, 5));
    }
}
