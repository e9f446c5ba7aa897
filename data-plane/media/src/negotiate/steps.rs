//! The steps of an exchange behind [`MediaSession`]'s public face.
//!
//! *Near* is the leg that offered, *far* the one the offer is passed to. Everything that can fail is worked out on values
//! first; the session is changed only when nothing can fail any more.

use bytes::Bytes;
use rand_core::CryptoRng;

use crate::codec::PayloadFormat;
use crate::relay::{LegId, PerLeg, SrtpParams};
use crate::sdes::CryptoLine;
use crate::sdp::{Direction, Protocol};

use super::agreed::{AgreedFormat, AgreedLeg, AgreedStream};
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
    stream: Option<PendingStream>,
    /// The legs before the offer.
    pub before: PerLeg<LegState>,
}

struct PendingStream {
    near: NearStream,
    /// The number of each of `near.formats` in our offer to the far leg.
    far_numbers: Vec<u8>,
    /// Whether that offer is of a secure profile.
    secure: bool,
}

/// The offerer's side of the stream, settled but for the answer.
struct NearStream {
    remote: RemoteStream,
    formats: Vec<NearFormat>,
    crypto: Option<CryptoPair>,
    rtcp_mux: bool,
}

struct NearFormat {
    format: PayloadFormat,
    numbers: LegNumbers,
    fmtp: Option<String>,
}

#[derive(Clone)]
struct CryptoPair {
    theirs: CryptoLine,
    ours: CryptoLine,
}

/// The answerer's side.
struct FarStream {
    remote: RemoteStream,
    formats: Vec<FarFormat>,
    crypto: Option<CryptoPair>,
    rtcp_mux: bool,
}

struct FarFormat {
    agreed: AgreedFormat,
    fmtp: Option<String>,
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

    /// The answer to an offer of our own becomes an offer to the other leg.
    pub(super) fn answer_to_own<R: CryptoRng + ?Sized>(
        &mut self,
        from: LegId,
        body: &[u8],
        pending: &Pending,
        rng: &mut R,
    ) -> Result<(Pending, Bytes), NegotiationError> {
        self.check_offerable(from.other())?;
        let description = self.read(from, body)?;
        let no_audio = NegotiationErrorKind::NoAudio.on(from);
        let far = self.far_answer(from, &description, pending)?.ok_or(no_audio)?;
        let mut states = PerLeg::new(self.legs[LegId::A].state.clone(), self.legs[LegId::B].state.clone());
        settle_leg(&mut states[from], &far.remote, far.crypto.as_ref());
        let formats = far.formats.into_iter().map(|format| NearFormat {
            format: format.agreed.format,
            numbers: format.agreed.numbers[from],
            fmtp: format.fmtp,
        });
        let near = NearStream {
            formats: formats.collect(),
            remote: far.remote,
            crypto: far.crypto,
            rtcp_mux: far.rtcp_mux,
        };
        let opening = Opening {
            offerer: from,
            replies: false,
            near: Some(near),
            before: pending.before.clone(),
        };
        Ok(self.write_offer(opening, &description.bandwidth, states, rng))
    }

    /// Takes the far leg's answer, puts what it agrees to in force and writes the near leg's answer.
    pub(super) fn complete<R: CryptoRng + ?Sized>(
        &mut self,
        from: LegId,
        body: &[u8],
        pending: &Pending,
        rng: &mut R,
    ) -> Result<Bytes, NegotiationError> {
        let description = self.read(from, body)?;
        let far = self.far_answer(from, &description, pending)?;
        Ok(self.settle(pending, far, &description.bandwidth, rng))
    }

