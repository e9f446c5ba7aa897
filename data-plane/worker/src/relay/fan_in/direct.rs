//! The direct exit: packets handed to the device, past the kernel's IP layer.
//!
//! A third of what sending costs is the way through routing and filters, the same for each packet of a call. Here the way to
//! each destination is asked of the kernel once in a while and kept. Only ways over one Ethernet link are taken; everything
//! else, and the first packet after a way was kept for its time, goes by the raw socket, which is what keeps the kernel's own
//! knowledge of the neighbour alive.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use socket2::{SockAddr, SockAddrStorage};

use super::headers::{self, Heading};
use super::netlink::Netlink;
use super::outlet::Outlet;
use crate::relay::burst::{Burst, HEAD};
use crate::relay::wire::Leaving;

/// How long a way is kept: a route or neighbour that changes is followed after this long.
const KEPT: Duration = Duration::from_secs(2);
/// How soon a way that could not be taken is looked for again; a neighbour is found within milliseconds.
const AGAIN: Duration = Duration::from_millis(200);
/// Ways kept at once. More destinations than this have theirs looked up again and again, which costs and is correct.
const WAYS: usize = 65_536;
const LINK_HEADER: usize = 14;

/// A way to one destination.
struct Way {
    until: Instant,
    link: Option<LinkWay>,
}

struct LinkWay {
    header: [u8; LINK_HEADER],
    address: SockAddr,
    mtu: usize,
}

/// Sends by the links themselves.
pub(super) struct Direct {
    outlet: Outlet,
    netlink: Netlink,
    ways: HashMap<(IpAddr, IpAddr), Way>,
    identification: u16,
}

impl Direct {
    pub(super) fn new() -> io::Result<Direct> {
        Ok(Direct {
            outlet: Outlet::packet()?,
            netlink: Netlink::new()?,
            ways: HashMap::new(),
            identification: 0,
        })
    }

    /// Queues a datagram; false when it is to go by the raw socket.
    pub(super) fn queue(
        &mut self,
        now: Instant,
        burst: &mut Burst,
        leaving: Leaving,
        source: SocketAddr,
        tos: u8,
    ) -> bool {
        let key = (source.ip(), leaving.destination.ip());
        let Some(way) = self.ways.get(&key).filter(|way| now < way.until) else {
            self.look_up(now, key);
            return false;
        };
        let Some(link) = &way.link else { return false };
        let headers = headers::length(source);
        if headers + leaving.length > link.mtu {
            return false;
        }
        self.identification = self.identification.wrapping_add(1);
        let heading = Heading {
            source,
            destination: leaving.destination,
            tos,
            identification: self.identification,
        };
        let start = HEAD - headers;
        let slot = burst.slot(leaving.slot);
        headers::write(&mut slot[start..HEAD + leaving.length], &heading);
        slot[start - LINK_HEADER..start].copy_from_slice(&link.header);
        self.outlet.queue(leaving, start - LINK_HEADER, link.address.clone());
        true
    }

    /// Sends what is queued, see [`Outlet::flush`].
    pub(super) fn flush(&mut self, burst: &mut Burst, outcome: impl FnMut(Leaving, io::Result<()>)) {
        self.outlet.flush(burst, outcome);
    }

    fn look_up(&mut self, now: Instant, (source, destination): (IpAddr, IpAddr)) {
        let link = self.find(source, destination).unwrap_or_else(|error| {
            tracing::debug!(%destination, %error, "no direct way");
            None
        });
        if self.ways.len() >= WAYS {
            self.ways.retain(|_, way| now < way.until);
            if self.ways.len() >= WAYS {
                self.ways.clear();
            }
        }
        let until = now + if link.is_some() { KEPT } else { AGAIN };
        self.ways.insert((source, destination), Way { until, link });
    }

    fn find(&mut self, source: IpAddr, destination: IpAddr) -> io::Result<Option<LinkWay>> {
        let Some(hop) = self.netlink.route(source, destination)? else {
            return Ok(None);
        };
        let Some(link) = self.netlink.link(hop.link)? else {
            return Ok(None);
        };
        let Some(neighbour) = self.netlink.neighbour(hop)? else {
            return Ok(None);
        };
        let protocol = match destination {
            IpAddr::V4(_) => libc::ETH_P_IP,
            IpAddr::V6(_) => libc::ETH_P_IPV6,
        } as u16;
        let mut header = [0; LINK_HEADER];
        header[..6].copy_from_slice(&neighbour);
        header[6..12].copy_from_slice(&link.address);
        header[12..].copy_from_slice(&protocol.to_be_bytes());
        Ok(Some(LinkWay {
            header,
            address: link_address(hop.link, protocol),
            mtu: link.mtu,
        }))
    }
}

/// The address of a link for a packet socket (packet(7)): with a header of our own only its index matters.
#[expect(unsafe_code, reason = "an address family that socket2 has no constructor for")]
fn link_address(link: u32, protocol: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is large enough for every address, and is zeroed; the length is that of the type written.
    unsafe {
        let address = storage.view_as::<libc::sockaddr_ll>();
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = link as libc::c_int;
        SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    }
}
