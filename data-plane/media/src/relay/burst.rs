//! Packets of many sessions at once: the same as one after the other, but the SRTP work of several is interleaved.

use std::net::SocketAddr;
use std::time::Instant;

use smallvec::SmallVec;

use crate::packet::PacketBuf;
use crate::srtp::{Indexed, Job, open_batch, seal_batch};

pub use crate::srtp::MAX_BATCH;

use super::config::LocalPort;
use super::session::RelaySession;
use super::verdict::{DropReason, Verdict};
use super::way::Arrival;

/// One packet of a burst.
#[derive(Debug)]
pub struct BurstPacket<'a, K> {
    /// Whose packet it is, in the table's terms.
    pub session: K,
    /// The local port it arrived on.
    pub port: LocalPort,
    /// Where it came from.
    pub source: SocketAddr,
    /// IPv4 TOS or IPv6 traffic class octet it came with.
    pub tos: u8,
    /// The datagram, rewritten in place.
    pub packet: PacketBuf<'a>,
    /// What became of it: set by [`relay_burst`], whatever it was.
    pub verdict: Verdict,
}

impl<'a, K> BurstPacket<'a, K> {
    /// A packet as it arrived.
    pub fn new(session: K, port: LocalPort, source: SocketAddr, tos: u8, packet: PacketBuf<'a>) -> Self {
        Self {
            session,
            port,
            source,
            tos,
            packet,
            verdict: Verdict::Drop(DropReason::UnknownPort),
        }
    }
}

/// Where the sessions of a burst are found: the back-end's table. A key stands for the same session during a burst.
pub trait SessionTable {
    /// What names a session.
    type Key: Copy;

    /// The session of `key`.
    fn session(&self, key: Self::Key) -> Option<&RelaySession>;

    /// The session of `key`, to be changed.
    fn session_mut(&mut self, key: Self::Key) -> Option<&mut RelaySession>;
}

/// Relays all packets as if [`RelaySession::handle_packet`] had been called for each in turn; a packet whose session is not
/// in the table is dropped as [`DropReason::UnknownPort`]. Does not allocate.
pub fn relay_burst<T: SessionTable>(now: Instant, sessions: &mut T, packets: &mut [BurstPacket<'_, T::Key>]) {
    for batch in packets.chunks_mut(MAX_BATCH) {
        relay_batch(now, sessions, batch);
    }
}

/// What is known of a packet from one step to the next.
#[derive(Default)]
struct Slot {
    arrival: Option<Arrival>,
    /// The packet has a place among the jobs of the next crypto step.
    job: Option<Indexed>,
}

type Slots = SmallVec<[Slot; MAX_BATCH]>;

fn relay_batch<T: SessionTable>(now: Instant, sessions: &mut T, packets: &mut [BurstPacket<'_, T::Key>]) {
    let mut slots = Slots::new();
    let mut opened = open(sessions, packets, &mut slots);
    for (packet, slot) in packets.iter_mut().zip(&mut slots) {
        let job = slot.job.take();
        // One bit a job, in order.
        let passed_check = job.filter(|_| opened & 1 != 0);
        opened >>= u32::from(job.is_some());
        let (Some(arrival), Some(session)) = (&slot.arrival, sessions.session_mut(packet.session)) else {
            packet.verdict = Verdict::Drop(DropReason::UnknownPort);
            continue;
        };
        let opened = match passed_check {
            Some(at) => session.opened(arrival, at),
            // Not among the jobs, or not authentic under the likeliest index and so untouched: the whole search, now that the
            // packets before it have been counted.
            None => session.open(now, arrival, &mut packet.packet),
        };
        let passed = session.pass(now, arrival, packet.tos, opened, &mut packet.packet);
        packet.verdict = passed.verdict;
        slot.job = passed.unsealed;
    }
    seal(sessions, packets, &slots);
}

/// Fills the slots, and opens what can be opened together; one bit of the result for each slot with a job.
fn open<T: SessionTable>(sessions: &T, packets: &mut [BurstPacket<'_, T::Key>], slots: &mut Slots) -> u64 {
    let mut jobs = SmallVec::<[Job<'_, '_>; MAX_BATCH]>::new();
    for packet in packets {
        let mut slot = Slot::default();
        if let Some(session) = sessions.session(packet.session) {
            slot.arrival = session.arrive(packet.port, packet.source, packet.packet.as_slice());
            if let Some(arrival) = &slot.arrival
                && let Some((cipher, at)) = session.opening(arrival, packet.packet.as_slice())
            {
                slot.job = Some(at);
                jobs.push(Job {
                    cipher,
                    packet: &mut packet.packet,
                    at,
                });
            }
        }
        slots.push(slot);
    }
    open_batch(&mut jobs)
}

/// Seals every slot's packet that has a job.
fn seal<T: SessionTable>(sessions: &T, packets: &mut [BurstPacket<'_, T::Key>], slots: &Slots) {
    let mut jobs = SmallVec::<[Job<'_, '_>; MAX_BATCH]>::new();
    for (packet, slot) in packets.iter_mut().zip(slots) {
        if let (Some(arrival), Some(at)) = (&slot.arrival, slot.job)
            && let Some(cipher) = sessions
                .session(packet.session)
                .and_then(|session| session.sealing(arrival))
        {
            jobs.push(Job {
                cipher,
                packet: &mut packet.packet,
                at,
            });
        }
    }
    seal_batch(&mut jobs);
}
