//! Packet counters of the media plane, read by /metrics.
//!
//! A media thread counts privately and adds up here once per wake-up, so that no packet touches a shared cache line.

use std::sync::atomic::{AtomicU64, Ordering};

use trunkline_media::relay::DropReason;

/// Totals over all threads and sessions.
#[derive(Debug, Default)]
pub struct RelayCounters {
    forwarded: AtomicU64,
    octets: AtomicU64,
    send_failures: AtomicU64,
    sessions: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
}

impl RelayCounters {
    /// Packets sent on.
    pub fn forwarded(&self) -> u64 {
        self.forwarded.load(Ordering::Relaxed)
    }

    /// Octets sent on, without IP and UDP headers.
    pub fn octets(&self) -> u64 {
        self.octets.load(Ordering::Relaxed)
    }

    /// Packets the system would not send.
    pub fn send_failures(&self) -> u64 {
        self.send_failures.load(Ordering::Relaxed)
    }

    /// Sessions alive.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Packets dropped for a reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize].load(Ordering::Relaxed)
    }

    pub(super) fn session_began(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn session_ended(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one thread counted since it last added up.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) forwarded: u64,
    pub(super) octets: u64,
    pub(super) send_failures: u64,
    pub(super) dropped: [u64; DropReason::ALL.len()],
}

impl Batch {
    /// A packet of so many octets was sent.
    pub(super) fn sent(&mut self, octets: usize) {
        self.forwarded += 1;
        self.octets += octets as u64;
    }

    pub(super) fn add_to(&mut self, totals: &RelayCounters) {
        let add = |total: &AtomicU64, count: u64| {
            if count > 0 {
                total.fetch_add(count, Ordering::Relaxed);
            }
        };
        add(&totals.forwarded, self.forwarded);
        add(&totals.octets, self.octets);
        add(&totals.send_failures, self.send_failures);
        for (total, count) in totals.dropped.iter().zip(self.dropped) {
            add(total, count);
        }
        *self = Batch::default();
    }
}
