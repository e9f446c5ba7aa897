//! DSCP of sockets (rows 16 and 27; RFC 2474 §3: the upper six bits, the lower two are ECN's and stay 0).

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use trunkline_shared::dscp::Dscp;

/// Marks everything the socket sends from now on. The system's default is left in place for `Dscp` -1.
pub fn set_dscp<'s>(socket: impl Into<SockRef<'s>>, local: SocketAddr, dscp: Dscp) -> io::Result<()> {
    let Some(tos) = dscp.tos() else { return Ok(()) };
    let socket = socket.into();
    if local.is_ipv6() {
        socket.set_tclass_v6(u32::from(tos))
    } else {
        socket.set_tos_v4(u32::from(tos))
    }
}