    /// Takes the far leg's own offer instead of an answer to ours and answers both.
    pub(super) fn complete_crossed<R: CryptoRng + ?Sized>(
        &mut self,
        from: LegId,
        body: &[u8],
        pending: &Pending,
        rng: &mut R,
    ) -> Result<PerLeg<Bytes>, NegotiationError> {
        let near = from.other();
        let stream = pending.stream.as_ref().ok_or(NegotiationErrorKind::NoAudio.on(near))?;
        let description = self.read(from, body)?;
        let choice = self.choose(from, &description)?;
        let accepted = choice.stream.ok_or(NegotiationErrorKind::NoAudio.on(from))?;
        self.check_family(from, &accepted.remote)?;
        let formats: Vec<FarFormat> = accepted
            .formats
            .into_iter()
            .filter_map(|theirs| {
                let offered = stream
                    .near
                    .formats
                    .iter()
                    .find(|offered| offered.format == theirs.format)?;
                Some(FarFormat {
                    agreed: AgreedFormat {
                        format: theirs.format,
                        numbers: per_leg(near, offered.numbers, LegNumbers::same(theirs.number)),
                    },
                    fmtp: theirs.fmtp,
                })
            })
            .collect();
        require_audio(&formats, from)?;
        let in_force = pending.before[from].crypto_in_force();
        let crypto = accepted.crypto.map(|theirs| CryptoPair {
            ours: crypto::answer_line(&theirs, in_force, rng),
            theirs,
        });
        let rtcp_mux = accepted.remote.rtcp_mux && self.legs[from].policy.rtcp_mux;
        self.legs[from].state.slots = description.slots();
        self.legs[from].state.anchor = Some(choice.index);
        let leg = &mut self.legs[from];
        for format in &formats {
            leg.numbers
                .record(format.agreed.numbers[from].receive, format.agreed.format);
        }
        let own = OwnStream {
            protocol: accepted.remote.protocol,
            formats: formats
                .iter()
                .map(|format| OwnFormat {
                    number: format.agreed.numbers[from].receive,
                    format: format.agreed.format,
                    fmtp: stream.near.fmtp_of(format.agreed.format),
                })
                .collect(),
            details: &stream.near.remote.details,
            crypto: crypto.as_ref().map_or(&[], |pair| std::slice::from_ref(&pair.ours)),
            rtcp_mux,
            direction: stream
                .near
                .remote
                .direction
                .intersect(accepted.remote.direction.reversed()),
        };
        let lease = leg.state.leased();
        let anchor = Some((choice.index, &own));
        let to_far = render::description(&mut leg.origin, &lease, &[], &leg.state.slots, anchor, rng);
        let far = FarStream {
            remote: accepted.remote,
            formats,
            crypto,
            rtcp_mux,
        };
        let to_near = self.settle(pending, Some(far), &description.bandwidth, rng);
        Ok(per_leg(near, to_near, to_far))
    }

    /// Reads the far leg's answer against our offer; `None` when either side has no stream.
    fn far_answer(
        &self,
        from: LegId,
        description: &RemoteDescription,
        pending: &Pending,
    ) -> Result<Option<FarStream>, NegotiationError> {
        let state = &self.legs[from].state;
        let policy = &self.legs[from].policy;
        let section = state.anchor.and_then(|index| description.sections.get(index));
        let section = section
            .filter(|section| section.is_audio)
            .ok_or(NegotiationErrorKind::AnswerMismatch.on(from))?;
        let Some(offered) = pending.stream.as_ref().filter(|_| !section.disabled) else {
            return Ok(None);
        };
        let remote = section.stream.clone().map_err(|kind| kind.on(from))?;
        self.check_family(from, &remote)?;
        let formats = answered_formats(from, offered, &remote);
        require_audio(&formats, from)?;
        let lines = if policy.srtp.offers_crypto() {
            state.local_crypto.as_slice()
        } else {
            &[]
        };
        let crypto = crypto::accept_answer(&policy.srtp, lines, offered.secure, &remote)
            .map_err(|kind| kind.on(from))?
            .map(|(theirs, position)| CryptoPair {
                theirs,
                ours: lines[position].clone(),
            });
        let rtcp_mux = remote.rtcp_mux && policy.rtcp_mux;
        Ok(Some(FarStream {
            remote,
            formats,
            crypto,
            rtcp_mux,
        }))
    }

    fn check_family(&self, leg: LegId, remote: &RemoteStream) -> Result<(), NegotiationError> {
        let ours = AddressFamily::of(self.legs[leg].state.leased().rtp.ip());
        // A null address is a hold in any family.
        match remote.family.filter(|_| remote.address.is_some()) {
            Some(theirs) if theirs != ours => Err(NegotiationErrorKind::AddressUnusable.on(leg)),
            _ => Ok(()),
        }
    }

    /// Puts the outcome in force and writes the near leg's answer. `far` is `None` when there is no stream any more.
    fn settle<R: CryptoRng + ?Sized>(
        &mut self,
        pending: &Pending,
        far: Option<FarStream>,
        bandwidth: &[String],
        rng: &mut R,
    ) -> Bytes {
        let near = pending.offerer;
        let (Some(stream), Some(far)) = (&pending.stream, far) else {
            self.agreed = Some(None);
            if !pending.replies {
                return Bytes::new();
            }
            let leg = &mut self.legs[near];
            let lease = leg.state.leased();
            return render::description(&mut leg.origin, &lease, bandwidth, &leg.state.slots, None, rng);
        };
        let offered = &stream.near;
        let direction = far.remote.direction.intersect(offered.remote.direction.reversed());
        settle_leg(&mut self.legs[near].state, &offered.remote, offered.crypto.as_ref());
        settle_leg(&mut self.legs[near.other()].state, &far.remote, far.crypto.as_ref());
        let leg = &mut self.legs[near];
        let mut reply = Bytes::new();
        if pending.replies {
            let own = OwnStream {
                protocol: offered.remote.protocol,
                formats: far
                    .formats
                    .iter()
                    .map(|format| OwnFormat {
                        number: format.agreed.numbers[near].receive,
                        format: format.agreed.format,
                        fmtp: format.fmtp.as_deref(),
                    })
                    .collect(),
                details: &far.remote.details,
                crypto: offered
                    .crypto
                    .as_ref()
                    .map_or(&[], |pair| std::slice::from_ref(&pair.ours)),
                rtcp_mux: offered.rtcp_mux,
                direction,
            };
            for format in &own.formats {
                leg.numbers.record(format.number, format.format);
            }
            let lease = leg.state.leased();
            let anchor = leg.state.anchor.map(|index| (index, &own));
            reply = render::description(&mut leg.origin, &lease, bandwidth, &leg.state.slots, anchor, rng);
        }
        let agreed_leg =
            |leg: LegId, remote: &RemoteStream, crypto: Option<&CryptoPair>, rtcp_mux, direction| AgreedLeg {
                lease: self.legs[leg].state.leased(),
                remote: remote.address,
                rtcp_mux,
                direction,
                srtp: crypto.map(|pair| SrtpParams {
                    rx: Some(pair.theirs.key().clone()),
                    tx: pair.ours.key().clone(),
                }),
            };
        let legs = per_leg(
            near,
            agreed_leg(
                near,
                &offered.remote,
                offered.crypto.as_ref(),
                offered.rtcp_mux,
                direction,
            ),
            agreed_leg(
                near.other(),
                &far.remote,
                far.crypto.as_ref(),
                far.rtcp_mux,
                direction.reversed(),
            ),
        );
        self.agreed = Some(Some(AgreedStream {
            formats: far.formats.into_iter().map(|format| format.agreed).collect(),
            legs,
        }));
        reply
    }

