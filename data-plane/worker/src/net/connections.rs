//! The index of TCP and TLS connections: which queue leads to which peer.
//!
//! A connection is owned by the task that reads and writes it, on the shard that accepted or opened it. Every shard may
//! send over it: the queue is found here, by id or by peer, and is bounded. A full queue is a failure the sender is told of.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::mpsc;
use trunkline_engine::io::{ConnectionId, TransmitFailure, TransmitToken, Transport};
use trunkline_shared::name::TrunkId;

/// Messages waiting for one peer. A peer that does not read for this long has a broken connection, not a slow one.
pub const QUEUE: usize = 512;

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

/// What a connection's queue carries.
#[derive(Debug)]
pub enum Command {
    /// Write a message.
    Send(Outgoing),
    /// Write what is queued, then close.
    Close,
}

/// Connections to the same peer are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Trunk whose settings the connection has.
    pub trunk: TrunkId,
    /// TCP or TLS.
    pub transport: Transport,
    /// The peer's address.
    pub remote: SocketAddr,
    /// Name its certificate was checked for; `None` for accepted connections and IP literals. A connection checked for one
    /// name is never reused for another (RFC 5922 §7.3).
    pub tls_name: Option<std::sync::Arc<str>>,
}

struct Handle {
    queue: mpsc::Sender<Command>,
    peer: Peer,
}

/// All connections of the worker.
#[derive(Default)]
pub struct Connections {
    next: AtomicU64,
    by_id: DashMap<ConnectionId, Handle>,
    by_peer: DashMap<Peer, ConnectionId>,
}

/// The end of a connection's queue that its task reads, and the proof that it is in the index.
pub struct Registered {
    /// Its id.
    pub id: ConnectionId,
    /// What to write.
    pub queue: mpsc::Receiver<Command>,
}

/// Whether a connection to a peer was there.
pub enum Reserved {
    /// It is; send over it.
    Existing(ConnectionId),
    /// It is not; the caller opens it. Messages may be queued meanwhile.
    New(Registered),
}

impl Connections {
    /// Enters an accepted connection.
    pub fn insert(&self, peer: Peer) -> Registered {
        let (id, registered, handle) = self.handle(peer.clone());
        self.by_id.insert(id, handle);
        self.by_peer.insert(peer, id);
        registered
    }

    /// Finds the connection to `peer` or enters a new one, so that two shards never open two.
    pub fn reserve(&self, peer: Peer) -> Reserved {
        match self.by_peer.entry(peer.clone()) {
            Entry::Occupied(existing) => Reserved::Existing(*existing.get()),
            Entry::Vacant(vacant) => {
                let (id, registered, handle) = self.handle(peer);
                self.by_id.insert(id, handle);
                vacant.insert(id);
                Reserved::New(registered)
            }
        }
    }

    /// Queues a message.
    ///
    /// # Errors
    /// The message's waiter must be told: `FlowGone` when there is no such connection, `Congested` when its queue is full.
    pub fn send(&self, id: ConnectionId, message: Outgoing) -> Result<(), TransmitFailure> {
        let handle = self.by_id.get(&id).ok_or(TransmitFailure::FlowGone)?;
        handle
            .queue
            .try_send(Command::Send(message))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => TransmitFailure::Congested,
                mpsc::error::TrySendError::Closed(_) => TransmitFailure::FlowGone,
            })
    }

    /// Closes a connection after what is queued on it. One whose queue is full is closed by its own idle supervision.
    pub fn close(&self, id: ConnectionId) {
        if let Some(handle) = self.by_id.get(&id) {
            let _ = handle.queue.try_send(Command::Close);
        }
    }

    /// Closes every connection `wanted` says no to.
    pub fn close_unless(&self, wanted: impl Fn(&TrunkId) -> bool) {
        for handle in self.by_id.iter().filter(|handle| !wanted(&handle.peer.trunk)) {
            let _ = handle.queue.try_send(Command::Close);
        }
    }

    /// Takes a connection out of the index; its task has ended.
    pub fn remove(&self, id: ConnectionId) {
        if let Some((_, handle)) = self.by_id.remove(&id) {
            self.by_peer.remove_if(&handle.peer, |_, current| *current == id);
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

    fn handle(&self, peer: Peer) -> (ConnectionId, Registered, Handle) {
        let id = ConnectionId(self.next.fetch_add(1, Ordering::Relaxed) + 1);
        let (sender, queue) = mpsc::channel(QUEUE);
        (id, Registered { id, queue }, Handle { queue: sender, peer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> Peer {
        Peer {
            trunk: TrunkId::new("main").expect("an id"),
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

    #[test]
    fn a_peer_has_one_connection_until_it_is_removed() {
        let connections = Connections::default();
        let Reserved::New(first) = connections.reserve(peer(5060)) else {
            panic!("nothing is there yet")
        };
        assert!(matches!(connections.reserve(peer(5060)), Reserved::Existing(id) if id == first.id));
        connections.remove(first.id);
        assert!(connections.is_empty());
        assert!(matches!(connections.reserve(peer(5060)), Reserved::New(second) if second.id != first.id));
    }

    #[test]
    fn the_newest_accepted_connection_of_a_peer_is_reused_and_its_end_leaves_no_trace() {
        let connections = Connections::default();
        let old = connections.insert(peer(5060));
        let new = connections.insert(peer(5060));
        connections.remove(old.id);
        assert!(matches!(connections.reserve(peer(5060)), Reserved::Existing(id) if id == new.id));
    }

    #[test]
    fn a_full_queue_and_a_missing_connection_are_told_apart() {
        let connections = Connections::default();
        let registered = connections.insert(peer(5060));
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
}
