//! Accepting connections: TCP, then TLS, each handshake on its own so that a slow peer holds up nobody.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

/// A peer that has not finished its handshake by then is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at the same time; beyond it connections wait in the kernel's backlog.
const CONCURRENT_HANDSHAKES: usize = 128;
/// Pause after an accept that failed, e.g. for want of file descriptors: trying at once would spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The peer of a connection; an extension of every request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it connects from.
    pub address: SocketAddr,
    /// Its certificate, verified against the managed CA; `None` when it presented none.
    pub certificate: Option<CertificateDer<'static>>,
}

/// An accepted connection.
#[derive(Debug)]
pub enum Connection {
    /// After the TLS handshake.
    Tls(Box<TlsStream<TcpStream>>, Peer),
    /// Plain TCP, on loopback only.
    Plain(TcpStream, Peer),
}

/// Accepts connections until `stop` is cancelled; with `tls`, yields them after their handshake.
pub fn accept(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    let (accepted, incoming) = mpsc::channel(16);
    tokio::spawn(accept_loop(listener, tls.map(TlsAcceptor::from), accepted, stop));
    ReceiverStream::new(incoming)
}

async fn accept_loop(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    accepted: mpsc::Sender<io::Result<Connection>>,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(CONCURRENT_HANDSHAKES));
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = accepted.closed() => return,
            next = listener.accept() => next,
        };
        match next {
            Ok((stream, address)) => {
                let (tls, accepted) = (tls.clone(), accepted.clone());
                handshakes.spawn(async move {
                    if let Some(connection) = establish(stream, address, tls).await {
                        // The server is going away when nobody takes it.
                        drop(accepted.send(Ok(connection)).await);
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "accept a connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn establish(stream: TcpStream, address: SocketAddr, tls: Option<TlsAcceptor>) -> Option<Connection> {
    // Small messages both ways: waiting to fill a segment only adds latency.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%address, error = &error as &dyn std::error::Error, "set TCP_NODELAY");
    }
    let Some(tls) = tls else {
        return Some(Connection::Plain(
            stream,
            Peer {
                address,
                certificate: None,
            },
        ));
    };
    match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificate = stream
                .get_ref()
                .1
                .peer_certificates()
                .and_then(<[_]>::first)
                .map(|leaf| leaf.clone().into_owned());
            Some(Connection::Tls(Box::new(stream), Peer { address, certificate }))
        }
        Ok(Err(error)) => {
            debug!(%address, error = &error as &dyn std::error::Error, "TLS handshake");
            None
        }
        Err(_) => {
            debug!(%address, "TLS handshake took too long");
            None
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match self {
            Self::Tls(_, peer) | Self::Plain(_, peer) => peer.clone(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream, _) => Pin::new(stream).poll_read(cx, buf),
            Self::Plain(stream, _) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream, _) => Pin::new(stream).poll_write(cx, buf),
            Self::Plain(stream, _) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
            Self::Plain(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Self::Plain(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
