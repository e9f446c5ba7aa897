//! The result of an exchange and what follows from it: the relay's configuration and the call record's facts.

use smallvec::SmallVec;

use crate::codec::{Codec, PayloadFormat};
use crate::relay::{
    self, LegConfig, LegId, MediaPath, PayloadMap, PayloadRule, PerLeg, RemoteMedia, SessionConfig, SrtpParams,
    StreamConfig, StreamLeg,
};
use crate::sdp::Direction;
use crate::suite::SrtpSuite;

use super::formats::LegNumbers;
use super::policy::LegPolicy;
use super::ports::PortLease;

/// The stream both legs agreed on.
#[derive(Clone, PartialEq)]
pub(super) struct AgreedStream {
    pub formats: Vec<AgreedFormat>,
    pub legs: PerLeg<AgreedLeg>,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) struct AgreedFormat {
    pub format: PayloadFormat,
    pub numbers: PerLeg<LegNumbers>,
}

#[derive(Clone, PartialEq)]
pub(super) struct AgreedLeg {
    pub lease: PortLease,
    pub remote: Option<RemoteMedia>,
    pub rtcp_mux: bool,
    /// As our description to the leg says, or would say once what the other leg answered is taken in.
    pub direction: Direction,
    pub srtp: Option<SrtpParams>,
}

/// What was negotiated for the anchored stream, for the call record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSummary {
    /// The codecs both legs may use; the first is the answerer's choice and what is sent unless an endpoint switches.
    pub codecs: Vec<Codec>,
    /// The payload type of telephone-event/8000 each leg sends with; `None` without events.
    pub events: PerLeg<Option<u8>>,
    /// The suite of each leg; `None` for plain RTP.
    pub suites: PerLeg<Option<SrtpSuite>>,
    /// Which way media flows, as our description to each leg says.
    pub direction: PerLeg<Direction>,
    /// The path the stream takes through the relay.
    pub path: MediaPath,
}

impl AgreedStream {
    pub(super) fn summary(&self) -> StreamSummary {
        let suite = |leg: LegId| self.legs[leg].srtp.as_ref().map(|srtp| srtp.tx.suite());
        let events = |leg: LegId| {
            self.formats
                .iter()
                .find(|format| format.format == PayloadFormat::TelephoneEvent { clock_rate: 8_000 })
                .map(|format| format.numbers[leg].receive)
        };
        let per_leg = |leg| self.legs[leg].direction;
        StreamSummary {
            codecs: self.formats.iter().filter_map(|format| format.format.codec()).collect(),
            events: PerLeg::new(events(LegId::A), events(LegId::B)),
            suites: PerLeg::new(suite(LegId::A), suite(LegId::B)),
            direction: PerLeg::new(per_leg(LegId::A), per_leg(LegId::B)),
            // The path depends neither on the round nor on whom is believed.
            path: self
                .stream_config(
                    PerLeg::new(relay::SourcePolicy::Signalled, relay::SourcePolicy::Signalled),
                    0,
                )
                .path(),
        }
    }

    fn stream_config(&self, source: PerLeg<relay::SourcePolicy>, round: u32) -> StreamConfig {
        let leg = |leg: LegId| {
            let agreed = &self.legs[leg];
            StreamLeg {
                ports: agreed.lease.id,
                rtcp_mux: agreed.rtcp_mux,
                remote: agreed.remote,
                direction: relay_direction(agreed.direction),
                source: source[leg],
                round,
                srtp: agreed.srtp.clone(),
                payloads: self.payload_map(leg),
                tones: false,
            }
        };
        StreamConfig {
            legs: PerLeg::new(leg(LegId::A), leg(LegId::B)),
        }
    }

    /// The rules for what is received on `leg`. What is not negotiated does not pass.
    fn payload_map(&self, leg: LegId) -> PayloadMap {
        let mut rules: SmallVec<[PayloadRule; 4]> = SmallVec::new();
        let mut rule = |from: u8, format: &AgreedFormat| {
            if !rules.iter().any(|known| known.from == from) {
                rules.push(PayloadRule {
                    from,
                    to: Some(format.numbers[leg.other()].send),
                    clock_rate: format.format.clock_rate(),
                    companion: format.format.codec().is_none(),
                });
            }
        };
        for format in &self.formats {
            rule(format.numbers[leg].receive, format);
        }
        // An answerer that numbers a format differently must still send with our number (RFC 3264 §6.1); some send with
        // their own. Taken where it is not ambiguous.
        for format in &self.formats {
            rule(format.numbers[leg].send, format);
        }
        PayloadMap {
            rules,
            pass_unlisted: false,
        }
    }
}

/// The relay's configuration; with no stream it has none and every packet is dropped.
pub(super) fn session_config(
    stream: Option<&AgreedStream>,
    policies: PerLeg<&LegPolicy>,
    round: u32,
    supervised: bool,
) -> SessionConfig {
    let leg = |leg: LegId| LegConfig {
        dscp: policies[leg].dscp,
        idle: policies[leg].idle.filter(|_| supervised),
    };
    let source = PerLeg::new(policies[LegId::A].source, policies[LegId::B].source);
    SessionConfig {
        legs: PerLeg::new(leg(LegId::A), leg(LegId::B)),
        streams: stream
            .iter()
            .map(|stream| stream.stream_config(source, round))
            .collect(),
    }
}

const fn relay_direction(direction: Direction) -> relay::Direction {
    match direction {
        Direction::SendRecv => relay::Direction::SendRecv,
        Direction::SendOnly => relay::Direction::SendOnly,
        Direction::RecvOnly => relay::Direction::RecvOnly,
        Direction::Inactive => relay::Direction::Inactive,
    }
}
