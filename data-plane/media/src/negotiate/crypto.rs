//! The SDES half of an offer or answer (RFC 4568 §7.1).

use rand_core::CryptoRng;

use crate::sdes::CryptoLine;
use crate::suite::SuiteSpelling;

use super::error::NegotiationErrorKind;
use super::policy::{SrtpMode, SrtpPolicy};
use super::remote::RemoteStream;

/// Decides on an offered stream: the crypto line accepted, `None` for plain RTP.
///
/// The offerer's order rules (RFC 4568 §7.1.2); our list only filters.
pub(super) fn accept_offer(
    policy: &SrtpPolicy,
    stream: &RemoteStream,
) -> Result<Option<CryptoLine>, NegotiationErrorKind> {
    let usable = stream.crypto.iter().find(|line| policy.allows(line.suite())).cloned();
    match (policy.mode, stream.is_secure()) {
        (SrtpMode::Off, true) => Err(NegotiationErrorKind::SrtpForbidden),
        (SrtpMode::Off, false) => Ok(None),
        (SrtpMode::Required | SrtpMode::Optional, true) => usable.map(Some).ok_or(NegotiationErrorKind::NoCommonSuite),
        (SrtpMode::Required, false) => usable.map(Some).ok_or(NegotiationErrorKind::SrtpRequired),
        (SrtpMode::Optional, false) => Ok(usable),
    }
}

/// What became of the crypto lines we offered: the answerer's line and the position of ours it answers, `None` for
/// plain RTP. `secure` tells whether we offered `RTP/SAVP`.
pub(super) fn accept_answer(
    policy: &SrtpPolicy,
    offered: &[CryptoLine],
    secure: bool,
    stream: &RemoteStream,
) -> Result<Option<(CryptoLine, usize)>, NegotiationErrorKind> {
    let Some(line) = stream.crypto.first().filter(|_| !offered.is_empty()) else {
        return match (policy.mode, secure || stream.is_secure()) {
            (SrtpMode::Off, true) => Err(NegotiationErrorKind::SrtpForbidden),
            (SrtpMode::Required, _) => Err(NegotiationErrorKind::SrtpRequired),
            (SrtpMode::Optional, true) => Err(NegotiationErrorKind::CryptoMismatch),
            (SrtpMode::Off | SrtpMode::Optional, false) => Ok(None),
        };
    };
    let ours = offered
        .iter()
        .position(|ours| ours.tag == line.tag && ours.suite() == line.suite())
        .ok_or(NegotiationErrorKind::CryptoMismatch)?;
    // Two streams under one key and one counter give away the xor of their plaintexts (RFC 3711 §9.1).
    if offered
        .iter()
        .any(|ours| ours.key().key_salt() == line.key().key_salt())
    {
        return Err(NegotiationErrorKind::CryptoMismatch);
    }
    Ok(Some((line.clone(), ours)))
}

/// Our line in the answer to `accepted`: its tag and spelling with a key of ours.
///
/// The key in force stays as long as the peer keeps suite and key, so that a re-offer does not disturb the stream; a new
/// key of the peer means a new cryptographic context and gets a new one of ours (RFC 4568 §7.1.4), because the device
/// now behind the peer cannot know our rollover counter.
pub(super) fn answer_line<R: CryptoRng + ?Sized>(
    accepted: &CryptoLine,
    in_force: Option<(&CryptoLine, &CryptoLine)>,
    rng: &mut R,
) -> CryptoLine {
    match in_force {
        Some((ours, theirs)) if theirs.key() == accepted.key() && ours.suite() == accepted.suite() => {
            CryptoLine::with_key(accepted.tag, accepted.spelling, ours.key().clone())
        }
        _ => CryptoLine::generate(accepted.tag, accepted.suite(), accepted.spelling, rng),
    }
}

/// The lines of our offer: those already with the peer in their order (the one in force first), then a fresh one for
/// every other suite of the list.
pub(super) fn offer_lines<R: CryptoRng + ?Sized>(
    policy: &SrtpPolicy,
    known: &[CryptoLine],
    rng: &mut R,
) -> Vec<CryptoLine> {
    if !policy.offers_crypto() {
        return Vec::new();
    }
    let mut lines: Vec<CryptoLine> = known
        .iter()
        .filter(|line| policy.allows(line.suite()))
        .cloned()
        .collect();
    for &suite in &policy.suites {
        if !lines.iter().any(|line| line.suite() == suite) {
            let tag = (1..)
                .find(|tag| !lines.iter().any(|line| line.tag == *tag))
                .unwrap_or(1);
            lines.push(CryptoLine::generate(tag, suite, SuiteSpelling::Iana, rng));
        }
    }
    lines
}
