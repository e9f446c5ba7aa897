//! The steps that take an answer, behind [`MediaSession`]'s public face. For *near* and *far* see `steps`.

use bytes::Bytes;
use rand_core::CryptoRng;

use crate::codec::PayloadFormat;
use crate::relay::{LegId, PerLeg, SrtpParams};

use super::agreed::{AgreedFormat, AgreedLeg, AgreedStream};
use super::error::{NegotiationError, NegotiationErrorKind};
use super::formats::LegNumbers;
use super::ports::AddressFamily;
use super::remote::{RemoteDescription, RemoteStream};
use super::render::{self, OwnFormat, OwnStream};
use super::steps::{CryptoPair, NearFormat, NearStream, Opening, Pending, PendingStream};
use super::{LegState, MediaSession, crypto};

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

impl MediaSession {
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
    // Events at a clock no remaining codec has would carry timestamps of another stream (RFC 4733 §2.1).
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
        // The rest stays for the next offer, which must not use a tag twice (RFC 4568 §4.1).
        state
            .local_crypto
            .retain(|line| line.tag != ours.tag && line.suite() != ours.suite());
        state.local_crypto.insert(0, ours.clone());
    }
}

/// A pair with `near`'s value given first.
fn per_leg<T>(near: LegId, of_near: T, of_far: T) -> PerLeg<T> {
    match near {
        LegId::A => PerLeg::new(of_near, of_far),
        LegId::B => PerLeg::new(of_far, of_near),
    }
}
