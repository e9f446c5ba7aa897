//! What the engine asks for, done: sending, dialling, looking names up, commanding the relay, reporting.

use std::collections::VecDeque;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls_pki_types::ServerName;
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use trunkline_engine::Engine;
use trunkline_engine::io::{
    Destination, Effect, Flow, Now, RelayCommand, ResolveFailed, ResolveId, SessionId, TransmitFailure, TransmitToken,
};
use trunkline_shared::trunk::{Transport, Trunk};

use super::input::Input;
use super::{Dispatcher, is_stream};
use crate::net::connection::{self, Connection, Origin, Patience};
use crate::net::connections::{Outgoing, Peer, Registered, Reserved, Waiter};
use crate::net::tcp;

/// Commands that wait for a busy media thread. They are ended calls and re-offers: more than this many at once cannot
/// come from the calls a shard may have.
const RELAY_BACKLOG: usize = 100_000;
/// How soon a relay command that found no room is tried again.
const RELAY_RETRY: Duration = Duration::from_millis(5);
/// A name server that does not answer for this long has no answer the call could wait for.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Look-ups of a shard under way or queued. The system's resolver cannot be interrupted: when no name server answers, calls
/// beyond these fail at once instead of queueing without end.
const RESOLVES: usize = 256;

/// A command for a relay session.
pub(super) struct RelayOrder {
    session: SessionId,
    command: RelayCommand,
}

impl Dispatcher {
    /// Does everything the engine asks for. A message that cannot be sent is told at once, which may make it ask for more.
    pub(super) fn carry_out(&self, engine: &mut Engine, now: Now) {
        while let Some(effect) = engine.poll_effect() {
            match effect {
                Effect::Transmit { to, bytes, token } => {
                    if let Err(failure) = self.transmit(to, bytes, token)
                        && let Some(token) = token
                    {
                        engine.handle_transmit_failed(now, &*self.0.env, token, failure);
                    }
                }
                Effect::Resolve {
                    id,
                    host,
                    port,
                    transport,
                } => self.resolve(id, host, port, transport),
                Effect::Relay { session, command } => self.command_relay(RelayOrder { session, command }),
                Effect::Report(report) => self.0.reports.send(now.wall, report),
                Effect::CloseConnection(id) => self.0.connections.close(id),
            }
        }
    }

    fn transmit(&self, to: Destination, bytes: Bytes, token: Option<TransmitToken>) -> Result<(), TransmitFailure> {
        let waiter = token.map(|token| Waiter {
            shard: self.0.index,
            token,
        });
        match to {
            Destination::Flow(Flow {
                trunk,
                transport: Transport::Udp,
                local,
                remote,
                ..
            }) => {
                let own = self.0.sockets.borrow().get(&local).map(|(_, socket)| Rc::clone(socket));
                let socket = own
                    .or_else(|| self.socket_of(&trunk, remote))
                    .ok_or(TransmitFailure::FlowGone)?;
                self.send_datagram(&socket, &bytes, remote)
            }
            Destination::Flow(Flow { connection, .. }) => {
                let connection = connection.ok_or(TransmitFailure::FlowGone)?;
                self.0.connections.send(connection, Outgoing { bytes, waiter })
            }
            Destination::Peer {
                trunk,
                transport: Transport::Udp,
                remote,
                ..
            } => {
                let socket = self.socket_of(&trunk, remote).ok_or(TransmitFailure::Unreachable)?;
                self.send_datagram(&socket, &bytes, remote)
            }
            Destination::Peer {
                trunk,
                transport,
                remote,
                tls_name,
            } => {
                debug_assert!(is_stream(transport), "datagrams are handled above");
                let settings = self.trunk(&trunk).ok_or(TransmitFailure::Unreachable)?;
                let peer = Peer {
                    trunk,
                    transport,
                    remote,
                    tls_name,
                };
                let id = match self.0.connections.reserve(Instant::now(), peer.clone()) {
                    Reserved::Existing(id) => id,
                    Reserved::New(registered) => {
                        let id = registered.id;
                        spawn_local(self.clone().dial(settings, peer, registered));
                        id
                    }
                    Reserved::Refused(failure) => return Err(failure),
                };
                self.0.connections.send(id, Outgoing { bytes, waiter })
            }
        }
    }

