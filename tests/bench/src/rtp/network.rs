//! Two network namespaces and the veth pair between them: phones on one side, the edge on the other.
//!
//! Addresses are those set aside for benchmarks (RFC 2544 Appendix C.2.2). The namespaces go when the [`Network`] goes.

use std::fs::File;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd;
use trunkline_tests::process::output;

/// The edge: signalling and relayed media.
pub const EDGE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Phones that call: their signalling.
pub const CALLER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// Phones that are called: theirs.
pub const CALLEE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 3);
/// Media of the phones that call. Nobody has these two: frames to them carry a hardware address that is no interface's, so that
/// the ring sees them and the stack drops them at once. It would look for a socket otherwise, and answer that there is none.
pub const CALLER_MEDIA: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 4);
/// Media of the phones that are called.
pub const CALLEE_MEDIA: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 5);
/// First of the phones' media ports, on either address.
pub const MEDIA_PORTS_FROM: u16 = 10_000;
/// First port behind them: room for five thousand pairs.
pub const MEDIA_PORTS_TO: u16 = 20_000;

/// The phones' interface.
pub const PHONES_LINK: &str = "phones0";
/// The edge's interface.
const EDGE_LINK: &str = "edge0";
/// A pair of interfaces that leads from the phones to themselves, for what the way costs without a relay on it.
pub const DIRECT_LINKS: (&str, &str) = ("direct0", "direct1");

/// Hardware address of the phones' interface: locally administered, chosen, so that nobody has to ask.
pub const PHONES_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];
/// Hardware address of the phones' media: no interface's.
const MEDIA_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 3];
/// Hardware address of the edge's.
pub const EDGE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

/// Networks of this process so far.
static MADE: AtomicU32 = AtomicU32::new(0);

/// A side of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where the system under test runs.
    Edge,
    /// Where the generator runs.
    Phones,
}

/// The namespaces, and the way back to where the benchmark came from.
#[derive(Debug)]
pub struct Network {
    edge: String,
    phones: String,
    home: File,
}

impl Network {
    /// Makes the namespaces and joins them.
    ///
    /// # Errors
    /// When this process may not, or `ip` is missing.
    pub fn create() -> Result<Self> {
        let (process, number) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let id = format!("{process}-{number}");
        let network = Self {
            edge: format!("tlm-edge-{id}"),
            phones: format!("tlm-phones-{id}"),
            home: File::open("/proc/thread-self/ns/net").context("open this network namespace")?,
        };
        let Self { edge, phones, .. } = &network;
        for name in [edge, phones] {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        ip(&format!(
            "link add {PHONES_LINK} netns {phones} address {} type veth peer name {EDGE_LINK} netns {edge} address {}",
            mac(PHONES_MAC),
            mac(EDGE_MAC)
        ))?;
        let (one, other) = DIRECT_LINKS;
        ip(&format!(
            "link add {one} netns {phones} type veth peer name {other} netns {phones}"
        ))?;
        for (name, link, addresses) in [
            (edge, EDGE_LINK, &[EDGE][..]),
            (phones, PHONES_LINK, &[CALLER, CALLEE]),
            (phones, one, &[]),
            (phones, other, &[]),
        ] {
            for address in addresses {
                ip(&format!("-n {name} address add {address}/24 dev {link}"))?;
            }
            ip(&format!("-n {name} link set {link} up"))?;
        }
        // Neighbours are known from the start: no packet of a measurement waits for ARP.
        for address in [CALLER, CALLEE] {
            neighbour(edge, address, PHONES_MAC, EDGE_LINK)?;
        }
        for address in [CALLER_MEDIA, CALLEE_MEDIA] {
            neighbour(edge, address, MEDIA_MAC, EDGE_LINK)?;
        }
        neighbour(phones, EDGE, EDGE_MAC, PHONES_LINK)?;
        Ok(network)
    }

    /// Moves this thread there, and with it the sockets it opens and the processes it starts from now on.
    ///
    /// # Errors
    /// When the namespace is gone or this process may not.
    pub fn enter(&self, place: Place) -> Result<()> {
        let name = match place {
            Place::Edge => &self.edge,
            Place::Phones => &self.phones,
        };
        let path = format!("/run/netns/{name}");
        move_to(&File::open(&path).with_context(|| format!("open {path}"))?)
    }

    /// Moves this thread back to where the network was made.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn leave(&self) -> Result<()> {
        move_to(&self.home)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A namespace lives on while something runs in it; its name goes.
        for name in [&self.edge, &self.phones] {
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

fn move_to(namespace: &File) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).context("change network namespace")
}

fn ip(words: &str) -> Result<()> {
    output("ip", words.split(' ')).map(drop)
}

fn neighbour(namespace: &str, address: Ipv4Addr, hardware: [u8; 6], link: &str) -> Result<()> {
    let hardware = mac(hardware);
    ip(&format!(
        "-n {namespace} neighbour replace {address} lladdr {hardware} dev {link} nud permanent"
    ))
}

fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}
