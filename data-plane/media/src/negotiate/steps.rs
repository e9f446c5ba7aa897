//! The steps that take an offer, behind [`MediaSession`]'s public face.
//!
//! *Near* is the leg that offered, *far* the one the offer is passed to. Everything that can fail is worked out on values
//! first; the session is changed only when nothing can fail any more.

use bytes::Bytes;
use rand_core::CryptoRng;

use crate::codec::PayloadFormat;
use crate::relay::{LegId, PerLeg};
use crate::sdes::CryptoLine;
use crate::sdp::{Direction, Protocol};

use super::error::{NegotiationError, NegotiationErrorKind};
use super::formats::{self, LegNumbers};
use super::policy::{LegPolicy, SrtpMode};
use super::ports::{AddressFamily, PortAllocator, PortLease};
use super::remote::{RemoteDescription, RemoteFormat, RemoteSection, RemoteStream, Slot, StreamDetails};
use super::render::{self, OwnFormat, OwnStream};
use super::{LegState, MediaSession, crypto};

/// An offer that has been passed on.
pub(super) struct Pending {
    pub offerer: LegId,
    /// Whether the offerer is owed an answer; not when what it "offered" was itself an answer to an offer of ours.
    pub replies: bool,
    /// `None` for an offer that removes the stream.
    pub stream: Option<PendingStream>,
    /// The legs before the offer.
    pub before: PerLeg<LegState>,
}

pub(super) struct PendingStream {
    pub near: NearStream,
    /// The number of each of `near.formats` in our offer to the far leg.
    pub far_numbers: Vec<u8>,
    /// Whether that offer is of a secure profile.
    pub secure: bool,
}

/// The offerer's side of the stream, settled but for the answer.
pub(super) struct NearStream {
    pub remote: RemoteStream,
    pub formats: Vec<NearFormat>,
    pub crypto: Option<CryptoPair>,
    pub rtcp_mux: bool,
}

pub(super) struct NearFormat {
    pub format: PayloadFormat,
    pub numbers: LegNumbers,
    pub fmtp: Option<String>,
}

#[derive(Clone)]
pub(super) struct CryptoPair {
    pub theirs: CryptoLine,
    pub ours: CryptoLine,
}

/// Which m-line of an offer is anchored.
pub(super) struct Choice {
    pub index: usize,
    /// `None` when the offer switches the anchored stream off.
    pub stream: Option<Accepted>,
}

pub(super) struct Accepted {
    pub remote: RemoteStream,
    pub formats: Vec<RemoteFormat>,
    pub crypto: Option<CryptoLine>,
}

impl RemoteDescription {
    pub(super) fn slots(&self) -> Vec<Slot> {
        self.sections.iter().map(|section| section.slot.clone()).collect()
    }
}

