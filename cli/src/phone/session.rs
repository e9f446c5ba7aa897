//! Offers and answers for one G.711 stream, plain or with SRTP keyed by SDES (RFC 3264, RFC 4568).

use std::net::SocketAddr;

use bytes::Bytes;
use rand::CryptoRng;
use trunkline_media::SrtpSuite;
use trunkline_media::codec::Codec;
use trunkline_media::g711::Law;
use trunkline_media::sdes::CryptoLine;
use trunkline_media::sdp::{
    self, MediaAddress, MediaDescription, Protocol, SessionDescription, TypedAttribute, Writer,
};
use trunkline_media::srtp::SrtpKey;

use super::PhoneError;

/// Suites the phone offers and accepts, in order.
const SUITES: [SrtpSuite; 4] = [
    SrtpSuite::AesCm128HmacSha1_80,
    SrtpSuite::AeadAes128Gcm,
    SrtpSuite::AesCm256HmacSha1_80,
    SrtpSuite::AeadAes256Gcm,
];

/// Codecs the phone offers and accepts.
const LAWS: [Law; 2] = [Law::Mu, Law::A];

/// The offer of a call, kept until its answer comes.
pub(super) struct Offer {
    /// The session description. Holds keys: never to be logged.
    pub(super) body: Bytes,
    crypto: Vec<CryptoLine>,
}

/// What both sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Where the peer wants its packets.
    pub(super) remote: MediaAddress,
    pub(super) law: Law,
    /// Keys by direction; `None` for plain RTP.
    pub(super) keys: Option<Keys>,
}

/// The master keys of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    pub(super) send: SrtpKey,
    pub(super) receive: SrtpKey,
}

impl Offer {
    /// Offers PCMU and PCMA at `local`, with a key per suite when `secure`.
    pub(super) fn new(local: SocketAddr, secure: bool, rng: &mut impl CryptoRng) -> Self {
        let suites = if secure { &SUITES[..] } else { &[] };
        let crypto: Vec<CryptoLine> = (1..)
            .zip(suites)
            .map(|(tag, suite)| CryptoLine::generate(tag, *suite, Default::default(), rng))
            .collect();
        Self {
            body: describe(local, &LAWS, &crypto),
            crypto,
        }
    }

    /// Reads the answer.
    ///
    /// # Errors
    /// The answer is no SDP, or does not answer this offer.
    pub(super) fn answered(&self, body: &[u8]) -> Result<Agreed, PhoneError> {
        let description = sdp::parse(body)?;
        let audio = Audio::find(&description, !self.crypto.is_empty())?;
        let keys = match audio.crypto.first() {
            None => None,
            Some(theirs) => {
                let ours = self
                    .crypto
                    .iter()
                    .find(|ours| ours.tag == theirs.tag && ours.suite() == theirs.suite());
                let ours = ours.ok_or(PhoneError::Session("answers a crypto line that was not offered"))?;
                Some(Keys {
                    send: ours.key().clone(),
                    receive: theirs.key().clone(),
                })
            }
        };
        Ok(Agreed {
            remote: audio.remote,
            law: audio.law,
            keys,
        })
    }
}

