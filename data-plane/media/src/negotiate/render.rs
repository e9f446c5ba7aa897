//! Writing our descriptions.

use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::Bytes;
use rand_core::CryptoRng;

use crate::codec::PayloadFormat;
use crate::sdes::CryptoLine;
use crate::sdp::{ConnectionValue, Direction, Protocol, Writer};

use super::digest;
use super::formats::DTMF_EVENTS;
use super::ports::PortLease;
use super::remote::{Slot, StreamDetails};

/// The `o=` line of our descriptions to one leg (RFC 3264 §8): one session id for ever, and a version that goes up by
/// one when the description differs from the one last sent.
#[derive(Debug, Default)]
pub(super) struct Origin {
    session_id: Option<u64>,
    version: u64,
    /// Of the rest of the description last sent; a digest, because the text holds keys.
    last: Option<[u8; 20]>,
}

impl Origin {
    fn sign<R: CryptoRng + ?Sized>(&mut self, ip: IpAddr, rest: &[u8], rng: &mut R) -> Bytes {
        // 62 bits: some peers read the id into a signed number (RFC 3264 §5 asks for 63).
        let session_id = *self.session_id.get_or_insert_with(|| rng.next_u64() >> 2);
        let digest = Some(digest(rest));
        if self.last != digest {
            self.version += 1;
            self.last = digest;
        }
        let mut writer = Writer::default();
        writer.line(b'v', 0);
        writer.line(
            b'o',
            format_args!("- {session_id} {} {}", self.version, ConnectionValue(ip)),
        );
        writer.verbatim(rest);
        writer.finish()
    }
}

/// What our m-line of the anchored stream says.
pub(super) struct OwnStream<'a> {
    pub protocol: Protocol,
    pub formats: Vec<OwnFormat<'a>>,
    pub details: &'a StreamDetails,
    pub crypto: &'a [CryptoLine],
    pub rtcp_mux: bool,
    pub direction: Direction,
}

pub(super) struct OwnFormat<'a> {
    pub number: u8,
    pub format: PayloadFormat,
    pub fmtp: Option<&'a str>,
}

impl OwnStream<'_> {
    /// The m-line as a slot, for the day it is written with port 0.
    pub(super) fn slot(&self) -> Slot {
        let mut formats = String::new();
        for (position, format) in self.formats.iter().enumerate() {
            let blank = if position == 0 { "" } else { " " };
            // Writing to a String cannot fail.
            let _ = write!(formats, "{blank}{}", format.number);
        }
        Slot {
            media: "audio".to_owned(),
            protocol: self.protocol.token().unwrap_or("RTP/AVP").to_owned(),
            formats,
        }
    }
}

/// Writes a whole description: every slot in its place, the one at `anchor` with the stream, all others, and that one
/// too without a stream, with port 0.
///
/// The session section is ours: `s=-`, no `i=`, no user's origin, and of its attributes none, since the peer's would
/// speak of its own transport. Bandwidth lines go through.
pub(super) fn description<R: CryptoRng + ?Sized>(
    origin: &mut Origin,
    lease: &PortLease,
    bandwidth: &[String],
    slots: &[Slot],
    anchor: Option<(usize, &OwnStream<'_>)>,
    rng: &mut R,
) -> Bytes {
    let mut writer = Writer::default();
    writer.line(b's', "-");
    writer.connection(lease.rtp.ip());
    for value in bandwidth {
        writer.line(b'b', value);
    }
    writer.line(b't', "0 0");
    for (index, slot) in slots.iter().enumerate() {
        match anchor {
            Some((position, stream)) if position == index => write_stream(&mut writer, lease, &stream.slot(), stream),
            _ => {
                writer.line(
                    b'm',
                    format_args!("{} 0 {} {}", slot.media, slot.protocol, slot.formats),
                );
            }
        }
    }
    origin.sign(lease.rtp.ip(), &writer.finish(), rng)
}

fn write_stream(writer: &mut Writer, lease: &PortLease, slot: &Slot, stream: &OwnStream<'_>) {
    writer.line(
        b'm',
        format_args!("{} {} {} {}", slot.media, lease.rtp.port(), slot.protocol, slot.formats),
    );
    for value in &stream.details.bandwidth {
        writer.line(b'b', value);
    }
    for format in &stream.formats {
        writer.attribute("rtpmap", format_args!("{} {}", format.number, format.format));
        let fmtp = match format.format {
            PayloadFormat::TelephoneEvent { .. } => Some(DTMF_EVENTS),
            PayloadFormat::Audio(_) | PayloadFormat::ComfortNoise => format.fmtp,
        };
        if let Some(fmtp) = fmtp {
            writer.attribute("fmtp", format_args!("{} {fmtp}", format.number));
        }
    }
    if let Some(ms) = stream.details.ptime {
        writer.attribute("ptime", ms);
    }
    if let Some(ms) = stream.details.max_ptime {
        writer.attribute("maxptime", ms);
    }
    for line in stream.crypto {
        writer.attribute("crypto", line);
    }
    for attribute in &stream.details.attributes {
        writer.flag(attribute);
    }
    // RFC 3605 §2.1: only where RTCP is not at the next port of the same address.
    if lease.rtcp.ip() != lease.rtp.ip() {
        writer.attribute(
            "rtcp",
            format_args!("{} {}", lease.rtcp.port(), ConnectionValue(lease.rtcp.ip())),
        );
    } else if Some(lease.rtcp.port()) != lease.rtp.port().checked_add(1) {
        writer.attribute("rtcp", lease.rtcp.port());
    }
    if stream.rtcp_mux {
        writer.flag("rtcp-mux");
    }
    writer.flag(stream.direction.name());
}
