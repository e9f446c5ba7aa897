//! Offer/answer through the edge (RFC 3264): the SDP half of a call between two legs.
//!
//! A [`MediaSession`] is given each leg's policy and every description that passes; it returns the description to pass
//! on and says what the relay must do. It knows neither SIP nor trunks: whether an offer came in an INVITE, a 200 or a
//! PRACK is the caller's affair (RFC 6337 §2), and a failed step names the leg and the reason.
//!
//! What happens to a description on its way:
//!
//! * **Addresses** become those of the leg's port lease. Each leg has its own family, crypto, rtcp-mux and `o=` line.
//! * **Codecs** are those both legs' lists allow, in the order of the list of the leg they are offered to. An answer goes
//!   back in the answerer's order, so that both ends begin with the same codec. Payload type numbers stay where they can.
//! * **Streams**: the first acceptable audio m-line is anchored, every other m-line is refused with port 0 in its place
//!   (two audio m-lines are mostly the SRTP and the plain form of one stream). Refused ones are not shown to the other leg.
//! * **Profiles**: `RTP/AVPF` and `RTP/SAVPF` are accepted with the feedback left out. DTLS-SRTP is refused, ICE is left
//!   out (the peer then talks to the `c=` address, RFC 8839 §4.2).
//! * **Direction** passes through; the null-address hold of RFC 2543 becomes `sendonly` or `inactive`.
//! * Attributes nobody here knows are left out, bandwidth lines and a few that describe the audio itself pass.

mod agreed;
mod answers;
mod crypto;
mod error;
mod formats;
mod policy;
mod ports;
mod remote;
mod render;
mod steps;

use std::fmt;

use bytes::Bytes;
use rand_core::CryptoRng;
use sha1::{Digest, Sha1};

use crate::relay::{LegId, PerLeg, SessionConfig, SourcePolicy};
use crate::sdes::CryptoLine;
use crate::sdp::Protocol;

pub use agreed::StreamSummary;
pub use error::{NegotiationError, NegotiationErrorKind};
pub use policy::{DtmfMethod, DtmfPolicy, LegPolicy, SrtpMode, SrtpPolicy};
pub use ports::{AddressFamily, PortAllocator, PortLease, PortsExhausted};

use agreed::AgreedStream;
use formats::Numbers;
use remote::{RemoteDescription, Slot};
use render::Origin;
use steps::Pending;

/// The media of one call branch between two legs.
///
/// Call order, for every exchange: [`offer`](Self::offer) with the offer of one leg (or [`originate`](Self::originate)
/// when there is none and one is wanted), then [`answer`](Self::answer) with the other leg's answer or
/// [`reject`](Self::reject) when the offer fails. A step that fails changes nothing. After every step that succeeds
/// [`relay_config`](Self::relay_config) is what the relay must be doing and [`take_released`](Self::take_released) holds
/// the ports it no longer needs.
///
/// Descriptions hold keys: the bodies returned must not be logged.
pub struct MediaSession {
    legs: PerLeg<Leg>,
    exchange: Exchange,
    /// Of the last completed exchange: `None` before the first, `Some(None)` when it left no stream.
    agreed: Option<Option<AgreedStream>>,
    /// Counts completed exchanges, and answers that replaced another one.
    round: u32,
    supervised: bool,
    released: Vec<PortLease>,
}

struct Leg {
    policy: LegPolicy,
    state: LegState,
    /// Outlives a rejected offer: its version has been seen.
    origin: Origin,
    /// Outlives a rejected offer: its numbers have been seen.
    numbers: Numbers,
}

/// What an offer changes and a rejection restores.
#[derive(Clone, Default)]
struct LegState {
    lease: Option<PortLease>,
    /// The m-lines of the leg's dialog in their order.
    slots: Vec<Slot>,
    /// Which of them carries the stream.
    anchor: Option<usize>,
    /// Our crypto lines as last written, the one in force first.
    local_crypto: Vec<CryptoLine>,
    /// The peer's line in force; `None` for plain RTP.
    remote_crypto: Option<CryptoLine>,
    /// The profile in force, which our next offer repeats.
    protocol: Option<Protocol>,
}