/// Answers an offer: the first codec and the first crypto line of it the phone knows. `secure` is what the phone's transport
/// asks for: SRTP or nothing, or RTP or nothing.
///
/// # Errors
/// The offer is no SDP, or holds nothing for this phone.
pub(super) fn answer(
    local: SocketAddr,
    secure: bool,
    offer: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<(Bytes, Agreed), PhoneError> {
    let description = sdp::parse(offer)?;
    let audio = Audio::find(&description, secure)?;
    let theirs = audio.crypto.first();
    let ours = theirs.map(|theirs| CryptoLine::generate(theirs.tag, theirs.suite(), theirs.spelling, rng));
    let keys = theirs.zip(ours.as_ref()).map(|(theirs, ours)| Keys {
        send: ours.key().clone(),
        receive: theirs.key().clone(),
    });
    let body = describe(local, &[audio.law], ours.as_slice());
    Ok((
        body,
        Agreed {
            remote: audio.remote,
            law: audio.law,
            keys,
        },
    ))
}

/// The usable part of a description.
struct Audio {
    remote: MediaAddress,
    law: Law,
    /// Crypto lines with a suite of ours.
    crypto: Vec<CryptoLine>,
}

impl Audio {
    fn find(description: &SessionDescription<'_>, secure: bool) -> Result<Self, PhoneError> {
        let wanted = if secure { Protocol::RtpSavp } else { Protocol::RtpAvp };
        let usable = |media: &MediaDescription<'_>| media.is_audio() && media.port != 0 && media.protocol == wanted;
        let index = description
            .media()
            .iter()
            .position(usable)
            .ok_or(PhoneError::Session(match secure {
                true => "has no SRTP audio (m=audio with RTP/SAVP)",
                false => "has no RTP audio (m=audio with RTP/AVP)",
            }))?;
        let remote = description
            .media_address(index)
            .ok_or(PhoneError::Session("has no address for its audio"))?;
        // G.711 has static payload types (RFC 3551 §6): the numbers need no look at rtpmap.
        let law = description.media()[index].formats.iter().find_map(|format| {
            let codec = format.parse().ok().and_then(Codec::from_static_payload_type)?;
            LAWS.into_iter()
                .find(|law| codec.static_payload_type() == Some(law.payload_type()))
        });
        let law = law.ok_or(PhoneError::Session("has no G.711"))?;
        if !(description.direction(index).sends() && description.direction(index).receives()) {
            return Err(PhoneError::Session("does not want audio both ways"));
        }
        let crypto: Vec<CryptoLine> = description
            .media_attributes(index)
            .filter_map(|attribute| match attribute.typed() {
                Ok(TypedAttribute::Crypto(value)) => CryptoLine::parse(value).ok(),
                _ => None,
            })
            .filter(|line| SUITES.contains(&line.suite()))
            .collect();
        if secure && crypto.is_empty() {
            return Err(PhoneError::Session("has no usable crypto line"));
        }
        Ok(Self {
            remote,
            law,
            crypto: if secure { crypto } else { Vec::new() },
        })
    }
}

fn describe(local: SocketAddr, laws: &[Law], crypto: &[CryptoLine]) -> Bytes {
    let mut writer = Writer::default();
    let family = if local.is_ipv4() { "IP4" } else { "IP6" };
    let session: u32 = rand::random();
    writer
        .line(b'v', 0)
        .line(b'o', format_args!("- {session} 1 IN {family} {}", local.ip()))
        .line(b's', "-")
        .connection(local.ip())
        .line(b't', "0 0");
    let profile = if crypto.is_empty() { "RTP/AVP" } else { "RTP/SAVP" };
    let formats: Vec<String> = laws.iter().map(|law| law.payload_type().to_string()).collect();
    writer.line(
        b'm',
        format_args!("audio {} {profile} {}", local.port(), formats.join(" ")),
    );
    for law in laws {
        writer.attribute("rtpmap", format_args!("{} {}/8000", law.payload_type(), law_name(*law)));
    }
    for line in crypto {
        writer.attribute("crypto", line);
    }
    writer.attribute("ptime", 20).flag("sendrecv");
    writer.finish()
}

/// Encoding name (RFC 3551 §6).
pub(super) fn law_name(law: Law) -> &'static str {
    match law {
        Law::Mu => "PCMU",
        Law::A => "PCMA",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn both_sides_of_an_exchange_end_with_the_same_keys_crosswise() {
        for secure in [false, true] {
            let offer = Offer::new(address(4000), secure, &mut rand::rng());
            let (body, callee) = answer(address(5000), secure, &offer.body, &mut rand::rng()).unwrap();
            let caller = offer.answered(&body).unwrap();
            assert_eq!((callee.remote.rtp, caller.remote.rtp), (address(4000), address(5000)));
            assert_eq!(caller.remote.rtcp, address(5001));
            assert_eq!((callee.law, caller.law), (Law::Mu, Law::Mu));
            match (caller.keys, callee.keys) {
                (None, None) => assert!(!secure),
                (Some(caller), Some(callee)) => {
                    assert!(secure);
                    assert_eq!((&caller.send, &caller.receive), (&callee.receive, &callee.send));
                    assert_eq!(caller.send.suite(), SrtpSuite::AesCm128HmacSha1_80);
                }
                _ => panic!("one side has keys"),
            }
        }
    }

    #[test]
    fn an_offer_without_what_the_phone_needs_is_refused_by_name() {
        let offer =
            |media: &str| format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n{media}");
        for (secure, media, reason) in [
            (true, "m=audio 4000 RTP/AVP 0\r\n", "SRTP audio"),
            (false, "m=audio 4000 RTP/SAVP 0\r\n", "RTP audio"),
            (false, "m=audio 0 RTP/AVP 0\r\n", "RTP audio"),
            (
                false,
                "m=audio 4000 RTP/AVP 96\r\na=rtpmap:96 opus/48000/2\r\n",
                "G.711",
            ),
            (
                true,
                "m=audio 4000 RTP/SAVP 8\r\na=crypto:1 NONE inline:x\r\n",
                "crypto line",
            ),
            (false, "m=audio 4000 RTP/AVP 8\r\na=sendonly\r\n", "both ways"),
        ] {
            let error = answer(address(5000), secure, offer(media).as_bytes(), &mut rand::rng()).unwrap_err();
            assert!(error.to_string().contains(reason), "{media}: {error}");
        }
    }

    #[test]
    fn the_order_of_the_offer_decides_the_codec() {
        let offer =
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 9 8 0\r\n";
        let (_, agreed) = answer(address(5000), false, offer.as_bytes(), &mut rand::rng()).unwrap();
        assert_eq!(agreed.law, Law::A);
    }

    #[test]
    fn an_answer_to_a_line_that_was_not_offered_is_refused() {
        let offer = Offer::new(address(4000), true, &mut rand::rng());
        let stray = CryptoLine::generate(9, SrtpSuite::AesCm128HmacSha1_80, Default::default(), &mut rand::rng());
        let body = describe(address(5000), &[Law::Mu], &[stray]);
        assert!(matches!(offer.answered(&body), Err(PhoneError::Session(text)) if text.contains("not offered")));
    }
}
