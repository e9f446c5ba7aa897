//! The way of a packet from one leg to the other, in the steps that a single packet and a burst share.
//!
//! [`arrive`](RelaySession::arrive) looks and changes nothing; then the packet is opened, by itself
//! ([`open`](RelaySession::open)) or with others; [`pass`](RelaySession::pass) decides, counts and rewrites, and is
//! called in the order packets came in; what is left unsealed then is sealed with [`sealing`](RelaySession::sealing).

use std::net::SocketAddr;
use std::time::Instant;

use crate::demux::{PacketKind, classify};
use crate::latch::Evidence;
use crate::packet::PacketBuf;
use crate::rtcp::{Compound, CompoundRule};
use crate::rtp::RtpHeader;
use crate::srtp::{Authenticated, CounterCipher, Indexed};

use super::config::{Component, LegId, LocalPort, PerLeg, StreamConfig};
use super::session::RelaySession;
use super::side::{Side, canonical};
use super::verdict::{DropReason, Verdict};

/// What a packet is by its octets and the configuration alone; nothing of it is believed yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    stream: usize,
    leg: LegId,
    source: SocketAddr,
    content: Result<Content, DropReason>,
}

#[derive(Debug, Clone, Copy)]
enum Content {
    Rtp(RtpHeader),
    /// With the length of the datagram as it arrived.
    Rtcp(usize),
}

/// What became of a packet but for its encryption.
pub(super) struct Passed {
    pub(super) verdict: Verdict,
    /// The packet is to be sealed under this index before it is sent.
    pub(super) unsealed: Option<Indexed>,
}

/// Where a packet goes.
struct Onward {
    from: LocalPort,
    destination: SocketAddr,
    unsealed: Option<Indexed>,
}

impl RelaySession {
    /// Finds the leg, classifies, reads the header, and applies the source policy. `None` is a port of no stream.
    pub(super) fn arrive(&self, port: LocalPort, source: SocketAddr, datagram: &[u8]) -> Option<Arrival> {
        let (stream, leg) = self.locate(port.pair)?;
        let config = &self.config.streams[stream].legs[leg];
        let source = canonical(source);
        let content = match (classify(datagram), port.component) {
            (PacketKind::Rtp, Component::Rtp) => RtpHeader::parse(datagram)
                .map(Content::Rtp)
                .map_err(|_| DropReason::Malformed),
            (PacketKind::Rtcp, Component::Rtcp) => Ok(Content::Rtcp(datagram.len())),
            (PacketKind::Rtcp, Component::Rtp) if config.rtcp_mux => Ok(Content::Rtcp(datagram.len())),
            (PacketKind::Rtp | PacketKind::Rtcp, _) => Err(DropReason::WrongComponent),
            _ => Err(DropReason::NotMedia),
        };
        let content = content.and_then(|content| {
            if Side::may_come_from(config, content.component(), source) {
                Ok(content)
            } else {
                Err(DropReason::WrongSource)
            }
        });
        Some(Arrival {
            stream,
            leg,
            source,
            content,
        })
    }

    /// Authenticates and decrypts if the leg is SRTP; `None` is plain.
    pub(super) fn open(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        packet: &mut PacketBuf<'_>,
    ) -> Result<Option<Authenticated>, DropReason> {
        let component = arrival.content?.component();
        self.streams[arrival.stream][arrival.leg].unprotect(now, component, packet)
    }

    /// How the packet may be opened together with others; `None` if it must be opened by itself, if at all.
    pub(super) fn opening(&self, arrival: &Arrival, datagram: &[u8]) -> Option<(&CounterCipher, Indexed)> {
        match &arrival.content {
            Ok(Content::Rtp(header)) => self.streams[arrival.stream][arrival.leg].batchable(header, datagram),
            _ => None,
        }
    }

    /// Takes note of a packet that was opened as [`opening`](Self::opening) said.
    pub(super) fn opened(&mut self, arrival: &Arrival, at: Indexed) -> Result<Option<Authenticated>, DropReason> {
        self.streams[arrival.stream][arrival.leg].opened(at).map(Some)
    }

