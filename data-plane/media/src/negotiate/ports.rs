//! Where the session gets its ports from.

use std::net::{IpAddr, SocketAddr};

use crate::relay::{LegId, PortId};

/// The family of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl AddressFamily {
    /// The family of an address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => AddressFamily::V4,
            IpAddr::V6(_) => AddressFamily::V6,
        }
    }
}

/// A pair of ports to receive a leg's media at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortLease {
    /// What the relay's back-end knows the pair by.
    pub id: PortId,
    /// Where the leg sends RTP: the address as the peer sees it, not necessarily the one bound.
    pub rtp: SocketAddr,
    /// Where the leg sends RTCP, normally the next port of the same address.
    pub rtcp: SocketAddr,
}

/// No pair of ports is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no media port is free")]
pub struct PortsExhausted;

/// Hands out port pairs. The caller takes them back through
/// [`MediaSession::take_released`](super::MediaSession::take_released) and
/// [`MediaSession::close`](super::MediaSession::close).
pub trait PortAllocator {
    /// A free pair for this leg, with an advertised address of this family.
    ///
    /// # Errors
    /// [`PortsExhausted`] when none is free or the leg has no address of this family.
    fn allocate(&mut self, leg: LegId, family: AddressFamily) -> Result<PortLease, PortsExhausted>;
}
