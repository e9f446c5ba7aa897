//! The session: two legs, their streams, and the way of a packet through them.

use std::net::SocketAddr;
use std::time::Instant;

use smallvec::SmallVec;

use crate::demux::{PacketKind, classify};
use crate::latch::Evidence;
use crate::packet::PacketBuf;
use crate::rtcp::{Compound, CompoundRule};
use crate::rtp::RtpHeader;

use super::config::{Component, Direction, LegId, LocalPort, MAX_STREAMS, PerLeg, PortId, SessionConfig, StreamConfig};
use super::report::LegStats;
use super::side::{Side, canonical};
use super::snapshot::RelaySnapshot;
use super::verdict::{DropReason, Verdict};

/// The media of one call between its two legs.
///
/// Call order: [`new`](Self::new) with what is known when the ports are leased, [`apply`](Self::apply) with the whole new
/// configuration on every offer/answer, [`handle_packet`](Self::handle_packet) for every datagram on a leased port, and
/// [`check_idle`](Self::check_idle) at [`idle_deadline`](Self::idle_deadline). No method allocates per packet.
#[derive(Debug)]
pub struct RelaySession {
    config: SessionConfig,
    streams: SmallVec<[PerLeg<Side>; 1]>,
    /// Last valid RTP of each leg, or what restarted its idle timer.
    active: PerLeg<Instant>,
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
        let Some((position, leg)) = self.locate(port.pair) else {
            return Verdict::Drop(DropReason::UnknownPort);
        };
        let expected_dscp = self.config.legs[leg].dscp;
        let (stream, sides) = (&self.config.streams[position], &mut self.streams[position]);
        let mut way = Way {
            now,
            leg,
            stream,
            sides,
            source: canonical(source),
        };
        let kind = classify(packet.as_slice());
        let outcome = match (kind, port.component) {
            (PacketKind::Rtp, Component::Rtp) => way.rtp(packet),
            (PacketKind::Rtcp, Component::Rtcp) => way.rtcp(packet),
            (PacketKind::Rtcp, Component::Rtp) if stream.legs[leg].rtcp_mux => way.rtcp(packet),
            (PacketKind::Rtp | PacketKind::Rtcp, _) => Err(DropReason::WrongComponent),
            _ => Err(DropReason::NotMedia),
        };
        if way.heard(kind, &outcome) {
            self.active[leg] = now;
        }
        let counters = &mut self.streams[position][leg].counters;
        // Only packets believed to be the leg's say anything about how its network marks them.
        let believed = !matches!(outcome, Err(reason) if says_nothing(reason));
        if believed && expected_dscp.is_some_and(|dscp| dscp != tos >> 2) {
            counters.dscp_mismatches += 1;
        }
        match outcome {
            Ok((from, destination)) => Verdict::Forward { from, destination },
            Err(reason) => {
                counters.drops.add(reason);
                Verdict::Drop(reason)
            }
        }
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

    fn locate(&self, pair: PortId) -> Option<(usize, LegId)> {
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

/// The way of one packet from one leg to the other. Each method either reaches the far end or says why not.
struct Way<'a> {
    now: Instant,
    leg: LegId,
    stream: &'a StreamConfig,
    sides: &'a mut PerLeg<Side>,
    source: SocketAddr,
}

impl Way<'_> {
    fn rtp(&mut self, packet: &mut PacketBuf<'_>) -> Result<(LocalPort, SocketAddr), DropReason> {
        let header = RtpHeader::parse(packet.as_slice()).map_err(|_| DropReason::Malformed)?;
        let (leg, other) = (&self.stream.legs[self.leg], &self.stream.legs[self.leg.other()]);
        let evidence = self.believe(Component::Rtp, packet, |side| Evidence::Plain {
            ssrc: header.ssrc,
            in_sequence: side.received.in_sequence(header.ssrc, header.sequence),
        })?;
        let side = &mut self.sides[self.leg];
        let octets = header
            .payload(packet.as_slice())
            .map_err(|_| DropReason::Malformed)?
            .len();
        if !side.admit(self.now, leg, Component::Rtp, self.source, evidence) {
            return Err(DropReason::WrongSource);
        }
        let rule = leg.payloads.rule(header.payload_type);
        let clock_rate = rule.filter(|rule| !rule.companion).map_or(0, |rule| rule.clock_rate);
        side.received.record(self.now, &header, octets, clock_rate);
        side.counters.rtp_received.add(octets);
        if !leg.direction.receives() || !other.direction.sends() {
            return Err(DropReason::Direction);
        }
        let payload_type = match rule {
            Some(rule) => rule.to.ok_or(DropReason::PayloadType)?,
            None if leg.payloads.pass_unlisted => header.payload_type,
            None => return Err(DropReason::PayloadType),
        };
        if payload_type != header.payload_type {
            RtpHeader::set_payload_type(packet.as_mut_slice(), payload_type);
        }
        let far = &mut self.sides[self.leg.other()];
        let destination = far
            .destination(other, Component::Rtp)
            .ok_or(DropReason::NoDestination)?;
        far.protect(Component::Rtp, packet)?;
        far.counters.rtp_sent.add(octets);
        Ok((
            LocalPort {
                pair: other.ports,
                component: Component::Rtp,
            },
            destination,
        ))
    }