impl MediaSession {
    /// Chooses the stream to anchor: the anchored one while it lasts, otherwise the first acceptable. An error is that
    /// of the first audio m-line that failed.
    pub(super) fn choose(&self, from: LegId, remote: &RemoteDescription) -> Result<Choice, NegotiationError> {
        let anchored = self.legs[from]
            .state
            .anchor
            .filter(|&index| index < remote.sections.len());
        let mut first_error = None;
        for index in anchored.into_iter().chain(0..remote.sections.len()) {
            let section = &remote.sections[index];
            if !section.is_audio || section.disabled {
                continue;
            }
            match self.accept(from, section) {
                Ok(stream) => {
                    return Ok(Choice {
                        index,
                        stream: Some(stream),
                    });
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        let switched_off = anchored.filter(|&index| remote.sections[index].disabled);
        match (first_error, switched_off) {
            (Some(error), _) => Err(error),
            (None, Some(index)) if self.legs[from.other()].state.anchor.is_some() => Ok(Choice { index, stream: None }),
            (None, _) => Err(NegotiationErrorKind::NoAudio.on(from)),
        }
    }

    fn accept(&self, from: LegId, section: &RemoteSection) -> Result<Accepted, NegotiationError> {
        let remote = section.stream.clone().map_err(|kind| kind.on(from))?;
        let crypto = crypto::accept_offer(&self.legs[from].policy.srtp, &remote).map_err(|kind| kind.on(from))?;
        let formats = formats::common(&remote, from, self.policies())?;
        Ok(Accepted {
            remote,
            formats,
            crypto,
        })
    }

    /// Fails when no offer to the leg can satisfy its own policy.
    pub(super) fn check_offerable(&self, to: LegId) -> Result<(), NegotiationError> {
        let srtp = &self.legs[to].policy.srtp;
        if srtp.mode == SrtpMode::Required && srtp.suites.is_empty() {
            return Err(NegotiationErrorKind::NoCommonSuite.on(to));
        }
        Ok(())
    }

    /// Sees to it that both legs have ports, the near one of the family it uses.
    pub(super) fn lease_ports<P: PortAllocator + ?Sized>(
        &mut self,
        states: &mut PerLeg<LegState>,
        near: LegId,
        near_family: Option<AddressFamily>,
        ports: &mut P,
    ) -> Result<(), NegotiationError> {
        for (leg, family) in [(near, near_family), (near.other(), None)] {
            let fits = |lease: PortLease| family.is_none_or(|family| family == AddressFamily::of(lease.rtp.ip()));
            if states[leg].lease.is_some_and(fits) {
                continue;
            }
            match ports.allocate(leg, family.unwrap_or(self.legs[leg].policy.family)) {
                Ok(lease) => states[leg].lease = Some(lease),
                Err(_) => {
                    for leg in LegId::BOTH {
                        let held = self.legs[leg].state.lease;
                        self.released
                            .extend(states[leg].lease.filter(|lease| Some(*lease) != held));
                    }
                    return Err(NegotiationErrorKind::PortsExhausted.on(leg));
                }
            }
        }
        Ok(())
    }

    /// Passes an offer on: writes it for the far leg and takes `states` over.
    pub(super) fn pass_on<R: CryptoRng + ?Sized>(
        &mut self,
        offerer: LegId,
        choice: Choice,
        bandwidth: &[String],
        states: PerLeg<LegState>,
        rng: &mut R,
    ) -> (Pending, Bytes) {
        let in_force = self.legs[offerer].state.crypto_in_force();
        let near = choice.stream.map(|accepted| NearStream {
            rtcp_mux: accepted.remote.rtcp_mux && self.legs[offerer].policy.rtcp_mux,
            crypto: accepted.crypto.map(|theirs| CryptoPair {
                ours: crypto::answer_line(&theirs, in_force, rng),
                theirs,
            }),
            formats: accepted.formats.into_iter().map(NearFormat::of_offer).collect(),
            remote: accepted.remote,
        });
        let before = PerLeg::new(self.legs[LegId::A].state.clone(), self.legs[LegId::B].state.clone());
        self.write_offer(
            Opening {
                offerer,
                replies: true,
                near,
                before,
            },
            bandwidth,
            states,
            rng,
        )
    }

    /// Makes an offer of our own for `to`, as if the other leg had offered everything both policies allow.
    pub(super) fn make_own_offer<R: CryptoRng + ?Sized>(
        &mut self,
        to: LegId,
        formats: Vec<RemoteFormat>,
        states: PerLeg<LegState>,
        rng: &mut R,
    ) -> (Pending, Bytes) {
        let remote = RemoteStream {
            protocol: Protocol::RtpAvp,
            address: None,
            family: None,
            direction: Direction::SendRecv,
            rtcp_mux: false,
            formats: Vec::new(),
            crypto: Vec::new(),
            details: StreamDetails::default(),
        };
        let formats = formats.into_iter().map(NearFormat::of_offer).collect();
        let near = NearStream {
            remote,
            formats,
            crypto: None,
            rtcp_mux: false,
        };
        let before = PerLeg::new(self.legs[LegId::A].state.clone(), self.legs[LegId::B].state.clone());
        self.write_offer(
            Opening {
                offerer: to.other(),
                replies: true,
                near: Some(near),
                before,
            },
            &[],
            states,
            rng,
        )
    }

    /// Writes the offer for the far leg and takes over `states`.
    pub(super) fn write_offer<R: CryptoRng + ?Sized>(
        &mut self,
        opening: Opening,
        bandwidth: &[String],
        mut states: PerLeg<LegState>,
        rng: &mut R,
    ) -> (Pending, Bytes) {
        let Opening {
            offerer,
            replies,
            near,
            before,
        } = opening;
        let to = offerer.other();
        let far = &mut states[to];
        let leg = &mut self.legs[to];
        let mut stream = None;
        let lease = far.leased();
        let offer = match near {
            None => render::description(&mut leg.origin, &lease, bandwidth, &far.slots, None, rng),
            Some(near) => {
                let protocol = offer_protocol(&leg.policy, far);
                let wanted: Vec<RemoteFormat> = near.formats.iter().map(NearFormat::as_remote).collect();
                let far_numbers = leg.numbers.assign(&wanted, leg.policy.dtmf);
                for (format, &number) in wanted.iter().zip(&far_numbers) {
                    leg.numbers.record(number, format.format);
                }
                far.local_crypto = crypto::offer_lines(&leg.policy.srtp, &far.local_crypto, rng);
                let own = OwnStream {
                    protocol,
                    formats: near
                        .formats
                        .iter()
                        .zip(&far_numbers)
                        .map(|(format, &number)| OwnFormat {
                            number,
                            format: format.format,
                            fmtp: format.fmtp.as_deref(),
                        })
                        .collect(),
                    details: &near.remote.details,
                    crypto: &far.local_crypto,
                    rtcp_mux: leg.policy.rtcp_mux,
                    direction: near.remote.direction,
                };
                let index = *far.anchor.get_or_insert(far.slots.len());
                if index == far.slots.len() {
                    far.slots.push(own.slot());
                } else {
                    far.slots[index] = own.slot();
                }
                let offer =
                    render::description(&mut leg.origin, &lease, bandwidth, &far.slots, Some((index, &own)), rng);
                let secure = matches!(protocol, Protocol::RtpSavp | Protocol::RtpSavpf);
                stream = Some(PendingStream {
                    near,
                    far_numbers,
                    secure,
                });
                offer
            }
        };
        let PerLeg([a, b]) = states;
        self.legs[LegId::A].state = a;
        self.legs[LegId::B].state = b;
        (
            Pending {
                offerer,
                replies,
                stream,
                before,
            },
            offer,
        )
    }

    /// Goes back to what was before an offer and gives up the ports taken for it.
    pub(super) fn restore(&mut self, before: PerLeg<LegState>) {
        let PerLeg([a, b]) = before;
        for (leg, state) in [(LegId::A, a), (LegId::B, b)] {
            let tried = std::mem::replace(&mut self.legs[leg].state, state).lease;
            self.released
                .extend(tried.filter(|lease| Some(*lease) != self.legs[leg].state.lease));
        }
    }

    /// Gives up the ports a completed exchange has replaced.
    pub(super) fn release_replaced(&mut self, pending: &Pending) {
        for leg in LegId::BOTH {
            let held = self.legs[leg].state.lease;
            self.released
                .extend(pending.before[leg].lease.filter(|lease| Some(*lease) != held));
        }
    }
}

/// What [`MediaSession::write_offer`] starts from.
pub(super) struct Opening {
    pub offerer: LegId,
    pub replies: bool,
    pub near: Option<NearStream>,
    pub before: PerLeg<LegState>,
}

impl NearFormat {
    fn of_offer(format: RemoteFormat) -> Self {
        NearFormat {
            format: format.format,
            numbers: LegNumbers::same(format.number),
            fmtp: format.fmtp,
        }
    }

    fn as_remote(&self) -> RemoteFormat {
        RemoteFormat {
            number: self.numbers.send,
            format: self.format,
            fmtp: None,
        }
    }
}

impl LegState {
    pub(super) fn leased(&self) -> PortLease {
        self.lease
            .expect("ports are leased before the first description is written")
    }
}

/// The profile of our next offer: the one in force while the policy allows it, since a peer may take a change of profile
/// for another stream.
fn offer_protocol(policy: &LegPolicy, state: &LegState) -> Protocol {
    match state.protocol {
        Some(protocol) if state.remote_crypto.is_some() && policy.srtp.offers_crypto() => protocol,
        Some(protocol @ (Protocol::RtpAvp | Protocol::RtpAvpf)) if policy.srtp.mode != SrtpMode::Required => protocol,
        _ if policy.srtp.mode == SrtpMode::Required => Protocol::RtpSavp,
        _ => Protocol::RtpAvp,
    }
}
