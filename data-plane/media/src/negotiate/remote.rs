//! A peer's description reduced to what the negotiation works with.

use std::net::IpAddr;

use crate::codec::{Codec, PayloadFormat};
use crate::relay::{RemoteMedia, SourcePolicy};
use crate::sdes::CryptoLine;
use crate::sdp::{self, Direction, Host, MediaDescription, Protocol, SessionDescription, TypedAttribute};

use super::error::NegotiationErrorKind;
use super::ports::AddressFamily;

/// Most crypto lines looked at in one stream. Offerers list a handful; each costs a key.
const MAX_CRYPTO_LINES: usize = 16;

/// Attributes that describe the audio and not its transport, passed to the other leg unread (RFC 4574, RFC 4796,
/// RFC 8866 §6.12, RFC 8373). Everything else is left out: what the edge does not know it cannot promise.
const PASSED_ATTRIBUTES: [&str; 6] = ["label", "content", "lang", "hlang-send", "hlang-recv", "silenceSupp"];

/// Bandwidth modifiers passed on (RFC 8866 §5.8, RFC 3556, RFC 3890).
const PASSED_BANDWIDTHS: [&str; 5] = ["AS", "CT", "TIAS", "RS", "RR"];

pub(super) struct RemoteDescription {
    pub sections: Vec<RemoteSection>,
    pub bandwidth: Vec<String>,
}

/// One m-line of a peer.
pub(super) struct RemoteSection {
    pub slot: Slot,
    pub is_audio: bool,
    /// Port 0: refused or removed (RFC 3264 §6, §8.2).
    pub disabled: bool,
    /// The stream, or why it cannot be anchored.
    pub stream: Result<RemoteStream, NegotiationErrorKind>,
}

/// The fixed part of an m-line, enough to write it again with port 0. Its place in the description never changes
/// (RFC 3264 §8).
#[derive(Clone)]
pub(super) struct Slot {
    pub media: String,
    pub protocol: String,
    pub formats: String,
}

#[derive(Clone)]
pub(super) struct RemoteStream {
    pub protocol: Protocol,
    /// `None` while held by a null address, and for a name on a leg that latches.
    pub address: Option<RemoteMedia>,
    pub family: Option<AddressFamily>,
    pub direction: Direction,
    pub rtcp_mux: bool,
    pub formats: Vec<RemoteFormat>,
    pub crypto: Vec<CryptoLine>,
    pub details: StreamDetails,
}

/// What is handed from one leg's description to the other's unchanged.
#[derive(Clone, Default)]
pub(super) struct StreamDetails {
    pub ptime: Option<u16>,
    pub max_ptime: Option<u16>,
    pub bandwidth: Vec<String>,
    /// Attribute lines without `a=`.
    pub attributes: Vec<String>,
}

#[derive(Clone)]
pub(super) struct RemoteFormat {
    pub number: u8,
    pub format: PayloadFormat,
    pub fmtp: Option<String>,
}

impl RemoteDescription {
    pub(super) fn read(body: &[u8], source: SourcePolicy) -> Result<Self, NegotiationErrorKind> {
        let sdp = sdp::parse(body).map_err(NegotiationErrorKind::Malformed)?;
        let sections = sdp
            .media()
            .iter()
            .enumerate()
            .map(|(index, media)| RemoteSection {
                slot: Slot {
                    media: media.media.to_owned(),
                    protocol: media.protocol_text.to_owned(),
                    formats: media.formats.join(" "),
                },
                is_audio: media.is_audio(),
                disabled: media.port == 0,
                stream: read_stream(&sdp, index, media, source),
            })
            .collect();
        Ok(RemoteDescription {
            sections,
            bandwidth: bandwidth(&sdp, None),
        })
    }
}

