//! Listeners follow the configuration: bind what is new, retire what is gone, never touch the others.
//!
//! Every listener is bound once per shard, all or none, here on the control thread, and handed to the shards. A bind that
//! fails is the status of its trunk and of nobody else; it is tried again until it works or is no longer wanted. A retired
//! UDP socket goes on receiving until the calls of its trunk are over; a TCP listener stops accepting at once while its
//! connections live on.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};
use trunkline_engine::io::Listener;
use trunkline_shared::dscp::Dscp;
use trunkline_shared::name::TrunkId;
use trunkline_shared::snapshot::Snapshot;
use trunkline_shared::trunk::{L4Protocol, Transport, Trunk};

use super::address::AddressBook;
use super::tls::{TlsError, TlsTable};
use super::{tcp, udp};
use crate::env::budgets::LocalBudgets;

/// How soon a bind that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// A retired UDP socket lives at least this long: 64·T1, the life of a transaction (RFC 3261 §17).
const RETIREMENT: Duration = Duration::from_secs(32);

/// How long shards may take to let go of an address. They do it between two messages.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Whether other sockets may have the same address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Those of the other shards.
    WithShards,
    /// None: a probe for other programs.
    Alone,
}

/// Tells one binding from the next of the same address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(u64);

/// What a shard is told of listeners.
#[derive(Debug)]
pub enum ListenerOrder {
    /// Receive from this socket.
    Open {
        /// Name of the binding.
        id: ListenerId,
        /// Its trunk.
        trunk: TrunkId,
        /// The shard's own socket.
        socket: ListenerSocket,
    },
    /// Mark what is sent from it.
    Mark(ListenerId, Dscp),
    /// Close it, and drop the other value when the socket is gone: its address may be wanted by another listener.
    Close(ListenerId, Closing),
}

/// Held until a listener is closed.
pub type Closing = mpsc::Sender<Infallible>;

/// A bound socket.
#[derive(Debug)]
pub enum ListenerSocket {
    /// Datagrams.
    Udp(std::net::UdpSocket),
    /// Connections of SIP over TCP or TLS.
    Stream(std::net::TcpListener, Transport),
}

/// State of one listener, for the trunk's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerState {
    /// The trunk.
    pub trunk: TrunkId,
    /// Address it is or should be bound to.
    pub address: SocketAddr,
    /// Stable token and words of what is wrong; `None` when bound.
    pub error: Option<(&'static str, String)>,
    /// Since when.
    pub since: SystemTime,
}

/// What the listeners tell: addresses for the engines, states for the control plane.
#[derive(Debug, Clone, Default)]
pub struct ListenerReport {
    /// Those that are bound and wanted.
    pub listeners: Arc<[Listener]>,
    /// Every wanted listener.
    pub states: Arc<[ListenerState]>,
}

/// What a listener is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    trunk: TrunkId,
    transport: Transport,
    address: SocketAddr,
}

impl Key {
    /// Two listeners that would receive the same packets.
    fn collides(&self, other: &Key) -> bool {
        self.transport.l4() == other.transport.l4() && self.address == other.address
    }
}

struct Bound {
    id: ListenerId,
    dscp: Dscp,
}

struct Retired {
    key: Key,
    id: ListenerId,
    since: Instant,
}

/// Keeps listeners in step with the configuration.
pub struct Reconciler {
    addresses: AddressBook,
    shards: Vec<mpsc::Sender<ListenerOrder>>,
    tls: Arc<TlsTable>,
    budgets: Arc<LocalBudgets>,
    bound: BTreeMap<Key, Bound>,
    retired: Vec<Retired>,
    states: BTreeMap<Key, ListenerState>,
    /// Orders to open what was just bound, by shard. They are given once the engines can know of the listener; until then
    /// what arrives waits in the kernel.
    opening: Vec<(usize, ListenerOrder)>,
    next_id: u64,
    report: watch::Sender<ListenerReport>,
}

impl Reconciler {
    /// Nothing is bound yet. `shards` take orders, one queue each.
    pub fn new(
        addresses: AddressBook,
        shards: Vec<mpsc::Sender<ListenerOrder>>,
        tls: Arc<TlsTable>,
        budgets: Arc<LocalBudgets>,
    ) -> (Reconciler, watch::Receiver<ListenerReport>) {
        let (report, reports) = watch::channel(ListenerReport::default());
        let reconciler = Reconciler {
            addresses,
            shards,
            tls,
            budgets,
            bound: BTreeMap::new(),
            retired: Vec::new(),
            states: BTreeMap::new(),
            opening: Vec::new(),
            next_id: 1,
            report,
        };
        (reconciler, reports)
    }