    /// Writes the offer for the far leg and takes over `states`.
    fn write_offer<R: CryptoRng + ?Sized>(
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

    /// Gives up the ports a completed exchange has replaced; later calls for the same exchange find none.
    pub(super) fn release_replaced(&mut self, pending: &mut Pending) {
        for leg in LegId::BOTH {
            let held = self.legs[leg].state.lease;
            self.released
                .extend(pending.before[leg].lease.take().filter(|lease| Some(*lease) != held));
        }
    }
}

/// What [`MediaSession::write_offer`] starts from.
struct Opening {
    offerer: LegId,
    replies: bool,
    near: Option<NearStream>,
    before: PerLeg<LegState>,
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

impl NearStream {
    fn fmtp_of(&self, format: PayloadFormat) -> Option<&str> {
        self.formats
            .iter()
            .find(|known| known.format == format)?
            .fmtp
            .as_deref()
    }
}

impl LegState {
    fn leased(&self) -> PortLease {
        self.lease
            .expect("ports are leased before the first description is written")
    }
}

/// The formats of an answer that were in our offer, in the answerer's order. It may number them differently, but has to
/// send with our numbers (RFC 3264 §6.1).
fn answered_formats(from: LegId, offered: &PendingStream, remote: &RemoteStream) -> Vec<FarFormat> {
    let mut formats: Vec<FarFormat> = remote
        .formats
        .iter()
        .filter_map(|theirs| {
            let position = offered
                .near
                .formats
                .iter()
                .position(|near| near.format == theirs.format)?;
            let far = LegNumbers {
                receive: offered.far_numbers[position],
                send: theirs.number,
            };
            let near = offered.near.formats[position].numbers;
            Some(FarFormat {
                agreed: AgreedFormat {
                    format: theirs.format,
                    numbers: per_leg(from.other(), near, far),
                },
                fmtp: theirs.fmtp.clone(),
            })
        })
        .collect();
    // Events at a clock no remaining codec has would carry timestamps of another stream (RFC 4733 §2.5.1.1).
    let has_48000 = formats
        .iter()
        .any(|f| f.agreed.format.codec().is_some() && f.agreed.format.clock_rate() == 48_000);
    formats.retain(|f| has_48000 || f.agreed.format.clock_rate() != 48_000);
    formats
}

fn require_audio(formats: &[FarFormat], leg: LegId) -> Result<(), NegotiationError> {
    match formats.iter().any(|format| format.agreed.format.codec().is_some()) {
        true => Ok(()),
        false => Err(NegotiationErrorKind::NoCommonCodec.on(leg)),
    }
}

/// Puts a leg's half of an exchange in force.
fn settle_leg(state: &mut LegState, remote: &RemoteStream, crypto: Option<&CryptoPair>) {
    state.protocol = Some(remote.protocol);
    state.remote_crypto = crypto.map(|pair| pair.theirs.clone());
    if let Some(CryptoPair { ours, .. }) = crypto {
        // The rest stays for the next offer, which must not use a tag twice (RFC 4568 §9.1).
        state
            .local_crypto
            .retain(|line| line.tag != ours.tag && line.suite() != ours.suite());
        state.local_crypto.insert(0, ours.clone());
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

/// A pair with `near`'s value given first.
fn per_leg<T>(near: LegId, of_near: T, of_far: T) -> PerLeg<T> {
    match near {
        LegId::A => PerLeg::new(of_near, of_far),
        LegId::B => PerLeg::new(of_far, of_near),
    }
}