/// Where the offer/answer exchange stands (RFC 3264 §4: one at a time).
enum Exchange {
    /// Nothing is waiting.
    Idle,
    /// An offer of ours that answers no offer is with the leg.
    Originated(Box<Pending>),
    /// An offer of one leg has been passed to the other.
    Offered(Box<Pending>),
    /// It has been answered. The answer may be repeated, or come again from another fork, until the next offer.
    Answered {
        pending: Box<Pending>,
        /// A digest of the answer.
        body: [u8; 20],
        reply: Bytes,
    },
}

impl MediaSession {
    /// A session that has seen no description. Leg A called, leg B is called.
    pub fn new(policies: PerLeg<LegPolicy>) -> Self {
        let PerLeg([a, b]) = policies;
        let leg = |policy| Leg {
            policy,
            state: LegState::default(),
            origin: Origin::default(),
            numbers: Numbers::default(),
        };
        MediaSession {
            legs: PerLeg::new(leg(a), leg(b)),
            exchange: Exchange::Idle,
            agreed: None,
            round: 0,
            supervised: false,
            released: Vec::new(),
        }
    }

    /// Takes an offer of `from` and returns the offer for the other leg.
    ///
    /// # Errors
    /// See [`NegotiationErrorKind`]; the session is then as before. [`NegotiationErrorKind::OfferPending`] while an
    /// earlier offer is unanswered.
    pub fn offer<P, R>(
        &mut self,
        from: LegId,
        body: &[u8],
        ports: &mut P,
        rng: &mut R,
    ) -> Result<Bytes, NegotiationError>
    where
        P: PortAllocator + ?Sized,
        R: CryptoRng + ?Sized,
    {
        self.refuse_while_pending(from)?;
        let remote = self.read(from, body)?;
        let choice = self.choose(from, &remote)?;
        self.check_offerable(from.other())?;
        let mut states = PerLeg::new(self.legs[LegId::A].state.clone(), self.legs[LegId::B].state.clone());
        states[from].slots = remote.slots();
        states[from].anchor = Some(choice.index);
        // A null address (hold) says nothing about where the leg is, unless nothing better is known.
        let family = choice
            .stream
            .as_ref()
            .filter(|accepted| accepted.remote.address.is_some() || states[from].lease.is_none())
            .and_then(|accepted| accepted.remote.family);
        self.lease_ports(&mut states, from, family, ports)?;
        let (pending, offer) = self.pass_on(from, choice, &remote.bandwidth, states, rng);
        self.exchange = Exchange::Offered(Box::new(pending));
        Ok(offer)
    }

    /// Makes an offer for `to` out of the policies, for when the calling leg brought none and this leg must not be asked
    /// for one. Its [`answer`](Self::answer) yields an offer for the other leg, whose answer ends the exchange.
    ///
    /// # Errors
    /// As [`offer`](Self::offer).
    pub fn originate<P, R>(&mut self, to: LegId, ports: &mut P, rng: &mut R) -> Result<Bytes, NegotiationError>
    where
        P: PortAllocator + ?Sized,
        R: CryptoRng + ?Sized,
    {
        self.refuse_while_pending(to)?;
        let formats = formats::own(to, self.policies())?;
        self.check_offerable(to)?;
        let mut states = PerLeg::new(self.legs[LegId::A].state.clone(), self.legs[LegId::B].state.clone());
        self.lease_ports(&mut states, to.other(), None, ports)?;
        let (pending, offer) = self.make_own_offer(to, formats, states, rng);
        self.exchange = Exchange::Originated(Box::new(pending));
        Ok(offer)
    }