    /// Follows the configuration until its sender is gone.
    pub async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.reconcile(&snapshot).await;
            let patience = if self.is_settled() { Duration::MAX } else { RETRY };
            match tokio::time::timeout(patience, snapshots.changed()).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(_)) => return,
            }
        }
    }

    fn is_settled(&self) -> bool {
        self.retired.is_empty() && self.states.values().all(|state| state.error.is_none())
    }

    /// One step towards the snapshot.
    async fn reconcile(&mut self, snapshot: &Snapshot) {
        let tls_errors: BTreeMap<TrunkId, TlsError> = self.tls.update(snapshot).into_iter().collect();
        let wanted = self.wanted(snapshot);
        self.retire_unwanted(&wanted).await;
        for (key, trunk) in &wanted {
            let tls_error = (key.transport == Transport::Tls)
                .then(|| tls_errors.get(&key.trunk))
                .flatten();
            let without_tls = key.transport == Transport::Tls && self.tls.of(&key.trunk).is_none();
            let outcome = match tls_error.filter(|_| without_tls) {
                Some(error) => Err(describe_tls(error)),
                None => self.ensure(key, trunk).await.map_err(|error| describe(&error)),
            };
            self.note(key, outcome);
        }
        self.states.retain(|key, _| wanted.contains_key(key));
        self.end_retired().await;
        self.publish(&wanted);
        for (shard, order) in std::mem::take(&mut self.opening) {
            // One that has stopped needs no telling.
            let _ = self.shards[shard].send(order).await;
        }
    }

    fn wanted(&self, snapshot: &Snapshot) -> BTreeMap<Key, Arc<Trunk>> {
        let keys = |trunk: &Arc<Trunk>| -> Vec<(Key, Arc<Trunk>)> {
            let key = |bind| Key {
                trunk: trunk.id.clone(),
                transport: trunk.transport,
                address: SocketAddr::new(bind, trunk.listen_port),
            };
            self.addresses
                .iter()
                .map(|address| (key(address.bind), Arc::clone(trunk)))
                .collect()
        };
        snapshot.trunks().flat_map(keys).collect()
    }

    async fn retire_unwanted(&mut self, wanted: &BTreeMap<Key, Arc<Trunk>>) {
        let gone: Vec<Key> = self
            .bound
            .keys()
            .filter(|key| !wanted.contains_key(key))
            .cloned()
            .collect();
        for key in gone {
            let Some(Bound { id, .. }) = self.bound.remove(&key) else {
                continue;
            };
            if key.transport.l4() == L4Protocol::Tcp {
                self.close(id).await;
            } else {
                self.retired.push(Retired {
                    key,
                    id,
                    since: Instant::now(),
                });
            }
        }
    }

    /// Binds what is not bound and marks what is.
    async fn ensure(&mut self, key: &Key, trunk: &Trunk) -> io::Result<()> {
        if let Some(bound) = self.bound.get_mut(key) {
            if bound.dscp != trunk.sip_dscp {
                bound.dscp = trunk.sip_dscp;
                let id = bound.id;
                self.order(|| ListenerOrder::Mark(id, trunk.sip_dscp)).await;
            }
            return Ok(());
        }
        // A retired socket gives way: the address is wanted by the living.
        let in_the_way: Vec<ListenerId> = self
            .retired
            .iter()
            .filter(|retired| retired.key.collides(key))
            .map(|retired| retired.id)
            .collect();
        for id in in_the_way {
            self.retired.retain(|retired| retired.id != id);
            self.close(id).await;
        }
        probe(key)?;
        let sockets: io::Result<Vec<ListenerSocket>> = self
            .shards
            .iter()
            .map(|_| bind(key, trunk.sip_dscp, Sharing::WithShards))
            .collect();
        let id = ListenerId(self.next_id);
        self.next_id += 1;
        let orders = sockets?.into_iter().enumerate().map(|(shard, socket)| {
            let order = ListenerOrder::Open {
                id,
                trunk: key.trunk.clone(),
                socket,
            };
            (shard, order)
        });
        self.opening.extend(orders);
        tracing::info!(trunk = %key.trunk, address = %key.address, transport = ?key.transport, "listening");
        self.bound.insert(
            key.clone(),
            Bound {
                id,
                dscp: trunk.sip_dscp,
            },
        );
        Ok(())
    }

    fn note(&mut self, key: &Key, outcome: Result<(), (&'static str, String)>) {
        let error = outcome.err();
        match self.states.get_mut(key) {
            Some(state) if state.error == error => {}
            _ => {
                if let Some((code, text)) = &error {
                    tracing::warn!(trunk = %key.trunk, address = %key.address, code, text, "trunk does not listen");
                }
                let state = ListenerState {
                    trunk: key.trunk.clone(),
                    address: key.address,
                    error,
                    since: SystemTime::now(),
                };
                self.states.insert(key.clone(), state);
            }
        }
    }

    async fn end_retired(&mut self) {
        let budgets = Arc::clone(&self.budgets);
        let over =
            |retired: &Retired| retired.since.elapsed() >= RETIREMENT && budgets.active_calls(&retired.key.trunk) == 0;
        let ended: Vec<ListenerId> = self
            .retired
            .iter()
            .filter(|retired| over(retired))
            .map(|retired| retired.id)
            .collect();
        self.retired.retain(|retired| !ended.contains(&retired.id));
        for id in ended {
            self.close(id).await;
        }
    }

    fn publish(&self, wanted: &BTreeMap<Key, Arc<Trunk>>) {
        let listeners = wanted
            .keys()
            .filter(|key| self.bound.contains_key(key))
            .map(|key| Listener {
                trunk: key.trunk.clone(),
                transport: key.transport,
                local: key.address,
                advertised: self.addresses.advertised(key.address),
            });
        let listeners: Arc<[Listener]> = listeners.collect();
        let states: Arc<[ListenerState]> = self.states.values().cloned().collect();
        self.report.send_if_modified(|report| {
            let changed = report.listeners != listeners || report.states != states;
            *report = ListenerReport { listeners, states };
            changed
        });
    }

    /// Has every shard close a listener, and waits until the address is free.
    async fn close(&self, id: ListenerId) {
        let (closing, mut closed) = mpsc::channel(1);
        self.order(|| ListenerOrder::Close(id, closing.clone())).await;
        drop(closing);
        if tokio::time::timeout(CLOSE_PATIENCE, closed.recv()).await.is_err() {
            tracing::warn!("a shard is slow to close a listener");
        }
    }

    /// Tells every shard; one that has stopped needs no telling.
    async fn order(&self, make: impl Fn() -> ListenerOrder) {
        for shard in &self.shards {
            let _ = shard.send(make()).await;
        }
    }
}