fn read_stream(
    sdp: &SessionDescription<'_>,
    index: usize,
    media: &MediaDescription<'_>,
    source: SourcePolicy,
) -> Result<RemoteStream, NegotiationErrorKind> {
    if !media.is_audio() || media.port == 0 {
        return Err(NegotiationErrorKind::NoAudio);
    }
    match media.protocol {
        Protocol::RtpAvp | Protocol::RtpSavp | Protocol::RtpAvpf | Protocol::RtpSavpf => {}
        Protocol::DtlsSavp | Protocol::DtlsSavpf | Protocol::Other => {
            return Err(NegotiationErrorKind::TransportUnsupported);
        }
    }
    let mut stream = RemoteStream {
        protocol: media.protocol,
        address: None,
        family: None,
        direction: sdp.direction(index),
        rtcp_mux: false,
        formats: Vec::new(),
        crypto: Vec::new(),
        details: StreamDetails {
            bandwidth: bandwidth(sdp, Some(index)),
            ..StreamDetails::default()
        },
    };
    read_address(sdp, index, source, &mut stream)?;
    let mut rtp_maps = Vec::new();
    let mut fmtps = Vec::new();
    for attribute in sdp.media_attributes(index) {
        if PASSED_ATTRIBUTES.iter().any(|name| attribute.is(name)) {
            stream.details.attributes.push(match attribute.value {
                Some(value) => format!("{}:{value}", attribute.name),
                None => attribute.name.to_owned(),
            });
            continue;
        }
        // A malformed attribute is as good as none: its format, key or hint is then not there.
        match attribute.typed() {
            Ok(TypedAttribute::RtpMap(map)) => rtp_maps.push(map),
            Ok(TypedAttribute::Fmtp(fmtp)) => fmtps.push(fmtp),
            Ok(TypedAttribute::Ptime(ms)) => stream.details.ptime = Some(ms),
            Ok(TypedAttribute::MaxPtime(ms)) => stream.details.max_ptime = Some(ms),
            Ok(TypedAttribute::RtcpMux) => stream.rtcp_mux = true,
            Ok(TypedAttribute::Crypto(value)) if stream.crypto.len() < MAX_CRYPTO_LINES => {
                if let Ok(line) = CryptoLine::parse(value)
                    && !stream.crypto.iter().any(|known| known.tag == line.tag)
                {
                    stream.crypto.push(line);
                }
            }
            _ => {}
        }
    }
    for &text in &media.formats {
        let Some(number) = text
            .parse()
            .ok()
            .filter(|&number| number <= crate::codec::MAX_PAYLOAD_TYPE)
        else {
            continue;
        };
        let format = match rtp_maps.iter().find(|map| map.payload_type == number) {
            Some(map) => PayloadFormat::from_rtpmap(map.encoding, map.clock_rate, map.channels),
            None => PayloadFormat::from_static_payload_type(number),
        };
        // The first of several numbers for one format is the preferred one (RFC 3264 §5.1); one is enough to relay.
        if let Some(format) = format
            && !stream
                .formats
                .iter()
                .any(|known| known.format == format || known.number == number)
        {
            let fmtp = fmtps
                .iter()
                .find(|fmtp| fmtp.format == text)
                .map(|fmtp| fmtp.parameters.to_owned());
            stream.formats.push(RemoteFormat { number, format, fmtp });
        }
    }
    Ok(stream)
}

/// Reads where the peer wants its media. A null address is the hold of RFC 2543 §B.5, still common: the peer does not
/// receive (RFC 3264 §8.4).
fn read_address(
    sdp: &SessionDescription<'_>,
    index: usize,
    source: SourcePolicy,
    stream: &mut RemoteStream,
) -> Result<(), NegotiationErrorKind> {
    let latches = matches!(source, SourcePolicy::Latch { .. });
    let ip = match sdp.connection_for(index).map(|connection| connection.host) {
        Some(Host::Ip(ip)) => ip,
        // A leg that latches needs no address to be found; without latching a name would have to be resolved.
        Some(Host::Name(_)) if latches => return Ok(()),
        Some(Host::Name(_)) | None => return Err(NegotiationErrorKind::AddressUnusable),
    };
    stream.family = Some(AddressFamily::of(ip));
    if ip.is_unspecified() {
        stream.direction = Direction::new(stream.direction.sends(), false);
        return Ok(());
    }
    let is_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_multicast() || is_broadcast {
        return Err(NegotiationErrorKind::AddressUnusable);
    }
    stream.address = sdp.media_address(index).map(|address| RemoteMedia {
        rtp: address.rtp,
        rtcp: address.rtcp,
    });
    Ok(())
}

fn bandwidth(sdp: &SessionDescription<'_>, index: Option<usize>) -> Vec<String> {
    sdp.bandwidth(index)
        .filter(|text| {
            text.split_once(':').is_some_and(|(modifier, value)| {
                PASSED_BANDWIDTHS.contains(&modifier)
                    && (1..=10).contains(&value.len())
                    && value.bytes().all(|b| b.is_ascii_digit())
            })
        })
        .take(PASSED_BANDWIDTHS.len())
        .map(str::to_owned)
        .collect()
}

impl RemoteStream {
    pub(super) fn codecs(&self) -> impl Iterator<Item = Codec> + '_ {
        self.formats.iter().filter_map(|format| format.format.codec())
    }

    pub(super) fn is_secure(&self) -> bool {
        matches!(self.protocol, Protocol::RtpSavp | Protocol::RtpSavpf)
    }
}
