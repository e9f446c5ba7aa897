//! The index of TCP and TLS connections: which queue leads to which peer.
//!
//! A connection is owned by the task that reads and writes it, on the shard that accepted or opened it. Every shard may
//! send over it: the queue is found here, by id or by peer, and is bounded. A full queue is a failure the sender is told of.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use trunkline_engine::io::{ConnectionId, TransmitFailure, TransmitToken, Transport};
use trunkline_shared::name::TrunkId;

/// Messages waiting for one peer. A peer that does not read for this long has a broken connection, not a slow one.
pub const QUEUE: usize = 512;
/// Connections of a worker, handshakes included: beyond this, new ones are closed at once and none is opened. Each holds a
/// descriptor and some 20 KiB.
pub const MAX_CONNECTIONS: usize = 100_000;
/// How long a peer that did not answer a connect in time is left alone at first (row 19); doubled each time, up to the longest.
const UNREACHABLE: Duration = Duration::from_secs(30);
const UNREACHABLE_LONGEST: Duration = Duration::from_secs(300);
/// Peers remembered as unreachable. They are lines and phones; beyond this many the network is down, not they.
const UNREACHABLE_PEERS: usize = 10_000;

/// A message on its way out.
#[derive(Debug)]
pub struct Outgoing {
    /// The whole message.
    pub bytes: Bytes,
    /// Who is told when it cannot be sent.
    pub waiter: Option<Waiter>,
}

/// A shard that waits for the fate of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter {
    /// The shard.
    pub shard: usize,
    /// Its token.
    pub token: TransmitToken,
}

/// Connections that this worker opened to the same peer are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Trunk whose settings the connection has.
    pub trunk: TrunkId,
    /// TCP or TLS.
    pub transport: Transport,
    /// The peer's address.
    pub remote: SocketAddr,
    /// Name its certificate was checked for; `None` for IP literals. A connection checked for one name is never reused for
    /// another (RFC 5922 §7.3).
    pub tls_name: Option<Arc<str>>,
}

struct Handle {
    queue: mpsc::Sender<Outgoing>,
    trunk: TrunkId,
    /// Set for connections that were opened here. One that was accepted proves nothing about who is at the other end, and
    /// never carries what is meant for a line or another phone at that address (RFC 5923 §3).
    peer: Option<Peer>,
}

/// All connections of the worker.
pub struct Connections {
    next: AtomicU64,
    by_id: DashMap<ConnectionId, Handle>,
    by_peer: DashMap<Peer, ConnectionId>,
    slots: Arc<Semaphore>,
    unreachable: DashMap<Peer, Unreachable>,
}

/// A peer that did not answer.
struct Unreachable {
    until: Instant,
    pause: Duration,
}

