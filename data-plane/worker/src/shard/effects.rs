//! What the engine asks for, done: sending, dialling, looking names up, commanding the relay, reporting.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls_pki_types::ServerName;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use trunkline_engine::Engine;
use trunkline_engine::io::{
    Destination, Effect, Flow, Now, RelayCommand, ResolveFailed, ResolveId, SessionId, TransmitFailure, TransmitToken,
};
use trunkline_shared::trunk::{Transport, Trunk};

use super::input::Input;
use super::{Dispatcher, is_stream};
use crate::net::connection::{self, Connection};
use crate::net::connections::{Outgoing, Peer, Registered, Reserved, Waiter};
use crate::net::tcp;

/// Commands that wait for a busy media thread. They are ended calls and re-offers: more than this many at once cannot
/// come from the calls a shard may have.
const RELAY_BACKLOG: usize = 100_000;
/// A name server that does not answer for this long has no answer the call could wait for.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

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
                let id = match self.0.connections.reserve(Peer {
                    trunk,
                    transport,
                    remote,
                    tls_name: tls_name.clone(),
                }) {
                    Reserved::Existing(id) => id,
                    Reserved::New(registered) => {
                        let id = registered.id;
                        spawn_local(self.clone().dial(settings, transport, remote, tls_name, registered));
                        id
                    }
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
    async fn dial(
        self,
        trunk: Arc<Trunk>,
        transport: Transport,
        remote: SocketAddr,
        tls_name: Option<Arc<str>>,
        registered: Registered,
    ) {
        let id = registered.id;
        let stream = match tcp::connect(remote, trunk.sip_dscp, trunk.tcp_connect_timeout).await {
            Ok(stream) => stream,
            Err(failure) => return connection::fail_queued(id, registered.queue, &self, failure),
        };
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
            }
            .run(stream)
            .await;
        }
        let name = tls_name.as_deref().map_or_else(
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
        spawn_local(async move {
            let port = port.unwrap_or(if transport == Transport::Tls { 5061 } else { 5060 });
            let looked_up = timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((&*host, port))).await;
            let result = match looked_up {
                Ok(Ok(addresses)) => Ok(addresses.collect::<Vec<_>>()).and_then(|found| {
                    if found.is_empty() {
                        Err(ResolveFailed)
                    } else {
                        Ok(found)
                    }
                }),
                Ok(Err(error)) => {
                    tracing::debug!(%host, %error, "name has no address");
                    Err(ResolveFailed)
                }
                Err(_) => Err(ResolveFailed),
            };
            dispatcher.input(Input::Resolved(id, result));
        });
    }

    fn command_relay(&self, order: RelayOrder) {
        let mut backlog = self.0.relay_backlog.borrow_mut();
        if backlog.len() >= RELAY_BACKLOG {
            self.0.env.metrics.count_relay_overflow();
            return;
        }
        backlog.push_back(order);
        drop(backlog);
        self.flush_relay();
    }

    /// Hands the relay what it has room for, in order.
    pub(super) fn flush_relay(&self) {
        let mut backlog = self.0.relay_backlog.borrow_mut();
        while let Some(RelayOrder { session, command }) = backlog.pop_front() {
            if let Err(command) = self.0.relay.command(session, command) {
                backlog.push_front(RelayOrder { session, command });
                return;
            }
        }
    }
}