    fn rtcp(&mut self, packet: &mut PacketBuf<'_>) -> Result<(LocalPort, SocketAddr), DropReason> {
        let (leg, other) = (&self.stream.legs[self.leg], &self.stream.legs[self.leg.other()]);
        let arrived = packet.len();
        let sender = packet
            .as_slice()
            .get(4..8)
            .map_or(0, |ssrc| u32::from_be_bytes([ssrc[0], ssrc[1], ssrc[2], ssrc[3]]));
        // Nothing numbers plain RTCP, so only its source identifier can speak for another address.
        let evidence = self.believe(Component::Rtcp, packet, |_| Evidence::Plain {
            ssrc: sender,
            in_sequence: true,
        })?;
        let side = &mut self.sides[self.leg];
        let compound =
            Compound::parse(packet.as_slice(), CompoundRule::ReducedSize).map_err(|_| DropReason::Malformed)?;
        if !side.admit(self.now, leg, Component::Rtcp, self.source, evidence) {
            return Err(DropReason::WrongSource);
        }
        side.counters.rtcp_received.add(arrived);
        let sender_report = side.read_reports(self.now, &compound);
        // RTCP flows whatever the direction (RFC 3264 §5.1).
        let far = &mut self.sides[self.leg.other()];
        let destination = far
            .destination(other, Component::Rtcp)
            .ok_or(DropReason::NoDestination)?;
        far.protect(Component::Rtcp, packet)?;
        far.counters.rtcp_sent.add(packet.len());
        if let Some(middle_ntp) = sender_report {
            far.sent_report(self.now, middle_ntp);
        }
        let component = if other.rtcp_mux {
            Component::Rtp
        } else {
            Component::Rtcp
        };
        Ok((
            LocalPort {
                pair: other.ports,
                component,
            },
            destination,
        ))
    }

    /// Source policy, then authentication and decryption: what the rest of the way may rely on.
    fn believe(
        &mut self,
        component: Component,
        packet: &mut PacketBuf<'_>,
        plain: impl FnOnce(&Side) -> Evidence,
    ) -> Result<Evidence, DropReason> {
        if !Side::may_come_from(&self.stream.legs[self.leg], component, self.source) {
            return Err(DropReason::WrongSource);
        }
        let side = &mut self.sides[self.leg];
        match side.unprotect(self.now, component, packet)? {
            Some(proof) => Ok(Evidence::Authenticated(proof)),
            None => Ok(plain(side)),
        }
    }

    /// Whether the packet keeps its leg from being idle: valid RTP of the leg, wherever it ended. RTCP does not count.
    fn heard(&self, kind: PacketKind, outcome: &Result<(LocalPort, SocketAddr), DropReason>) -> bool {
        kind == PacketKind::Rtp && !matches!(outcome, Err(reason) if says_nothing(*reason))
    }
}

/// Reasons that are found before a packet is believed to be its leg's.
fn says_nothing(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::UnknownPort
            | DropReason::NotMedia
            | DropReason::WrongComponent
            | DropReason::Malformed
            | DropReason::WrongSource
            | DropReason::NoKey
            | DropReason::Unauthentic
            | DropReason::UnknownMki
            | DropReason::Replayed
    )
}

fn directions(config: &SessionConfig, leg: LegId) -> impl Iterator<Item = Direction> + '_ {
    config.streams.iter().map(move |stream| stream.legs[leg].direction)
}
