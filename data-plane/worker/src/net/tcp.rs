//! TCP sockets: listeners shared by the shards, accepted and dialled streams with the trunk's mark.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use trunkline_engine::io::TransmitFailure;
use trunkline_shared::dscp::Dscp;

use super::listener::Sharing;
use super::mark;

/// Connections waiting to be accepted by one shard: all phones of a site reconnect at once after an outage.
const BACKLOG: i32 = 4096;

/// A peer that vanished without a word is noticed after some four minutes, long before the idle timeout of a day.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(120);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEPALIVE_PROBES: u32 = 4;

/// Binds one listening socket, shared with the other shards' (SO_REUSEPORT). Accepted connections inherit the mark.
///
/// # Errors
/// As the system gives them: address in use, no permission, no such address.
pub fn bind(address: SocketAddr, dscp: Dscp, sharing: Sharing) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an earlier process in TIME_WAIT do not keep the port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::WithShards)?;
    socket.set_nonblocking(true)?;
    mark::set_dscp(&socket, address, dscp)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Prepares an accepted or dialled stream: small messages leave at once, marked; a dead peer is found out.
///
/// # Errors
/// When the connection is gone already.
pub fn prepare(stream: &TcpStream, dscp: Dscp) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
    mark::set_dscp(SockRef::from(stream), stream.local_addr()?, dscp)
}

/// Opens a connection; the SYN carries the mark too (row 16).
///
/// # Errors
/// [`TransmitFailure::ConnectTimeout`] after `patience` (row 19), [`TransmitFailure::Unreachable`] when the peer or the
/// network refuses.
pub async fn connect(remote: SocketAddr, dscp: Dscp, patience: Duration) -> Result<TcpStream, TransmitFailure> {
    let attempt = async {
        let socket = if remote.is_ipv6() {
            TcpSocket::new_v6()?
        } else {
            TcpSocket::new_v4()?
        };
        mark::set_dscp(SockRef::from(&socket), remote, dscp)?;
        let stream = socket.connect(remote).await?;
        prepare(&stream, dscp)?;
        io::Result::Ok(stream)
    };
    match timeout(patience, attempt).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            tracing::debug!(%remote, %error, "connection refused");
            Err(TransmitFailure::Unreachable)
        }
        Err(_) => Err(TransmitFailure::ConnectTimeout),
    }
}
