//! What a tier is: how datagrams reach a media thread and how they leave it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use mio::Waker;
use trunkline_media::relay::LocalPort;

use super::burst::Burst;
use super::counters::Batch;

/// Token of the waker among a wire's own.
pub(super) const WAKE: mio::Token = mio::Token(usize::MAX);

/// A port of a session: where a datagram that arrives on it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Key of the session in its thread.
    pub(super) session: usize,
    /// Which of the session's ports.
    pub(super) port: LocalPort,
}

/// A port that was opened, by its number in its wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PortKey(pub(super) usize);

/// Sockets of one media thread. Call order: [`wait`](Wire::wait), then [`receive`](Wire::receive) and [`send`](Wire::send) in
/// turn for as long as there is something to receive; ports are opened and closed in between.
pub(super) trait Wire {
    /// Wakes [`wait`](Wire::wait) from another thread, which unparks this one too.
    fn waker(&self) -> io::Result<Waker>;

    /// Waits until datagrams are there, the waker is used and the thread unparked, or `patience` is over.
    fn wait(&mut self, patience: Duration) -> io::Result<()>;

    /// Fills an empty burst; true when more may be waiting than found room.
    fn receive(&mut self, burst: &mut Burst) -> bool;

    /// Sends what is leaving in the burst and empties it.
    fn send(&mut self, burst: &mut Burst, counts: &mut Batch);

    /// Begins to receive on a port that was bound for its lease. What waits in the socket arrives before anything newer.
    fn open(&mut self, place: Place, socket: UdpSocket) -> io::Result<PortKey>;

    /// Marks what leaves the port from now on; `None` is no mark.
    fn mark(&mut self, port: PortKey, dscp: Option<u8>) -> io::Result<()>;

    /// Ends receiving on a port and frees it.
    fn close(&mut self, port: PortKey);
}

/// A datagram that arrived: it stands in its slot of the burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrived {
    pub(super) slot: usize,
    pub(super) length: usize,
    pub(super) place: Place,
    pub(super) source: SocketAddr,
    /// TOS or traffic-class octet; 0 when the kernel gave none.
    pub(super) tos: u8,
}

/// A datagram that leaves: it stands in its slot of the burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaving {
    pub(super) slot: usize,
    pub(super) length: usize,
    pub(super) from: PortKey,
    pub(super) destination: SocketAddr,
}