/// Sharing an address among shards would also share it with another worker of this machine, each getting some of the other's
/// messages. A socket that shares with nobody finds out.
fn probe(key: &Key) -> io::Result<()> {
    bind(key, Dscp::SYSTEM_DEFAULT, Sharing::Alone).map(drop)
}

fn bind(key: &Key, dscp: Dscp, sharing: Sharing) -> io::Result<ListenerSocket> {
    match key.transport {
        Transport::Udp => udp::bind(key.address, dscp, sharing).map(ListenerSocket::Udp),
        Transport::Tcp | Transport::Tls => {
            tcp::bind(key.address, dscp, sharing).map(|socket| ListenerSocket::Stream(socket, key.transport))
        }
    }
}

fn describe(error: &io::Error) -> (&'static str, String) {
    let code = match error.kind() {
        io::ErrorKind::AddrInUse => "ADDRESS_IN_USE",
        io::ErrorKind::AddrNotAvailable => "ADDRESS_NOT_AVAILABLE",
        io::ErrorKind::PermissionDenied => "PERMISSION_DENIED",
        _ => "BIND_FAILED",
    };
    (code, error.to_string())
}

fn describe_tls(error: &TlsError) -> (&'static str, String) {
    let code = match error {
        TlsError::NoIdentity => "TLS_IDENTITY_MISSING",
        TlsError::Unusable(_) | TlsError::TrustAnchors(_) => "TLS_UNUSABLE",
    };
    let source = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    (code, format!("{error}{source}"))
}

#[cfg(test)]
mod tests;
