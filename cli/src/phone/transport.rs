//! The way to the server: a connected UDP socket or one TLS connection.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use trunkline_sip::parse::{Framing, Limits};
use trunkline_sip::stream::{Frame, Framer};
use trunkline_sip::timer::Reliability;

use super::PhoneError;

/// Longest wait for a TCP connection with its TLS handshake.
const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// Where the phone registers and sends everything (RFC 3261 §8.1.2, outbound proxy).
#[derive(Clone)]
pub enum Server {
    /// Plain UDP.
    Udp(SocketAddr),
    /// TLS; the certificate must name the address and be vouched for by the configuration's authorities.
    Tls(SocketAddr, Arc<ClientConfig>),
}

/// Transport as Via and URIs name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TLS over TCP.
    Tls,
}

/// A TLS configuration that trusts the certificates in a PEM file and nothing else.
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub fn tls_config(ca_file: &Path) -> io::Result<Arc<ClientConfig>> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).map_err(|error| invalid(error.to_string()))? {
        let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
        roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(invalid("no certificate in the file".into()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Server {
    /// Its address.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Udp(address) | Self::Tls(address, _) => *address,
        }
    }

    /// Its transport.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Udp(_) => Protocol::Udp,
            Self::Tls(..) => Protocol::Tls,
        }
    }
}

impl Protocol {
    /// As in Via (RFC 3261 §20.42).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tls => "TLS",
        }
    }

    pub(super) fn reliability(self) -> Reliability {
        match self {
            Self::Udp => Reliability::Unreliable,
            Self::Tls => Reliability::Reliable,
        }
    }

    pub(super) fn framing(self) -> Framing {
        match self {
            Self::Udp => Framing::Datagram,
            Self::Tls => Framing::Stream,
        }
    }
}

/// An open way to the server. What is to be sent waits in a queue until [`Transport::receive`] or [`Transport::flush`] run, so
/// that either may be dropped at any point without tearing a message apart.
pub(super) struct Transport {
    local: SocketAddr,
    link: Link,
}

enum Link {
    Udp {
        socket: UdpSocket,
        outgoing: VecDeque<Bytes>,
        buffer: Box<[u8]>,
    },
    Tls {
        stream: Box<TlsStream<TcpStream>>,
        outgoing: BytesMut,
        framer: Framer,
        buffer: BytesMut,
    },
}

/// Room for the largest datagram.
const DATAGRAM: usize = 65_535;
/// Read from a connection at once.
const READ: usize = 16 * 1024;

impl Transport {
    pub(super) async fn open(server: &Server) -> Result<Self, PhoneError> {
        let address = server.address();
        let opened = async {
            match server {
                Server::Udp(address) => Self::open_udp(*address).await,
                Server::Tls(address, config) => Self::open_tls(*address, config.clone()).await,
            }
        };
        tokio::time::timeout(CONNECT_WAIT, opened)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| PhoneError::Connect {
                server: address,
                source,
            })
    }

    async fn open_udp(server: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        let local = socket.local_addr()?;
        let buffer = vec![0; DATAGRAM].into_boxed_slice();
        Ok(Self {
            local,
            link: Link::Udp {
                socket,
                outgoing: VecDeque::new(),
                buffer,
            },
        })
    }

    async fn open_tls(server: SocketAddr, config: Arc<ClientConfig>) -> io::Result<Self> {
        let connection = TcpStream::connect(server).await?;
        connection.set_nodelay(true)?;
        let local = connection.local_addr()?;
        let name = ServerName::IpAddress(server.ip().into());
        let stream = Box::new(TlsConnector::from(config).connect(name, connection).await?);
        let framer = Framer::new(Limits::default());
        Ok(Self {
            local,
            link: Link::Tls {
                stream,
                outgoing: BytesMut::new(),
                framer,
                buffer: BytesMut::new(),
            },
        })
    }

    /// The phone's own address.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Puts a message into the queue.
    pub(super) fn queue(&mut self, message: &Bytes) {
        match &mut self.link {
            Link::Udp { outgoing, .. } => outgoing.push_back(message.clone()),
            Link::Tls { outgoing, .. } => outgoing.extend_from_slice(message),
        }
    }

    /// Sends what is queued. Cancel safe.
    pub(super) async fn flush(&mut self) -> Result<(), PhoneError> {
        match &mut self.link {
            Link::Udp { socket, outgoing, .. } => {
                while let Some(message) = outgoing.front() {
                    socket.send(message).await.map_err(PhoneError::Transport)?;
                    outgoing.pop_front();
                }
            }
            Link::Tls { stream, outgoing, .. } => {
                while outgoing.has_remaining() {
                    stream.write_buf(outgoing).await.map_err(PhoneError::Transport)?;
                }
                stream.flush().await.map_err(PhoneError::Transport)?;
            }
        }
        Ok(())
    }

    /// The next message. Answers keep-alives by itself. Cancel safe.
    pub(super) async fn receive(&mut self) -> Result<Bytes, PhoneError> {
        match &mut self.link {
            Link::Udp { socket, buffer, .. } => {
                let length = socket.recv(buffer).await.map_err(PhoneError::Transport)?;
                Ok(Bytes::copy_from_slice(&buffer[..length]))
            }
            Link::Tls {
                stream,
                outgoing,
                framer,
                buffer,
            } => loop {
                match framer.poll()? {
                    Some(Frame::Message(message)) => return Ok(message),
                    Some(Frame::Ping) => {
                        outgoing.extend_from_slice(b"\r\n");
                        while outgoing.has_remaining() {
                            stream.write_buf(outgoing).await.map_err(PhoneError::Transport)?;
                        }
                        stream.flush().await.map_err(PhoneError::Transport)?;
                    }
                    Some(Frame::Pong) => {}
                    None => {
                        buffer.reserve(READ);
                        if stream.read_buf(buffer).await.map_err(PhoneError::Transport)? == 0 {
                            return Err(PhoneError::Closed);
                        }
                        framer.push(buffer);
                        buffer.clear();
                    }
                }
            },
        }
    }
}
