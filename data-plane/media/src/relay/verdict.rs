//! What becomes of a packet.

use std::net::SocketAddr;

use crate::srtp::SrtpError;

use super::config::LocalPort;

/// What the back-end is to do with the packet it handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send the buffer, as it is now, to `destination` from the local port `from`.
    Forward {
        /// Local port to send from: its peer expects symmetric RTP (RFC 4961).
        from: LocalPort,
        /// Where to.
        destination: SocketAddr,
    },
    /// Do nothing; the packet is counted.
    Drop(DropReason),
}

/// Why a packet was not relayed. Each reason is a counter and a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The local port is not of this session.
    UnknownPort,
    /// STUN, DTLS, ZRTP, TURN or noise: nothing this relay speaks.
    NotMedia,
    /// RTP on the RTCP port, or RTCP on the RTP port without rtcp-mux.
    WrongComponent,
    /// Header, padding, or RTCP lengths do not hold.
    Malformed,
    /// Not from where the leg's media may come from.
    WrongSource,
    /// The leg is SRTP and its key is not known yet.
    NoKey,
    /// Authentication failed.
    Unauthentic,
    /// Another MKI than the key's.
    UnknownMki,
    /// An SRTP packet seen before, or too old to tell.
    Replayed,
    /// The negotiated direction does not let it through.
    Direction,
    /// Its payload type is not negotiated, or has no counterpart on the other leg.
    PayloadType,
    /// The other leg has no address to send to yet.
    NoDestination,
    /// The other leg is SRTP and this packet was already sent, or is too old to get an index.
    Duplicate,
    /// The other leg's key may protect no more packets, or its table of sources is full.
    KeyLimit,
    /// The packet with its trailer does not fit the buffer.
    NoRoom,
}

impl DropReason {
    /// Every reason, in the order of [`DropCounts`].
    pub const ALL: [Self; 15] = [
        Self::UnknownPort,
        Self::NotMedia,
        Self::WrongComponent,
        Self::Malformed,
        Self::WrongSource,
        Self::NoKey,
        Self::Unauthentic,
        Self::UnknownMki,
        Self::Replayed,
        Self::Direction,
        Self::PayloadType,
        Self::NoDestination,
        Self::Duplicate,
        Self::KeyLimit,
        Self::NoRoom,
    ];

    /// The label, in snake case.
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownPort => "unknown_port",
            Self::NotMedia => "not_media",
            Self::WrongComponent => "wrong_component",
            Self::Malformed => "malformed",
            Self::WrongSource => "wrong_source",
            Self::NoKey => "no_key",
            Self::Unauthentic => "unauthentic",
            Self::UnknownMki => "unknown_mki",
            Self::Replayed => "replayed",
            Self::Direction => "direction",
            Self::PayloadType => "payload_type",
            Self::NoDestination => "no_destination",
            Self::Duplicate => "duplicate",
            Self::KeyLimit => "key_limit",
            Self::NoRoom => "no_room",
        }
    }

    /// What an error of the receiving leg's SRTP means.
    pub(super) const fn inbound(error: SrtpError) -> Self {
        match error {
            SrtpError::Malformed => Self::Malformed,
            SrtpError::NoRoom => Self::NoRoom,
            SrtpError::Unauthentic => Self::Unauthentic,
            SrtpError::UnknownMki => Self::UnknownMki,
            SrtpError::Replayed => Self::Replayed,
            SrtpError::KeyExhausted | SrtpError::TooManySsrcs => Self::KeyLimit,
        }
    }

    /// What an error of the sending leg's SRTP means.
    pub(super) const fn outbound(error: SrtpError) -> Self {
        match error {
            SrtpError::Replayed => Self::Duplicate,
            other => Self::inbound(other),
        }
    }
}

/// Dropped packets by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DropCounts([u64; DropReason::ALL.len()]);

impl DropCounts {
    /// Packets dropped for `reason`.
    pub const fn count(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Packets dropped for any reason.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons that occurred.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .into_iter()
            .map(|reason| (reason, self.count(reason)))
            .filter(|(_, count)| *count > 0)
    }

    /// Adds the counts of one side of a stream.
    pub(super) fn merge(&mut self, side: &DropTally) {
        self.0
            .iter_mut()
            .zip(side.0)
            .for_each(|(total, count)| *total += u64::from(count));
    }
}

/// Dropped packets of one side of a stream, kept small: four thousand million of a reason is where it stops counting.
#[derive(Debug, Clone, Default)]
pub(super) struct DropTally([u32; DropReason::ALL.len()]);

impl DropTally {
    pub(super) fn add(&mut self, reason: DropReason) {
        let count = &mut self.0[reason as usize];
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_label() {
        for (position, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, position);
            assert_eq!(
                DropReason::ALL
                    .iter()
                    .filter(|other| other.label() == reason.label())
                    .count(),
                1
            );
        }
    }
}
