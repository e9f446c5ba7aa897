//! The fan-in tier: one socket for all ports of a media thread.
//!
//! What a relay costs is the kernel's work for each socket that wakes up. Here a BPF program (`steering`) gives all
//! datagrams of the leased ports of a thread to one socket, from which they are read in batches with the address they were
//! sent to (`receive`); they leave in batches by a raw socket (`outlet`), or where that was asked for by the links
//! themselves (`direct`). Under load the thread rests for a moment between two batches, so that they are large.
//!
//! Needs CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW, and a kernel with `sk_lookup` programs (5.9).

mod direct;
mod headers;
mod netlink;
mod outlet;
mod receive;
mod steering;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use self::direct::Direct;
use self::headers::Heading;
use self::outlet::{Outlet, raw_address};
use self::receive::{Received, Room};
use self::steering::Steering;
pub use self::steering::SteeringError;
use super::burst::{BURST, Burst, DATAGRAM, HEAD};
use super::counters::Batch;
use super::socket;
use super::wire::{Arrived, Leaving, Place, PortKey, WAKE, Wire};
use crate::net::option;

/// A stall of the thread for a second loses nothing of 2,000 two-way streams: 100,000 packets of at most 768 octets with the
/// kernel's book-keeping. It is taken only while packets wait.
const RECEIVE_BUFFER: usize = 64 * 1024 * 1024;
/// The rest between two batches. It bounds what the tier adds to a packet's delay. Of 0.5 and 1 ms, 1 ms took 7.3 instead of
/// 10.0 µs of CPU time a packet at 100 two-way streams, 5.2 instead of 6.0 at 400, and 4.5 instead of 4.7 at 1,000 (one thread,
/// busy machine).
const TICK: Duration = Duration::from_millis(1);
/// Packets in a round from which on resting is cheaper than waking up for each; both directions of one call stay below.
const BUSY: usize = 4;

/// Why the tier cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FanInError {
    /// The BPF program.
    #[error(transparent)]
    Steering(#[from] SteeringError),
    /// A socket.
    #[error("make the socket that {0}")]
    Socket(&'static str, #[source] io::Error),
}

/// What the threads of a worker share.
pub(super) struct FanIn {
    steering: Arc<Steering>,
    exit: Exit,
}

/// How packets leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// Through the kernel's IP layer.
    Raw,
    /// By the link itself where there is a plain way over one.
    Direct,
}

impl FanIn {
    /// Attaches the program.
    pub(super) fn new(exit: Exit) -> Result<FanIn, FanInError> {
        Ok(FanIn {
            steering: Arc::new(Steering::attach()?),
            exit,
        })
    }

    /// The wire of a thread.
    pub(super) fn wire(&self, thread: usize) -> Result<FanInWire, FanInError> {
        let poll = Poll::new().map_err(|error| FanInError::Socket("waits", error))?;
        let family = |number: usize, address: IpAddr| -> Result<Family, FanInError> {
            let place = u32::try_from(2 * thread + number).expect("a handful of threads");
            let family = Family::new(address, place)?;
            self.steering.add_socket(place, &family.inbox)?;
            poll.registry()
                .register(
                    &mut SourceFd(&family.inbox.as_raw_fd()),
                    Token(number),
                    Interest::READABLE,
                )
                .map_err(|error| FanInError::Socket("waits", error))?;
            Ok(family)
        };
        let v4 = family(0, Ipv4Addr::LOCALHOST.into())?;
        // A machine without IPv6 has no such ports to lease either.
        let v6 = match family(1, Ipv6Addr::LOCALHOST.into()) {
            Ok(family) => Some(family),
            Err(error) => {
                tracing::debug!(%error, "no media over IPv6");
                None
            }
        };
        let direct = match self.exit {
            Exit::Raw => None,
            Exit::Direct => Some(Direct::new().map_err(|error| FanInError::Socket("sends directly", error))?),
        };
        Ok(FanInWire {
            direct,
            steering: Arc::clone(&self.steering),
            poll,
            events: Events::with_capacity(8),
            v4,
            v6,
            ports: Slab::new(),
            by_number: vec![NONE; usize::from(u16::MAX) + 1].into_boxed_slice(),
            draining: VecDeque::new(),
            room: Room::new(),
            round: 0,
        })
    }
}

/// The sockets of one address family.
struct Family {
    place: u32,
    inbox: UdpSocket,
    outlet: Outlet,
    /// Ports that are open. Without any the inbox is not asked: only strays could be there.
    open: usize,
}

