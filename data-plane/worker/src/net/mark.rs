//! DSCP of sockets (rows 16 and 27; RFC 2474 §3: the upper six bits, the lower two are ECN's and stay 0).

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use trunkline_shared::dscp::Dscp;

/// Marks everything the socket sends from now on. `Dscp` -1 is the system's default, which is no mark: it has to be set too,
/// because the socket may have inherited or kept another one.
pub fn set_dscp<'s>(socket: impl Into<SockRef<'s>>, local: SocketAddr, dscp: Dscp) -> io::Result<()> {
    let tos = u32::from(dscp.tos().unwrap_or(0));
    let socket = socket.into();
    if local.is_ipv6() {
        socket.set_tclass_v6(tos)
    } else {
        socket.set_tos_v4(tos)
    }
}
