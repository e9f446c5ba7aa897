//! The portable tier: a socket for each leased port, watched by epoll. It needs no privilege.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use super::burst::{BURST, Burst, DATAGRAM};
use super::counters::Batch;
use super::socket;
use super::wire::{Arrived, Place, PortKey, WAKE, Wire};

/// Packets read from one socket before the others get their turn.
const FAIR_SHARE: usize = 16;

pub(super) struct EpollWire {
    poll: Poll,
    events: Events,
    ports: Slab<Port>,
    /// Sockets that may hold packets, read in turn until each is empty: epoll tells of each arrival once.
    ready: VecDeque<usize>,
}

struct Port {
    place: Place,
    socket: UdpSocket,
    local: SocketAddr,
    /// It is in `ready`: once is enough, however many events a flooded socket has.
    ready: bool,
}

impl EpollWire {
    pub(super) fn new() -> io::Result<EpollWire> {
        Ok(EpollWire {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            ports: Slab::new(),
            ready: VecDeque::new(),
        })
    }

    /// Reads up to a fair share from one socket; whether it is empty.
    fn read(&self, key: usize, burst: &mut Burst) -> bool {
        let Some(port) = self.ports.get(key) else { return true };
        for _ in 0..FAIR_SHARE.min(BURST - burst.arrived.len()) {
            let slot = burst.arrived.len();
            match socket::receive(&port.socket, &mut burst.datagram(slot)[..DATAGRAM]) {
                Ok(received) => burst.arrived.push(Arrived {
                    slot,
                    length: received.length,
                    place: port.place,
                    source: received.source,
                    tos: received.tos.unwrap_or(0),
                }),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                // An ICMP error of an earlier packet, for instance; the socket stays usable.
                Err(error) => tracing::trace!(%error, "media socket"),
            }
        }
        false
    }
}

impl Wire for EpollWire {
    fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKE)
    }

    fn wait(&mut self, patience: Duration) -> io::Result<()> {
        let patience = if self.ready.is_empty() {
            patience
        } else {
            Duration::ZERO
        };
        self.poll.poll(&mut self.events, Some(patience))?;
        for event in self.events.iter().filter(|event| event.token() != WAKE) {
            let key = event.token().0;
            if let Some(port) = self.ports.get_mut(key)
                && !std::mem::replace(&mut port.ready, true)
            {
                self.ready.push_back(key);
            }
        }
        Ok(())
    }

    fn receive(&mut self, burst: &mut Burst) -> bool {
        while burst.arrived.len() < BURST {
            let Some(key) = self.ready.pop_front() else {
                return false;
            };
            if !self.read(key, burst) {
                self.ready.push_back(key);
            } else if let Some(port) = self.ports.get_mut(key) {
                port.ready = false;
            }
        }
        !self.ready.is_empty()
    }

    fn send(&mut self, burst: &mut Burst, counts: &mut Batch) {
        for place in 0..burst.leaving.len() {
            let leaving = burst.leaving[place];
            let Some(port) = self.ports.get(leaving.from.0) else {
                continue;
            };
            let packet = &burst.datagram(leaving.slot)[..leaving.length];
            match port.socket.send_to(packet, leaving.destination) {
                Ok(sent) => counts.sent(sent),
                Err(_) => counts.send_failures += 1,
            }
        }
        burst.clear();
    }

    fn open(&mut self, place: Place, socket: UdpSocket) -> io::Result<PortKey> {
        let local = socket.local_addr()?;
        let entry = self.ports.vacant_entry();
        let key = entry.key();
        self.poll
            .registry()
            .register(&mut SourceFd(&socket.as_raw_fd()), Token(key), Interest::READABLE)?;
        entry.insert(Port {
            place,
            socket,
            local,
            ready: false,
        });
        Ok(PortKey(key))
    }

    fn mark(&mut self, port: PortKey, dscp: Option<u8>) -> io::Result<()> {
        match self.ports.get(port.0) {
            Some(Port { socket, local, .. }) => socket::set_dscp(socket, *local, dscp),
            None => Ok(()),
        }
    }

    /// Closing the socket takes it out of epoll.
    fn close(&mut self, port: PortKey) {
        if self.ports.try_remove(port.0).is_some_and(|port| port.ready) {
            self.ready.retain(|other| *other != port.0);
        }
    }
}
