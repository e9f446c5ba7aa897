//! Counters of a leg, as call records and metrics read them.

use std::time::Duration;

use crate::stats::{CodecImpairment, Quality};

use super::verdict::DropCounts;

/// Packets and octets. RTP octets are payload after decryption, RTCP ones whole datagrams as they arrived or left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Octets.
    pub octets: u64,
}

impl Traffic {
    pub(super) fn add(&mut self, octets: usize) {
        self.packets += 1;
        self.octets += octets as u64;
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.packets += other.packets;
        self.octets += other.octets;
    }
}

/// What the leg's own reports say about what it received from us (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteReport {
    /// Loss between its last two reports, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost since the start; negative with duplicates.
    pub cumulative_lost: i32,
    /// Interarrival jitter in RTP timestamp units.
    pub jitter: u32,
}

/// Everything counted about one leg, over all its streams.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LegStats {
    /// RTP accepted from the leg.
    pub rtp_received: Traffic,
    /// RTP sent to the leg.
    pub rtp_sent: Traffic,
    /// RTCP accepted from the leg.
    pub rtcp_received: Traffic,
    /// RTCP sent to the leg.
    pub rtcp_sent: Traffic,
    /// Packets the leg should have delivered by its sequence numbers.
    pub expected: u64,
    /// Of these, the ones that never arrived (RFC 3550 A.3).
    pub lost: u64,
    /// Plain RTP packets received twice; SRTP ones are dropped as replayed.
    pub duplicates: u64,
    /// Packets that arrived after a later one.
    pub reordered: u64,
    /// Starts of a source, over all streams: SSRC changes and sequence restarts plus one per stream.
    pub sources: u32,
    /// Interarrival jitter (RFC 3550 A.8) of the worst stream.
    pub jitter: Duration,
    /// Round trip between the edge and the leg, from the last report that allowed it.
    pub round_trip: Option<Duration>,
    /// The leg's last report about what it receives.
    pub remote_report: Option<RemoteReport>,
    /// Packets whose DSCP was not the leg's configured one.
    pub dscp_mismatches: u64,
    /// Packets of the leg that were dropped, by reason.
    pub drops: DropCounts,
}

impl LegStats {
    /// Lost over expected, 0.0..=1.0.
    pub fn loss_ratio(&self) -> f32 {
        if self.expected == 0 {
            0.0
        } else {
            self.lost as f32 / self.expected as f32
        }
    }

    /// Estimated quality of what the leg sends, as heard at the edge.
    pub fn quality(&self, codec: CodecImpairment) -> Quality {
        Quality::estimate(codec, self.loss_ratio(), self.jitter, self.round_trip)
    }
}