    /// Everything between decryption and encryption: latch, statistics, direction, payload type, destination, index.
    pub(super) fn pass(
        &mut self,
        now: Instant,
        arrival: &Arrival,
        tos: u8,
        opened: Result<Option<Authenticated>, DropReason>,
        packet: &mut PacketBuf<'_>,
    ) -> Passed {
        let leg = arrival.leg;
        let sides = &mut self.streams[arrival.stream];
        let mut way = Way {
            now,
            leg,
            stream: &self.config.streams[arrival.stream],
            sides,
            source: arrival.source,
        };
        let outcome = match (opened, arrival.content) {
            (Ok(proof), Ok(Content::Rtp(header))) => way.rtp(&header, proof, packet),
            (Ok(proof), Ok(Content::Rtcp(arrived))) => way.rtcp(arrived, proof, packet),
            (Err(reason), _) | (_, Err(reason)) => Err(reason),
        };
        let counters = &mut sides[leg].counters;
        // Only packets believed to be the leg's say anything about the leg and its network. RTCP does not keep it alive.
        if !matches!(outcome, Err(reason) if says_nothing(reason)) {
            if matches!(arrival.content, Ok(Content::Rtp(_))) {
                self.active[leg] = now;
            }
            if self.config.legs[leg].dscp.is_some_and(|dscp| dscp != tos >> 2) {
                counters.dscp_mismatches += 1;
            }
        }
        match outcome {
            Ok(onward) => Passed {
                verdict: Verdict::Forward {
                    from: onward.from,
                    destination: onward.destination,
                },
                unsealed: onward.unsealed,
            },
            Err(reason) => {
                counters.drops.add(reason);
                Passed {
                    verdict: Verdict::Drop(reason),
                    unsealed: None,
                }
            }
        }
    }

    /// The cipher for what [`pass`](Self::pass) left unsealed.
    pub(super) fn sealing(&self, arrival: &Arrival) -> Option<&CounterCipher> {
        self.streams[arrival.stream][arrival.leg.other()].sealing()
    }
}

impl Content {
    fn component(&self) -> Component {
        match self {
            Self::Rtp(_) => Component::Rtp,
            Self::Rtcp(_) => Component::Rtcp,
        }
    }
}

/// One packet between its two sides. Each method either reaches the far end or says why not.
struct Way<'a> {
    now: Instant,
    leg: LegId,
    stream: &'a StreamConfig,
    sides: &'a mut PerLeg<Side>,
    source: SocketAddr,
}

impl Way<'_> {
    fn rtp(
        &mut self,
        header: &RtpHeader,
        proof: Option<Authenticated>,
        packet: &mut PacketBuf<'_>,
    ) -> Result<Onward, DropReason> {
        let (leg, other) = (&self.stream.legs[self.leg], &self.stream.legs[self.leg.other()]);
        let side = &mut self.sides[self.leg];
        let evidence = match proof {
            Some(proof) => Evidence::Authenticated(proof),
            None => Evidence::Plain {
                ssrc: header.ssrc,
                in_sequence: side.received.in_sequence(header.ssrc, header.sequence),
            },
        };
        let octets = header
            .payload(packet.as_slice())
            .map_err(|_| DropReason::Malformed)?
            .len();
        if !side.admit(self.now, leg, Component::Rtp, self.source, evidence) {
            return Err(DropReason::WrongSource);
        }
        let rule = leg.payloads.rule(header.payload_type);
        let clock_rate = rule.filter(|rule| !rule.companion).map_or(0, |rule| rule.clock_rate);
        side.received.record(self.now, header, octets, clock_rate);
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
        let unsealed = far.assign(header, packet)?;
        far.counters.rtp_sent.add(octets);
        Ok(Onward {
            from: LocalPort {
                pair: other.ports,
                component: Component::Rtp,
            },
            destination,
            unsealed,
        })
    }

    fn rtcp(
        &mut self,
        arrived: usize,
        proof: Option<Authenticated>,
        packet: &mut PacketBuf<'_>,
    ) -> Result<Onward, DropReason> {
        let (leg, other) = (&self.stream.legs[self.leg], &self.stream.legs[self.leg.other()]);
        let side = &mut self.sides[self.leg];
        let octets = packet.as_slice();
        let evidence = match proof {
            Some(proof) => Evidence::Authenticated(proof),
            // Nothing numbers plain RTCP, so only its source identifier can speak for another address.
            None => Evidence::Plain {
                ssrc: octets
                    .get(4..8)
                    .map_or(0, |ssrc| u32::from_be_bytes([ssrc[0], ssrc[1], ssrc[2], ssrc[3]])),
                in_sequence: true,
            },
        };
        let compound = Compound::parse(octets, CompoundRule::ReducedSize).map_err(|_| DropReason::Malformed)?;
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
        far.protect_rtcp(packet)?;
        far.counters.rtcp_sent.add(packet.len());
        if let Some(middle_ntp) = sender_report {
            far.sent_report(self.now, middle_ntp);
        }
        let component = if other.rtcp_mux {
            Component::Rtp
        } else {
            Component::Rtcp
        };
        Ok(Onward {
            from: LocalPort {
                pair: other.ports,
                component,
            },
            destination,
            unsealed: None,
        })
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