/// Leave to hold a connection; given back when dropped.
#[derive(Debug)]
pub struct Admission(#[expect(dead_code, reason = "held for its end")] OwnedSemaphorePermit);

impl Default for Connections {
    fn default() -> Self {
        Self::new(MAX_CONNECTIONS)
    }
}

/// The end of a connection's queue that its task reads, and the proof that it is in the index.
pub struct Registered {
    /// Its id.
    pub id: ConnectionId,
    /// What to write; it ends, after what is queued, when the connection is to be closed.
    pub queue: mpsc::Receiver<Outgoing>,
    /// Its place among all connections.
    pub admission: Admission,
}

/// Whether a connection to a peer was there.
pub enum Reserved {
    /// It is; send over it.
    Existing(ConnectionId),
    /// It is not; the caller opens it. Messages may be queued meanwhile.
    New(Registered),
    /// It is not, and cannot be opened now.
    Refused(TransmitFailure),
}

impl Connections {
    /// Room for `limit` connections.
    pub fn new(limit: usize) -> Self {
        Connections {
            next: AtomicU64::new(0),
            by_id: DashMap::new(),
            by_peer: DashMap::new(),
            slots: Arc::new(Semaphore::new(limit)),
            unreachable: DashMap::new(),
        }
    }

    /// Leave for one more connection, taken before its handshake; `None` when there are too many.
    pub fn admit(&self) -> Option<Admission> {
        Arc::clone(&self.slots).try_acquire_owned().ok().map(Admission)
    }

    /// Enters an accepted connection of a trunk.
    pub fn insert(&self, trunk: TrunkId, admission: Admission) -> Registered {
        let (registered, queue) = self.register(admission);
        let handle = Handle {
            queue,
            trunk,
            peer: None,
        };
        self.by_id.insert(registered.id, handle);
        registered
    }

    /// Finds the connection to `peer` or enters a new one, so that two shards never open two.
    pub fn reserve(&self, now: Instant, peer: Peer) -> Reserved {
        match self.by_peer.entry(peer.clone()) {
            Entry::Occupied(existing) => Reserved::Existing(*existing.get()),
            Entry::Vacant(vacant) => {
                if self.unreachable.get(&peer).is_some_and(|mark| mark.until > now) {
                    return Reserved::Refused(TransmitFailure::ConnectTimeout);
                }
                let Some(admission) = self.admit() else {
                    return Reserved::Refused(TransmitFailure::Congested);
                };
                let (registered, queue) = self.register(admission);
                let handle = Handle {
                    queue,
                    trunk: peer.trunk.clone(),
                    peer: Some(peer),
                };
                self.by_id.insert(registered.id, handle);
                vacant.insert(registered.id);
                Reserved::New(registered)
            }
        }
    }

    /// Notes that a connect to a peer ran out of time: it is not tried again for a while (row 19).
    pub fn note_unreachable(&self, now: Instant, peer: Peer) {
        let full = self.unreachable.len() >= UNREACHABLE_PEERS;
        match self.unreachable.entry(peer) {
            Entry::Occupied(mut mark) => {
                let pause = (mark.get().pause * 2).min(UNREACHABLE_LONGEST);
                mark.insert(Unreachable {
                    until: now + pause,
                    pause,
                });
            }
            Entry::Vacant(_) if full => {}
            Entry::Vacant(vacant) => {
                vacant.insert(Unreachable {
                    until: now + UNREACHABLE,
                    pause: UNREACHABLE,
                });
            }
        }
    }

    /// Notes that a peer answered.
    pub fn note_reachable(&self, peer: &Peer) {
        self.unreachable.remove(peer);
    }

    /// Forgets peers that nobody has tried to reach for long enough to begin afresh.
    pub fn forget_unreachable(&self, now: Instant) {
        self.unreachable
            .retain(|_, mark| mark.until + UNREACHABLE_LONGEST > now);
    }

    /// Queues a message.
    ///
    /// # Errors
    /// The message's waiter must be told: `FlowGone` when there is no such connection, `Congested` when its queue is full.
    pub fn send(&self, id: ConnectionId, message: Outgoing) -> Result<(), TransmitFailure> {
        let handle = self.by_id.get(&id).ok_or(TransmitFailure::FlowGone)?;
        handle.queue.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => TransmitFailure::Congested,
            mpsc::error::TrySendError::Closed(_) => TransmitFailure::FlowGone,
        })
    }

    /// Closes a connection after what is queued on it; from now on nothing more can be sent over it.
    pub fn close(&self, id: ConnectionId) {
        self.remove(id);
    }

    /// Closes every connection of a trunk that `wanted` says no to.
    pub fn close_unless(&self, wanted: impl Fn(&TrunkId) -> bool) {
        let unwanted: Vec<ConnectionId> = self
            .by_id
            .iter()
            .filter(|handle| !wanted(&handle.trunk))
            .map(|handle| *handle.key())
            .collect();
        unwanted.into_iter().for_each(|id| self.remove(id));
    }

    /// Takes a connection out of the index: its task has ended, or ends now that its queue has.
    pub fn remove(&self, id: ConnectionId) {
        if let Some((_, Handle { peer: Some(peer), .. })) = self.by_id.remove(&id) {
            self.by_peer.remove_if(&peer, |_, current| *current == id);
        }
    }

    /// Connections open or being opened.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    fn register(&self, admission: Admission) -> (Registered, mpsc::Sender<Outgoing>) {
        let id = ConnectionId(self.next.fetch_add(1, Ordering::Relaxed) + 1);
        let (sender, queue) = mpsc::channel(QUEUE);
        (Registered { id, queue, admission }, sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trunk() -> TrunkId {
        TrunkId::new("main").expect("an id")
    }

    fn peer(port: u16) -> Peer {
        Peer {
            trunk: trunk(),
            transport: Transport::Tcp,
            remote: SocketAddr::from(([192, 0, 2, 1], port)),
            tls_name: None,
        }
    }

    fn message() -> Outgoing {
        Outgoing {
            bytes: Bytes::from_static(b"x"),
            waiter: None,
        }
    }

    fn accept(connections: &Connections) -> Registered {
        connections.insert(trunk(), connections.admit().expect("room"))
    }

    #[test]
    fn a_peer_has_one_connection_until_it_is_removed() {
        let (connections, now) = (Connections::default(), Instant::now());
        let Reserved::New(first) = connections.reserve(now, peer(5060)) else {
            panic!("nothing is there yet")
        };
        assert!(matches!(connections.reserve(now, peer(5060)), Reserved::Existing(id) if id == first.id));
        connections.remove(first.id);
        assert!(connections.is_empty());
        assert!(matches!(connections.reserve(now, peer(5060)), Reserved::New(second) if second.id != first.id));
    }

    #[test]
    fn a_connection_accepted_from_an_address_is_not_used_to_reach_it() {
        let connections = Connections::default();
        let accepted = accept(&connections);
        let Reserved::New(opened) = connections.reserve(Instant::now(), peer(5060)) else {
            panic!("only what was opened here is found by its peer")
        };
        assert_ne!(opened.id, accepted.id);
    }

    #[test]
    fn a_full_queue_and_a_missing_connection_are_told_apart() {
        let connections = Connections::default();
        let registered = accept(&connections);
        for _ in 0..QUEUE {
            connections.send(registered.id, message()).expect("room");
        }
        assert_eq!(
            connections.send(registered.id, message()),
            Err(TransmitFailure::Congested)
        );
        let id = registered.id;
        drop(registered);
        assert_eq!(connections.send(id, message()), Err(TransmitFailure::FlowGone));
        connections.remove(id);
        assert_eq!(connections.send(id, message()), Err(TransmitFailure::FlowGone));
    }

    #[test]
    fn closing_ends_the_queue_after_what_is_in_it_even_when_it_is_full() {
        let connections = Connections::default();
        let mut registered = accept(&connections);
        for _ in 0..QUEUE {
            connections.send(registered.id, message()).expect("room");
        }
        connections.close(registered.id);
        assert_eq!(
            connections.send(registered.id, message()),
            Err(TransmitFailure::FlowGone)
        );
        for _ in 0..QUEUE {
            assert!(registered.queue.try_recv().is_ok());
        }
        assert_eq!(
            registered.queue.try_recv().expect_err("ended"),
            mpsc::error::TryRecvError::Disconnected
        );
    }

    #[test]
    fn connections_are_limited_until_one_ends() {
        let (connections, now) = (Connections::new(2), Instant::now());
        let accepted = accept(&connections);
        let Reserved::New(_opened) = connections.reserve(now, peer(5060)) else {
            panic!("room for two")
        };
        assert!(connections.admit().is_none());
        let refused = connections.reserve(now, peer(5061));
        assert!(matches!(refused, Reserved::Refused(TransmitFailure::Congested)));
        drop(accepted);
        assert!(connections.admit().is_some());
    }

    #[test]
    fn a_silent_peer_is_left_alone_longer_each_time_until_it_answers() {
        let (connections, now) = (Connections::default(), Instant::now());
        let attempt = |at: u64| match connections.reserve(now + Duration::from_secs(at), peer(5060)) {
            Reserved::New(registered) => {
                connections.remove(registered.id);
                true
            }
            Reserved::Existing(_) => panic!("it was removed"),
            Reserved::Refused(failure) => {
                assert_eq!(failure, TransmitFailure::ConnectTimeout);
                false
            }
        };
        connections.note_unreachable(now, peer(5060));
        assert!(!attempt(29) && attempt(30));
        connections.note_unreachable(now + Duration::from_secs(30), peer(5060));
        assert!(!attempt(89) && attempt(90));
        connections.note_reachable(&peer(5060));
        assert!(attempt(31));
    }

    #[test]
    fn connections_of_a_trunk_that_is_gone_are_closed() {
        let connections = Connections::default();
        let registered = accept(&connections);
        connections.close_unless(|id| *id == trunk());
        assert_eq!(connections.len(), 1);
        connections.close_unless(|_| false);
        assert!(connections.is_empty() && registered.queue.is_closed());
    }
}
