//! Listeners of this shard: datagrams read, connections accepted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use trunkline_engine::io::Flow;
use trunkline_shared::name::TrunkId;
use trunkline_shared::trunk::{Transport, Trunk};

use super::Dispatcher;
use crate::net::connection::{Connection, Origin, Patience};
use crate::net::connections::Admission;
use crate::net::listener::{ListenerId, ListenerOrder, ListenerSocket};
use crate::net::udp::{ReceiveBatch, SipSocket};
use crate::net::{tcp, tls};

/// Pause after an error that the next attempt would meet again, such as no free descriptor: the connections that wait do so
/// in the kernel, and the thread has calls to serve.
const PAUSE: Duration = Duration::from_millis(50);
/// Errors in a row that a datagram socket may give before it is taken for more than news of earlier datagrams.
const ERRORS: u32 = 64;

struct OpenListener {
    reader: JoinHandle<()>,
    udp: Option<(SocketAddr, Rc<SipSocket>)>,
}

impl Dispatcher {
    /// Carries out listener orders until there are no more.
    pub(super) async fn run_listeners(self, mut orders: mpsc::Receiver<ListenerOrder>) {
        let mut open: HashMap<ListenerId, OpenListener> = HashMap::new();
        while let Some(order) = orders.recv().await {
            match order {
                ListenerOrder::Open { id, trunk, socket } => {
                    // The order may be here before the news of what it is for.
                    self.catch_up();
                    match self.open(trunk, socket) {
                        Ok(listener) => drop(open.insert(id, listener)),
                        // The socket is bound; what is left to fail is the runtime's registration of it.
                        Err(error) => tracing::error!(%error, "listener could not be opened on this shard"),
                    }
                }
                ListenerOrder::Mark(id, dscp) => {
                    if let Some((_, socket)) = open.get(&id).and_then(|listener| listener.udp.as_ref())
                        && let Err(error) = socket.set_dscp(dscp)
                    {
                        tracing::warn!(%error, "listener could not be marked");
                    }
                }
                ListenerOrder::Close(id, closing) => {
                    if let Some(listener) = open.remove(&id) {
                        self.close(listener).await;
                    }
                    drop(closing);
                }
            }
        }
    }

    fn open(&self, trunk: TrunkId, socket: ListenerSocket) -> std::io::Result<OpenListener> {
        match socket {
            ListenerSocket::Udp(socket) => {
                let socket = Rc::new(SipSocket::from_std(socket)?);
                let local = socket.local();
                self.0
                    .sockets
                    .borrow_mut()
                    .insert(local, (trunk.clone(), Rc::clone(&socket)));
                let reader = spawn_local(self.clone().read_datagrams(trunk, Rc::clone(&socket)));
                Ok(OpenListener {
                    reader,
                    udp: Some((local, socket)),
                })
            }
            ListenerSocket::Stream(listener, transport) => {
                let listener = TcpListener::from_std(listener)?;
                let reader = spawn_local(self.clone().accept(trunk, transport, listener));
                Ok(OpenListener { reader, udp: None })
            }
        }
    }

    /// When it returns, the socket is closed.
    async fn close(&self, OpenListener { reader, udp }: OpenListener) {
        reader.abort();
        // It holds the socket until its task is really gone.
        if let Err(error) = reader.await
            && error.is_panic()
        {
            tracing::error!("a listener's task panicked");
        }
        if let Some((local, socket)) = udp {
            let mut sockets = self.0.sockets.borrow_mut();
            if sockets
                .get(&local)
                .is_some_and(|(_, current)| Rc::ptr_eq(current, &socket))
            {
                sockets.remove(&local);
            }
        }
    }

    async fn read_datagrams(self, trunk: TrunkId, socket: Rc<SipSocket>) {
        let mut batch = ReceiveBatch::default();
        let local = socket.local();
        let mut errors = 0;
        loop {
            let handle = |remote, bytes| {
                let flow = Flow {
                    trunk: trunk.clone(),
                    transport: Transport::Udp,
                    local,
                    remote,
                    connection: None,
                };
                self.datagram(flow, bytes);
            };
            // An error here is about an earlier datagram of ours (ICMP); the socket receives on.
            match socket.receive(&mut batch, handle).await {
                Ok(()) => errors = 0,
                Err(error) => {
                    tracing::debug!(%local, %error, "datagram socket");
                    errors += 1;
                    if errors % ERRORS == 0 {
                        tracing::warn!(%local, %error, errors, "datagram socket gives nothing but errors");
                        sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    async fn accept(self, trunk: TrunkId, transport: Transport, listener: TcpListener) {
        let mut failing = false;
        loop {
            let (stream, remote) = match listener.accept().await {
                Ok(accepted) => accepted,
                // The peer gave up while it waited; the next one is not to suffer.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    if !failing {
                        tracing::warn!(%trunk, %error, "connections cannot be accepted");
                        failing = true;
                    }
                    sleep(PAUSE).await;
                    continue;
                }
            };
            failing = false;
            let Some(admission) = self.0.connections.admit() else {
                self.0.env.metrics.count_connection_refused();
                continue;
            };
            let Some(settings) = self.trunk(&trunk) else { continue };
            spawn_local(self.clone().serve(settings, transport, stream, remote, admission));
        }
    }

    async fn serve(
        self,
        trunk: Arc<Trunk>,
        transport: Transport,
        stream: TcpStream,
        remote: SocketAddr,
        admission: Admission,
    ) {
        if let Err(error) = tcp::prepare(&stream, trunk.sip_dscp) {
            return tracing::debug!(%remote, %error, "connection ended before it began");
        }
        let Ok(local) = stream.local_addr() else { return };
        let idle = trunk.tcp_idle_timeout;
        let flow = |id| Flow {
            trunk: trunk.id.clone(),
            transport,
            local,
            remote,
            connection: Some(id),
        };
        if transport == Transport::Tcp {
            let registered = self.0.connections.insert(trunk.id.clone(), admission);
            let flow = flow(registered.id);
            return Connection {
                flow,
                registered,
                dispatcher: self,
                idle,
                origin: Origin::Accepted,
                patience: Patience::default(),
            }
            .run(stream)
            .await;
        }
        let Some(tls) = self.0.tls.of(&trunk.id) else { return };
        match timeout(tls::ACCEPT_TIMEOUT, TlsAcceptor::from(tls.server).accept(stream)).await {
            Ok(Ok(stream)) => {
                // Only now: what has not finished its handshake is no connection anybody could send over.
                let registered = self.0.connections.insert(trunk.id.clone(), admission);
                let flow = flow(registered.id);
                Connection {
                    flow,
                    registered,
                    dispatcher: self,
                    idle,
                    origin: Origin::Accepted,
                    patience: Patience::default(),
                }
                .run(stream)
                .await;
            }
            Ok(Err(error)) => {
                self.0.env.metrics.count_handshake_failure();
                tracing::debug!(%remote, trunk = %trunk.id, %error, "TLS handshake failed");
            }
            Err(_) => self.0.env.metrics.count_handshake_failure(),
        }
    }
}