    /// Takes an answer of `from` and returns what goes to the other leg: its answer; after
    /// [`originate`](Self::originate) first an offer, then, when that is answered, nothing (an empty body).
    ///
    /// An answer that was already taken is answered alike (a 200 repeats the answer of a 183, RFC 6337 §2). A different
    /// one to the same offer replaces it: that is another fork's.
    ///
    /// # Errors
    /// See [`NegotiationErrorKind`]; the session is then as before, the offer still open. The far end believes the
    /// exchange complete, so the caller has to end the dialog or offer anew.
    pub fn answer<R>(&mut self, from: LegId, body: &[u8], rng: &mut R) -> Result<Bytes, NegotiationError>
    where
        R: CryptoRng + ?Sized,
    {
        match std::mem::replace(&mut self.exchange, Exchange::Idle) {
            Exchange::Originated(pending) if pending.offerer.other() == from => {
                match self.answer_to_own(from, body, &pending, rng) {
                    Ok((next, offer)) => {
                        self.exchange = Exchange::Offered(Box::new(next));
                        Ok(offer)
                    }
                    Err(error) => {
                        self.exchange = Exchange::Originated(pending);
                        Err(error)
                    }
                }
            }
            Exchange::Offered(pending) if pending.offerer.other() == from => {
                match self.complete(from, body, &pending, rng) {
                    Ok(reply) => {
                        self.round = self.round.wrapping_add(1);
                        self.release_replaced(&pending);
                        self.exchange = Exchange::Answered {
                            pending,
                            body: digest(body),
                            reply: reply.clone(),
                        };
                        Ok(reply)
                    }
                    Err(error) => {
                        self.exchange = Exchange::Offered(pending);
                        Err(error)
                    }
                }
            }
            Exchange::Answered {
                pending,
                body: known,
                reply,
            } if pending.offerer.other() == from => {
                if known == digest(body) {
                    let repeated = reply.clone();
                    self.exchange = Exchange::Answered {
                        pending,
                        body: known,
                        reply,
                    };
                    return Ok(repeated);
                }
                let agreed = self.agreed.clone();
                let result = self.complete(from, body, &pending, rng);
                if self.agreed != agreed {
                    self.round = self.round.wrapping_add(1);
                }
                let (body, reply) = result
                    .as_ref()
                    .map_or((known, reply), |new| (digest(body), new.clone()));
                self.exchange = Exchange::Answered { pending, body, reply };
                result
            }
            other => {
                self.exchange = other;
                Err(NegotiationErrorKind::NoOfferPending.on(from))
            }
        }
    }

    /// Takes an offer of `from` while an offer of the other leg waits, and answers both. For a leg that was asked for an
    /// offer although there was one (delayed media): the offer [`offer`](Self::offer) returned is then not sent. Returns
    /// each leg's answer.
    ///
    /// # Errors
    /// As [`offer`](Self::offer); [`NegotiationErrorKind::NoOfferPending`] unless an offer of the other leg waits.
    pub fn answer_both<R>(&mut self, from: LegId, body: &[u8], rng: &mut R) -> Result<PerLeg<Bytes>, NegotiationError>
    where
        R: CryptoRng + ?Sized,
    {
        match std::mem::replace(&mut self.exchange, Exchange::Idle) {
            Exchange::Offered(pending) if pending.offerer.other() == from && pending.replies => {
                let result = self.complete_crossed(from, body, &pending, rng);
                match &result {
                    Ok(_) => {
                        self.round = self.round.wrapping_add(1);
                        self.release_replaced(&pending);
                    }
                    Err(_) => self.exchange = Exchange::Offered(pending),
                }
                result
            }
            other => {
                self.exchange = other;
                Err(NegotiationErrorKind::NoOfferPending.on(from))
            }
        }
    }

    /// Takes back an offer that was refused or has lapsed (RFC 3264 §8, RFC 6337 §2.3): what was agreed before stays in
    /// force. Returns false when no offer was waiting.
    pub fn reject(&mut self) -> bool {
        match std::mem::replace(&mut self.exchange, Exchange::Idle) {
            Exchange::Originated(pending) | Exchange::Offered(pending) => {
                let before = pending.before;
                self.restore(before);
                true
            }
            other => {
                self.exchange = other;
                false
            }
        }
    }

