//! The pool of media ports: even/odd pairs from one range, bound when they are leased.
//!
//! A pair is bound on the shard's thread, so that an address in use is found before it is advertised, and waits here until
//! the media thread takes it. Given back, its number rests in quarantine: packets of the old call must not reach a new one.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use trunkline_media::negotiate::{AddressFamily, PortLease, PortsExhausted};
use trunkline_media::relay::PortId;

use super::socket;
use crate::net::address::AddressBook;

/// How long a port rests before it is leased again. Longer than a phone keeps sending after a BYE (a few packets) and than
/// a BYE retransmission that crosses the end of a call.
pub const QUARANTINE: Duration = Duration::from_secs(5);

/// Ports another program holds are skipped; this many in a row mean that the range is not ours.
const BIND_TRIES: usize = 16;

/// A leased pair, bound.
#[derive(Debug)]
pub struct BoundPair {
    /// The even port.
    pub rtp: UdpSocket,
    /// The odd port.
    pub rtcp: UdpSocket,
}

/// Hands out pairs of ports; shared by all shards and media threads.
pub struct PortPool {
    addresses: AddressBook,
    numbers: Mutex<Numbers>,
    next_id: AtomicU32,
    /// Even port by lease.
    leased: DashMap<PortId, u16>,
    /// Bound and not yet taken by a media thread.
    waiting: DashMap<PortId, BoundPair>,
}

struct Numbers {
    free: VecDeque<u16>,
    resting: VecDeque<(Instant, u16)>,
}

impl PortPool {
    /// A pool over the even ports of `range` whose odd neighbour is in the range too.
    pub fn new(range: RangeInclusive<u16>, addresses: AddressBook) -> Self {
        let (low, high) = (*range.start(), *range.end());
        let free = (low..=high).filter(|port| port % 2 == 0 && *port < high).collect();
        PortPool {
            addresses,
            numbers: Mutex::new(Numbers {
                free,
                resting: VecDeque::new(),
            }),
            next_id: AtomicU32::new(1),
            leased: DashMap::new(),
            waiting: DashMap::new(),
        }
    }

    /// Leases and binds a pair for a leg whose signalling uses our address `local`.
    ///
    /// # Errors
    /// When the worker has no address of that family, or no pair of the range can be bound.
    pub fn lease(&self, now: Instant, local: IpAddr, family: AddressFamily) -> Result<PortLease, PortsExhausted> {
        let address = self.addresses.media(local, family).ok_or(PortsExhausted)?;
        for _ in 0..BIND_TRIES {
            let port = self.take_number(now).ok_or(PortsExhausted)?;
            match bind_pair(address.bind, port) {
                Ok(pair) => {
                    let id = self.unused_id();
                    self.leased.insert(id, port);
                    self.waiting.insert(id, pair);
                    return Ok(PortLease {
                        id,
                        rtp: SocketAddr::new(address.advertised, port),
                        rtcp: SocketAddr::new(address.advertised, port + 1),
                    });
                }
                Err(error) => {
                    tracing::debug!(port, %error, "media port is taken by somebody else");
                    self.rest(now, port);
                }
            }
        }
        Err(PortsExhausted)
    }

    /// The sockets of a lease; `None` when they were taken before or the lease has ended.
    pub fn take_sockets(&self, id: PortId) -> Option<BoundPair> {
        self.waiting.remove(&id).map(|(_, pair)| pair)
    }

    /// Ends a lease. Giving one back twice does nothing.
    pub fn release(&self, now: Instant, id: PortId) {
        self.waiting.remove(&id);
        if let Some((_, port)) = self.leased.remove(&id) {
            self.rest(now, port);
        }
    }

    /// Pairs leased now.
    pub fn leased(&self) -> usize {
        self.leased.len()
    }

    /// Numbers start over after 2³² leases; a call may have lasted that long.
    fn unused_id(&self) -> PortId {
        loop {
            let id = PortId(self.next_id.fetch_add(1, Ordering::Relaxed));
            if !self.leased.contains_key(&id) {
                return id;
            }
        }
    }

    fn take_number(&self, now: Instant) -> Option<u16> {
        let mut numbers = self
            .numbers
            .lock()
            .expect("no holder panics: it moves numbers between queues");
        while let Some((until, port)) = numbers.resting.front().copied() {
            if until > now {
                break;
            }
            numbers.resting.pop_front();
            numbers.free.push_back(port);
        }
        numbers.free.pop_front()
    }

    fn rest(&self, now: Instant, port: u16) {
        let mut numbers = self
            .numbers
            .lock()
            .expect("no holder panics: it moves numbers between queues");
        numbers.resting.push_back((now + QUARANTINE, port));
    }
}

fn bind_pair(address: IpAddr, port: u16) -> io::Result<BoundPair> {
    Ok(BoundPair {
        rtp: socket::bind_media(SocketAddr::new(address, port))?,
        rtcp: socket::bind_media(SocketAddr::new(address, port + 1))?,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn pool(range: RangeInclusive<u16>) -> PortPool {
        PortPool::new(range, AddressBook::default())
    }

    #[test]
    fn pairs_are_even_and_odd_and_bound() {
        let pool = pool(42_001..=42_006);
        let now = Instant::now();
        let lease = pool.lease(now, HOST, AddressFamily::V4).expect("two pairs fit");
        assert_eq!(lease.rtp.port() % 2, 0);
        assert_eq!(lease.rtcp.port(), lease.rtp.port() + 1);
        assert!(UdpSocket::bind(lease.rtp).is_err(), "the port is held");
        let pair = pool.take_sockets(lease.id).expect("bound");
        assert_eq!(pair.rtcp.local_addr().expect("bound"), lease.rtcp);
        assert!(pool.take_sockets(lease.id).is_none());
    }

    #[test]
    fn a_port_given_back_rests_before_it_is_leased_again() {
        let pool = pool(42_010..=42_011);
        let now = Instant::now();
        let lease = pool.lease(now, HOST, AddressFamily::V4).expect("one pair fits");
        assert!(pool.lease(now, HOST, AddressFamily::V4).is_err());
        pool.release(now, lease.id);
        pool.release(now, lease.id);
        assert_eq!(pool.leased(), 0);
        assert!(
            pool.lease(now + QUARANTINE - Duration::from_millis(1), HOST, AddressFamily::V4)
                .is_err()
        );
        let again = pool.lease(now + QUARANTINE, HOST, AddressFamily::V4).expect("rested");
        assert_eq!(again.rtp, lease.rtp);
        assert!(
            pool.lease(now + QUARANTINE, HOST, AddressFamily::V4).is_err(),
            "given back twice, there once"
        );
    }

    #[test]
    fn a_port_held_by_another_program_is_skipped() {
        let pool = pool(42_020..=42_023);
        let _other = UdpSocket::bind((HOST, 42_021)).expect("free");
        let lease = pool
            .lease(Instant::now(), HOST, AddressFamily::V4)
            .expect("the second pair");
        assert_eq!(lease.rtp.port(), 42_022);
    }

    #[test]
    fn a_family_without_an_address_has_no_ports() {
        assert!(
            pool(42_030..=42_031)
                .lease(Instant::now(), HOST, AddressFamily::V6)
                .is_err()
        );
    }
}