    fn send_datagram(
        &self,
        socket: &crate::net::udp::SipSocket,
        bytes: &[u8],
        to: SocketAddr,
    ) -> Result<(), TransmitFailure> {
        match socket.send(bytes, to) {
            Ok(()) => Ok(()),
            // The kernel's buffer is full: as if the network had lost it, and retransmission is the remedy.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.0.env.metrics.count_send_overflow();
                Ok(())
            }
            Err(error) => {
                tracing::debug!(%to, %error, "datagram refused");
                Err(TransmitFailure::Unreachable)
            }
        }
    }

    /// Opens a connection and runs it; its queue has been taking messages since it was reserved.
    async fn dial(self, trunk: Arc<Trunk>, peer: Peer, registered: Registered) {
        let (id, remote, transport) = (registered.id, peer.remote, peer.transport);
        let stream = match tcp::connect(remote, trunk.sip_dscp, trunk.tcp_connect_timeout).await {
            Ok(stream) => stream,
            Err(failure) => {
                if failure == TransmitFailure::ConnectTimeout {
                    self.0.connections.note_unreachable(Instant::now(), peer);
                }
                return connection::fail_queued(id, registered.queue, &self, failure);
            }
        };
        self.0.connections.note_reachable(&peer);
        let Ok(local) = stream.local_addr() else {
            return connection::fail_queued(id, registered.queue, &self, TransmitFailure::Unreachable);
        };
        let flow = Flow {
            trunk: trunk.id.clone(),
            transport,
            local,
            remote,
            connection: Some(id),
        };
        if transport == Transport::Tcp {
            let idle = trunk.tcp_idle_timeout;
            return Connection {
                flow,
                registered,
                dispatcher: self,
                idle,
                origin: Origin::Opened,
                patience: Patience::default(),
            }
            .run(stream)
            .await;
        }
        let name = peer.tls_name.as_deref().map_or_else(
            || Ok(ServerName::from(remote.ip())),
            |name| ServerName::try_from(name.to_owned()),
        );
        let (Some(tls), Ok(name)) = (self.0.tls.of(&trunk.id), name) else {
            return connection::fail_queued(id, registered.queue, &self, TransmitFailure::Tls);
        };
        // The handshake needs more round trips than the connect, and a busy peer computes.
        let patience = (2 * trunk.tcp_connect_timeout).max(Duration::from_secs(5));
        match timeout(patience, TlsConnector::from(tls.client).connect(name, stream)).await {
            Ok(Ok(stream)) => {
                let idle = trunk.tcp_idle_timeout;
                Connection {
                    flow,
                    registered,
                    dispatcher: self,
                    idle,
                    origin: Origin::Opened,
                    patience: Patience::default(),
                }
                .run(stream)
                .await;
            }
            Ok(Err(error)) => {
                tracing::info!(%remote, trunk = %trunk.id, %error, "TLS handshake failed");
                connection::fail_queued(id, registered.queue, &self, TransmitFailure::Tls);
            }
            Err(_) => connection::fail_queued(id, registered.queue, &self, TransmitFailure::ConnectTimeout),
        }
    }

    /// Looks a name up on the runtime's blocking pool; nothing on the way of a message waits for it.
    fn resolve(&self, id: ResolveId, host: Arc<str>, port: Option<u16>, transport: Transport) {
        let dispatcher = self.clone();
        let under_way = Counted::new(&self.0.resolves, RESOLVES);
        spawn_local(async move {
            let port = port.unwrap_or(if transport == Transport::Tls { 5061 } else { 5060 });
            let result = match under_way {
                Some(under_way) => look_up(host, port, under_way).await,
                None => Err(ResolveFailed),
            };
            dispatcher.input(Input::Resolved(id, result));
        });
    }

    fn command_relay(&self, order: RelayOrder) {
        let thread = self.0.relay.thread_of(order.session);
        let mut backlog = self.0.relay_backlog.borrow_mut();
        if backlog[thread].is_empty() {
            let Err(command) = self.0.relay.command(order.session, order.command) else {
                return;
            };
            backlog[thread].push_back(RelayOrder { command, ..order });
            self.0.relay_waits.notify_one();
        } else if backlog[thread].len() < RELAY_BACKLOG {
            backlog[thread].push_back(order);
        } else {
            self.0.env.metrics.count_relay_overflow();
        }
    }

    /// Tries commands that found no room again, in the order of each thread, until they are all handed over.
    pub(super) async fn run_relay_backlog(self) {
        loop {
            self.0.relay_waits.notified().await;
            while !self.flush_relay() {
                sleep(RELAY_RETRY).await;
            }
        }
    }

    /// Hands the media threads what they have room for; true when nothing is left.
    fn flush_relay(&self) -> bool {
        let mut backlog = self.0.relay_backlog.borrow_mut();
        for waiting in backlog.iter_mut() {
            while let Some(RelayOrder { session, command }) = waiting.pop_front() {
                if let Err(command) = self.0.relay.command(session, command) {
                    waiting.push_front(RelayOrder { session, command });
                    break;
                }
            }
        }
        backlog.iter().all(VecDeque::is_empty)
    }
}

/// One of a limited number of things under way; the number goes down when it is dropped, on whichever thread.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// `None` when there are `limit` already. Only one thread begins them.
    fn new(count: &Arc<AtomicUsize>, limit: usize) -> Option<Counted> {
        (count.load(Ordering::Relaxed) < limit).then(|| {
            count.fetch_add(1, Ordering::Relaxed);
            Counted(Arc::clone(count))
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The addresses of a name, from the system's resolver on a thread that may block. It counts as under way until that
/// thread is free again, which may be long after nobody waits any more.
async fn look_up(host: Arc<str>, port: u16, under_way: Counted) -> Result<Vec<SocketAddr>, ResolveFailed> {
    let name = Arc::clone(&host);
    let looked_up = spawn_blocking(move || {
        let _under_way = under_way;
        (&*name, port).to_socket_addrs().map(Vec::from_iter)
    });
    match timeout(RESOLVE_TIMEOUT, looked_up).await {
        Ok(Ok(Ok(found))) if !found.is_empty() => Ok(found),
        Ok(Ok(Err(error))) => {
            tracing::debug!(%host, %error, "name has no address");
            Err(ResolveFailed)
        }
        Ok(_) | Err(_) => Err(ResolveFailed),
    }
}