struct Port {
    place: Place,
    local: SocketAddr,
    tos: u8,
}

/// In [`FanInWire::by_number`]: nothing is open under this number.
const NONE: u32 = u32::MAX;

pub(super) struct FanInWire {
    direct: Option<Direct>,
    steering: Arc<Steering>,
    poll: Poll,
    events: Events,
    v4: Family,
    v6: Option<Family>,
    ports: Slab<Port>,
    /// Key of the open port by its number; numbers are leased once, whatever the address.
    by_number: Box<[u32]>,
    /// Sockets the ports were leased with, to be emptied of what came before the port was steered.
    draining: VecDeque<(usize, UdpSocket)>,
    room: Room,
    /// Packets since the last wait.
    round: usize,
}

impl Family {
    /// Sockets of the family of `loopback`, to which the inbox is bound: it has to be bound to be given datagrams, and nobody
    /// else is to reach its own port.
    fn new(loopback: IpAddr, place: u32) -> Result<Family, FanInError> {
        let inbox = || -> io::Result<UdpSocket> {
            let address = SocketAddr::new(loopback, 0);
            let inbox = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
            socket::prepare(&inbox, address)?;
            force_buffer(&inbox, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
            let (level, name) = if loopback.is_ipv4() {
                (libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR)
            } else {
                (libc::IPPROTO_IPV6, libc::IPV6_RECVORIGDSTADDR)
            };
            option::set_int(&inbox, level, name, 1)?;
            inbox.bind(&address.into())?;
            Ok(inbox.into())
        };
        Ok(Family {
            place,
            inbox: inbox().map_err(|error| FanInError::Socket("receives", error))?,
            outlet: Outlet::raw(Domain::for_address(SocketAddr::new(loopback, 0)))
                .map_err(|error| FanInError::Socket("sends", error))?,
            open: 0,
        })
    }

    /// Writes the headers of a datagram in front of it and queues it for the raw socket.
    fn queue(&mut self, burst: &mut Burst, leaving: Leaving, port: &Port) {
        let start = HEAD - headers::length(port.local);
        let heading = Heading {
            source: port.local,
            destination: leaving.destination,
            tos: port.tos,
            identification: 0,
        };
        headers::write(&mut burst.slot(leaving.slot)[start..HEAD + leaving.length], &heading);
        self.outlet.queue(leaving, start, raw_address(leaving.destination));
    }
}

impl FanInWire {
    /// Reads what waited in the sockets of new ports; true when the burst is full.
    fn drain(&mut self, burst: &mut Burst) -> bool {
        while let Some((key, socket)) = self.draining.front() {
            while burst.arrived.len() < BURST {
                let slot = burst.arrived.len();
                match (
                    self.ports.get(*key),
                    socket::receive(socket, &mut burst.datagram(slot)[..DATAGRAM]),
                ) {
                    (Some(port), Ok(received)) => burst.arrived.push(Arrived {
                        slot,
                        length: received.length,
                        place: port.place,
                        source: received.source,
                        tos: received.tos.unwrap_or(0),
                    }),
                    // Empty, or in error: nothing arrives here any more.
                    _ => break,
                }
            }
            if burst.arrived.len() == BURST {
                return true;
            }
            self.draining.pop_front();
        }
        false
    }

