//! The session: two legs, their streams, and the way of a packet through them.

use std::net::SocketAddr;
use std::time::Instant;

use smallvec::SmallVec;

use crate::packet::PacketBuf;
use crate::srtp::{Job, seal_batch};

use super::config::{Component, Direction, LegId, LocalPort, MAX_STREAMS, PerLeg, PortId, SessionConfig};
use super::report::LegStats;
use super::side::Side;
use super::snapshot::RelaySnapshot;
use super::verdict::{DropReason, Verdict};

/// The media of one call between its two legs.
///
/// Call order: [`new`](Self::new) with what is known when the ports are leased, [`apply`](Self::apply) with the whole new
/// configuration on every offer/answer, [`handle_packet`](Self::handle_packet) for every datagram on a leased port (or
/// [`relay_burst`](super::relay_burst) for those of many sessions), and
/// [`check_idle`](Self::check_idle) at [`idle_deadline`](Self::idle_deadline). No method allocates per packet.
#[derive(Debug)]
pub struct RelaySession {
    pub(super) config: SessionConfig,
    pub(super) streams: SmallVec<[PerLeg<Side>; 1]>,
    /// Last valid RTP of each leg, or what restarted its idle timer.
    pub(super) active: PerLeg<Instant>,
}

/// A leg that was silent for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleLeg {
    /// Which.
    pub leg: LegId,
    /// When it was last heard, or its timer was restarted by a change of direction.
    pub since: Instant,
}

impl RelaySession {
    /// A session that starts at `now`.
    pub fn new(now: Instant, config: SessionConfig) -> Self {
        let nothing = SessionConfig {
            legs: PerLeg::default(),
            streams: SmallVec::new(),
        };
        let mut session = Self {
            config: nothing,
            streams: SmallVec::new(),
            active: PerLeg::new(now, now),
        };
        session.apply(now, config);
        session
    }

    /// Replaces the configuration; what did not change keeps its state (latches, keys, rollover counters, statistics).
    /// Streams are matched by position. Streams beyond [`MAX_STREAMS`] are left out.
    pub fn apply(&mut self, now: Instant, mut config: SessionConfig) {
        config.streams.truncate(MAX_STREAMS);
        for leg in LegId::BOTH {
            let restarts = config.legs[leg].idle.is_some() && self.config.legs[leg].idle.is_none()
                || directions(&config, leg).ne(directions(&self.config, leg));
            if restarts {
                self.active[leg] = now;
            }
        }
        self.streams.truncate(config.streams.len());
        self.streams.resize_with(config.streams.len(), PerLeg::default);
        for (position, (sides, new)) in self.streams.iter_mut().zip(&config.streams).enumerate() {
            let old = self.config.streams.get(position);
            for leg in LegId::BOTH {
                sides[leg].apply(now, old.map(|old| &old.legs[leg]), &new.legs[leg]);
            }
        }
        self.config = config;
    }

    /// The configuration in force.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// The local ports this session expects packets on; with rtcp-mux only the RTP one of a pair.
    pub fn local_ports(&self) -> impl Iterator<Item = LocalPort> + '_ {
        let legs = self.config.streams.iter().flat_map(|stream| &stream.legs.0);
        legs.flat_map(|leg| {
            let rtp = LocalPort {
                pair: leg.ports,
                component: Component::Rtp,
            };
            let rtcp = LocalPort {
                pair: leg.ports,
                component: Component::Rtcp,
            };
            std::iter::once(rtp).chain((!leg.rtcp_mux).then_some(rtcp))
        })
    }

    /// Handles a datagram that arrived on `port` from `source` with the given IPv4 TOS or IPv6 traffic class octet.
    ///
    /// With [`Verdict::Forward`] the buffer holds what is to be sent. With [`Verdict::Drop`] its contents are unspecified.
    pub fn handle_packet(
        &mut self,
        now: Instant,
        port: LocalPort,
        source: SocketAddr,
        tos: u8,
        packet: &mut PacketBuf<'_>,
    ) -> Verdict {
        let Some(arrival) = self.arrive(port, source, packet.as_slice()) else {
            return Verdict::Drop(DropReason::UnknownPort);
        };
        let opened = self.open(now, &arrival, packet);
        let passed = self.pass(now, &arrival, tos, opened, packet);
        if let Some(at) = passed.unsealed
            && let Some(cipher) = self.sealing(&arrival)
        {
            seal_batch(&mut [Job { cipher, packet, at }]);
        }
        passed.verdict
    }

    /// When [`check_idle`](Self::check_idle) may find a leg idle; `None` while nothing is supervised. Every packet moves it
    /// on, so ask again when it has passed rather than after each packet.
    pub fn idle_deadline(&self) -> Option<Instant> {
        LegId::BOTH.into_iter().filter_map(|leg| self.leg_deadline(leg)).min()
    }

    /// The leg without a valid RTP packet for longer than its timer, if any; of two the one silent longer.
    pub fn check_idle(&self, now: Instant) -> Option<IdleLeg> {
        LegId::BOTH
            .into_iter()
            .filter(|leg| self.leg_deadline(*leg).is_some_and(|deadline| deadline <= now))
            .map(|leg| IdleLeg {
                leg,
                since: self.active[leg],
            })
            .min_by_key(|idle| idle.since)
    }

    /// Counters of a leg over all its streams.
    pub fn stats(&self, leg: LegId) -> LegStats {
        let mut stats = LegStats::default();
        self.streams.iter().for_each(|sides| sides[leg].add_to(&mut stats));
        stats
    }

    /// Where RTP of a stream is sent to on a leg at present.
    pub fn destination(&self, stream: usize, leg: LegId) -> Option<SocketAddr> {
        self.streams.get(stream)?[leg].destination(&self.config.streams.get(stream)?.legs[leg], Component::Rtp)
    }

    /// What another worker needs besides the configuration.
    pub fn snapshot(&self) -> RelaySnapshot {
        let sides = |sides: &PerLeg<Side>| PerLeg::new(sides[LegId::A].snapshot(), sides[LegId::B].snapshot());
        RelaySnapshot {
            streams: self.streams.iter().map(sides).collect(),
        }
    }

    /// A session that goes on where another worker's stood at its snapshot. `rtcp_jump` is how many SRTCP packets per
    /// direction that worker can have sent since.
    pub fn restore(now: Instant, config: SessionConfig, snapshot: &RelaySnapshot, rtcp_jump: u32) -> Self {
        let mut session = Self::new(now, config);
        for (sides, saved) in session.streams.iter_mut().zip(&snapshot.streams) {
            for leg in LegId::BOTH {
                sides[leg].restore(&saved[leg], rtcp_jump);
            }
        }
        session
    }

    pub(super) fn locate(&self, pair: PortId) -> Option<(usize, LegId)> {
        self.config.streams.iter().enumerate().find_map(|(position, stream)| {
            LegId::BOTH
                .into_iter()
                .find(|leg| stream.legs[*leg].ports == pair)
                .map(|leg| (position, leg))
        })
    }

    fn leg_deadline(&self, leg: LegId) -> Option<Instant> {
        let timers = self.config.legs[leg].idle?;
        let two_way = directions(&self.config, leg).any(|direction| direction == Direction::SendRecv);
        self.active[leg].checked_add(if two_way { timers.two_way } else { timers.one_way })
    }
}

fn directions(config: &SessionConfig, leg: LegId) -> impl Iterator<Item = Direction> + '_ {
    config.streams.iter().map(move |stream| stream.legs[leg].direction)
}