    /// Forgets the last answer, which can neither be repeated nor replaced any more: to be called when the exchange has
    /// been acknowledged (ACK, or the response to a PRACK or UPDATE that carried it). Frees memory, nothing else.
    pub fn confirm(&mut self) {
        if matches!(self.exchange, Exchange::Answered { .. }) {
            self.exchange = Exchange::Idle;
        }
    }

    /// The leg whose answer is awaited; `None` when no offer is open.
    pub fn awaits_answer_of(&self) -> Option<LegId> {
        match &self.exchange {
            Exchange::Originated(pending) | Exchange::Offered(pending) => Some(pending.offerer.other()),
            Exchange::Idle | Exchange::Answered { .. } => None,
        }
    }

    /// What the relay must be doing: the last completed exchange. `None` before the first; without streams when an
    /// exchange left none.
    pub fn relay_config(&self) -> Option<SessionConfig> {
        let stream = self.agreed.as_ref()?.as_ref();
        Some(agreed::session_config(
            stream,
            self.policies(),
            self.round,
            self.supervised,
        ))
    }

    /// What was negotiated, for the call record; `None` before the first completed exchange and while there is no stream.
    pub fn summary(&self) -> Option<StreamSummary> {
        self.agreed.as_ref()?.as_ref().map(AgreedStream::summary)
    }

    /// Puts idle supervision in force; to be called when the call is answered (2xx).
    pub fn supervise(&mut self) {
        self.supervised = true;
    }

    /// Sets whom the relay believes on a leg, once it is known where the leg signals from.
    pub fn set_source(&mut self, leg: LegId, source: SourcePolicy) {
        self.legs[leg].policy.source = source;
    }

    /// The policy of a leg.
    pub fn policy(&self, leg: LegId) -> &LegPolicy {
        &self.legs[leg].policy
    }

    /// The ports of a leg; `None` before the first offer.
    pub fn lease(&self, leg: LegId) -> Option<&PortLease> {
        self.legs[leg].state.lease.as_ref()
    }

    /// The ports no longer needed since the last call: from a rejected offer, or of a family a leg has left.
    pub fn take_released(&mut self) -> Vec<PortLease> {
        std::mem::take(&mut self.released)
    }

    /// Ends the session and returns all its ports.
    pub fn close(mut self) -> Vec<PortLease> {
        self.reject();
        let mut ports = self.released;
        ports.extend(self.legs.0.into_iter().filter_map(|leg| leg.state.lease));
        ports
    }

    fn policies(&self) -> PerLeg<&LegPolicy> {
        PerLeg::new(&self.legs[LegId::A].policy, &self.legs[LegId::B].policy)
    }

    fn refuse_while_pending(&self, from: LegId) -> Result<(), NegotiationError> {
        match self.awaits_answer_of() {
            Some(_) => Err(NegotiationErrorKind::OfferPending.on(from)),
            None => Ok(()),
        }
    }

    fn read(&self, from: LegId, body: &[u8]) -> Result<RemoteDescription, NegotiationError> {
        RemoteDescription::read(body, self.legs[from].policy.source).map_err(|kind| kind.on(from))
    }
}

/// Enough to recognise a repeated description without keeping its keys.
fn digest(body: &[u8]) -> [u8; 20] {
    Sha1::digest(body).into()
}

impl LegState {
    /// Our line and the peer's.
    fn crypto_in_force(&self) -> Option<(&CryptoLine, &CryptoLine)> {
        Some((self.local_crypto.first()?, self.remote_crypto.as_ref()?))
    }
}

impl fmt::Debug for MediaSession {
    /// Without descriptions and keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MediaSession")
            .field("awaits_answer_of", &self.awaits_answer_of())
            .field("summary", &self.summary())
            .field("round", &self.round)
            .finish_non_exhaustive()
    }
}