    /// What the kernel would not send because it is larger than the way's MTU, sent by a socket of the port, which fragments.
    fn send_fragmented(&self, burst: &mut Burst, leaving: Leaving) -> io::Result<()> {
        let port = self.ports.get(leaving.from.0).ok_or(io::ErrorKind::NotFound)?;
        let socket = socket::bind_media(port.local)?;
        socket::set_dscp(&socket, port.local, Some(port.tos >> 2))?;
        let packet = &burst.datagram(leaving.slot)[..leaving.length];
        socket.send_to(packet, leaving.destination).map(drop)
    }
}

impl Wire for FanInWire {
    fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKE)
    }

    fn wait(&mut self, patience: Duration) -> io::Result<()> {
        let busy = std::mem::take(&mut self.round) >= BUSY;
        if busy && patience.is_zero() {
            // More waits already: a rest now would be taken from the streams.
            return Ok(());
        }
        if busy {
            // Whoever has orders unparks the thread.
            std::thread::park_timeout(TICK.min(patience));
            return Ok(());
        }
        self.poll.poll(&mut self.events, Some(patience))
    }

    fn receive(&mut self, burst: &mut Burst) -> bool {
        if self.drain(burst) {
            return true;
        }
        let mut next = burst.arrived.len();
        let (ports, by_number) = (&self.ports, &self.by_number);
        let mut take = |burst: &mut Burst, received: Received| {
            let key = by_number[usize::from(received.destination.port())];
            // What is addressed to no open port came to the inbox's own, or to a port that was just closed.
            if let Some(port) = ports.get(key as usize)
                && port.local.ip() == received.destination.ip()
            {
                burst.arrived.push(Arrived {
                    slot: received.slot,
                    length: received.length,
                    place: port.place,
                    source: received.source,
                    tos: received.tos,
                });
            }
        };
        let families = std::iter::once(&self.v4).chain(&self.v6);
        for family in families.filter(|family| family.open > 0) {
            if next == BURST {
                break;
            }
            match self.room.receive(&family.inbox, burst, next, &mut take) {
                Ok(count) => next += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => tracing::trace!(%error, "media inbox"),
            }
        }
        self.round += next;
        next == BURST
    }

    fn send(&mut self, burst: &mut Burst, counts: &mut Batch) {
        let now = Instant::now();
        for index in 0..burst.leaving.len() {
            let leaving = burst.leaving[index];
            let family = match (leaving.destination, &mut self.v6) {
                (SocketAddr::V4(_), _) => Some(&mut self.v4),
                (SocketAddr::V6(_), v6) => v6.as_mut(),
            };
            let port = self.ports.get(leaving.from.0);
            let port = port.filter(|port| port.local.is_ipv4() == leaving.destination.is_ipv4());
            let (Some(family), Some(port)) = (family, port) else {
                counts.send_failures += 1;
                continue;
            };
            let direct = self.direct.as_mut();
            if !direct.is_some_and(|direct| direct.queue(now, burst, leaving, port.local, port.tos)) {
                family.queue(burst, leaving, port);
            }
        }
        let mut too_large = Vec::new();
        let mut outcome = |leaving: Leaving, outcome: io::Result<()>| match outcome {
            Ok(()) => counts.sent(leaving.length),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => too_large.push(leaving),
            Err(_) => counts.send_failures += 1,
        };
        if let Some(direct) = &mut self.direct {
            direct.flush(burst, &mut outcome);
        }
        for family in std::iter::once(&mut self.v4).chain(&mut self.v6) {
            family.outlet.flush(burst, &mut outcome);
        }
        for leaving in too_large {
            match self.send_fragmented(burst, leaving) {
                Ok(()) => counts.sent(leaving.length),
                Err(_) => counts.send_failures += 1,
            }
        }
        burst.clear();
    }

    fn open(&mut self, place: Place, socket: UdpSocket) -> io::Result<PortKey> {
        let local = socket.local_addr()?;
        let family = match local {
            SocketAddr::V4(_) => Some(&mut self.v4),
            SocketAddr::V6(_) => self.v6.as_mut(),
        };
        let family = family.ok_or(io::ErrorKind::Unsupported)?;
        let key = self.ports.insert(Port { place, local, tos: 0 });
        if let Err(error) = self.steering.steer(local, family.place) {
            self.ports.remove(key);
            return Err(io::Error::other(error));
        }
        family.open += 1;
        self.by_number[usize::from(local.port())] = u32::try_from(key).expect("fewer ports than a range has");
        self.draining.push_back((key, socket));
        self.round += BUSY;
        Ok(PortKey(key))
    }

    fn mark(&mut self, port: PortKey, dscp: Option<u8>) -> io::Result<()> {
        if let Some(port) = self.ports.get_mut(port.0) {
            port.tos = dscp.unwrap_or(0) << 2;
        }
        Ok(())
    }

    fn close(&mut self, port: PortKey) {
        let Some(Port { local, .. }) = self.ports.try_remove(port.0) else {
            return;
        };
        match local {
            SocketAddr::V4(_) => self.v4.open -= 1,
            SocketAddr::V6(_) => self.v6.iter_mut().for_each(|family| family.open -= 1),
        }
        self.draining.retain(|(key, _)| *key != port.0);
        self.by_number[usize::from(local.port())] = NONE;
        if let Err(error) = self.steering.release(local.port()) {
            tracing::warn!(%local, %error, "media port is still steered");
        }
    }
}

/// Sets a buffer's size past the system's limit (CAP_NET_ADMIN).
fn force_buffer(socket: &Socket, name: libc::c_int, octets: usize) -> io::Result<()> {
    let octets = libc::c_int::try_from(octets).expect("megabytes");
    option::set_int(socket, libc::SOL_SOCKET, name, octets)
}
