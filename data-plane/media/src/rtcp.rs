//! RTCP: views over a compound packet (RFC 3550 §6, RFC 3611) and what a test phone needs to write one.

mod write;

use thiserror::Error;

pub use write::{SenderInfo, write_bye, write_receiver_report, write_sender_report, write_source_description};

/// Packet types of RFC 3550 §12.1, RFC 4585 §6.1 and RFC 3611 §2.
pub mod packet_type {
    /// Sender report.
    pub const SR: u8 = 200;
    /// Receiver report.
    pub const RR: u8 = 201;
    /// Source description.
    pub const SDES: u8 = 202;
    /// Goodbye.
    pub const BYE: u8 = 203;
    /// Application-defined.
    pub const APP: u8 = 204;
    /// Transport-layer feedback.
    pub const RTPFB: u8 = 205;
    /// Payload-specific feedback.
    pub const PSFB: u8 = 206;
    /// Extended report.
    pub const XR: u8 = 207;
}

/// Why octets are not RTCP (RFC 3550 A.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RtcpError {
    /// Shorter than a header, or a length field that does not end on the datagram's end.
    #[error("RTCP lengths do not add up")]
    Length,
    /// Version is not 2.
    #[error("RTCP version is not 2")]
    Version,
    /// The first packet is neither a sender nor a receiver report and reduced size was not agreed (RFC 5506).
    #[error("RTCP does not start with a report")]
    NotAReport,
    /// Padding anywhere but on the last packet, or a count that does not fit.
    #[error("RTCP padding is inconsistent")]
    Padding,
    /// The packet is shorter than its counts say.
    #[error("RTCP packet is shorter than its contents")]
    Contents,
}

/// Whether a datagram must start with SR or RR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompoundRule {
    /// RFC 3550 §6.1.
    Full,
    /// Reduced-size RTCP (RFC 5506): any packet may come first.
    ReducedSize,
}

/// A datagram whose packets' headers have been checked against each other (RFC 3550 A.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compound<'a> {
    octets: &'a [u8],
}

impl<'a> Compound<'a> {
    /// Walks the headers of `octets`.
    pub fn parse(octets: &'a [u8], rule: CompoundRule) -> Result<Self, RtcpError> {
        let mut rest = octets;
        let mut first = true;
        loop {
            let (header, len) = split_header(rest)?;
            if first && rule == CompoundRule::Full && !matches!(header[1], packet_type::SR | packet_type::RR) {
                return Err(RtcpError::NotAReport);
            }
            let packet = rest.get(..len).ok_or(RtcpError::Length)?;
            let last = rest.len() == len;
            if header[0] & 0x20 != 0 {
                let count = usize::from(packet[len - 1]);
                if !last || count == 0 || count % 4 != 0 || count > len - 4 {
                    return Err(RtcpError::Padding);
                }
            }
            if last {
                return Ok(Self { octets });
            }
            rest = &rest[len..];
            first = false;
        }
    }

    /// The SSRC in the first packet: who sent the compound.
    pub fn sender_ssrc(&self) -> Option<u32> {
        read_u32(self.octets, 4)
    }

    /// The packets in order. A packet whose contents are shorter than its counts say is an error item, not the end.
    pub fn packets(&self) -> impl Iterator<Item = Result<RtcpPacket<'a>, RtcpError>> + use<'a> {
        let mut rest = self.octets;
        std::iter::from_fn(move || {
            let (header, len) = split_header(rest).ok()?;
            let packet = rest.get(..len)?;
            rest = &rest[len..];
            Some(RtcpPacket::parse(header, packet))
        })
    }
}

/// One packet of a compound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RtcpPacket<'a> {
    /// Sender report (RFC 3550 §6.4.1).
    SenderReport(SenderReport<'a>),
    /// Receiver report (RFC 3550 §6.4.2).
    ReceiverReport(ReceiverReport<'a>),
    /// Source description (RFC 3550 §6.5).
    SourceDescription(SourceDescription<'a>),
    /// Goodbye (RFC 3550 §6.6).
    Bye(Bye<'a>),
    /// Extended report (RFC 3611).
    ExtendedReport(ExtendedReport<'a>),
    /// Any other packet type, contents not read.
    Other {
        /// Packet type.
        packet_type: u8,
        /// The whole packet with its header.
        octets: &'a [u8],
    },
}

impl<'a> RtcpPacket<'a> {
    fn parse(header: [u8; 4], packet: &'a [u8]) -> Result<Self, RtcpError> {
        let count = usize::from(header[0] & 0x1F);
        let padding = if header[0] & 0x20 != 0 {
            usize::from(packet[packet.len() - 1])
        } else {
            0
        };
        let body = packet
            .get(4..packet.len().saturating_sub(padding))
            .ok_or(RtcpError::Padding)?;
        let blocks = |start: usize| {
            body.get(start..start + count * ReportBlock::LEN)
                .ok_or(RtcpError::Contents)
        };
        let word = |at: usize| read_u32(body, at).ok_or(RtcpError::Contents);
        Ok(match header[1] {
            packet_type::SR => Self::SenderReport(SenderReport {
                ssrc: word(0)?,
                ntp: (u64::from(word(4)?) << 32) | u64::from(word(8)?),
                rtp_timestamp: word(12)?,
                packet_count: word(16)?,
                octet_count: word(20)?,
                blocks: blocks(24)?,
            }),
            packet_type::RR => Self::ReceiverReport(ReceiverReport {
                ssrc: word(0)?,
                blocks: blocks(4)?,
            }),
            packet_type::SDES => Self::SourceDescription(SourceDescription { chunks: body, count }),
            packet_type::BYE => {
                let (ssrcs, reason) = body.split_at_checked(4 * count).ok_or(RtcpError::Contents)?;
                let reason = reason
                    .split_first()
                    .and_then(|(len, text)| text.get(..usize::from(*len)));
                Self::Bye(Bye { ssrcs, reason })
            }
            packet_type::XR => Self::ExtendedReport(ExtendedReport {
                ssrc: word(0)?,
                blocks: &body[4..],
            }),
            packet_type => Self::Other {
                packet_type,
                octets: packet,
            },
        })
    }
}

/// Sender report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderReport<'a> {
    /// Who sends.
    pub ssrc: u32,
    /// Wall clock of the report as a 64-bit NTP timestamp.
    pub ntp: u64,
    /// The same instant on the RTP clock.
    pub rtp_timestamp: u32,
    /// RTP packets sent so far, modulo 2^32.
    pub packet_count: u32,
    /// Payload octets sent so far, modulo 2^32.
    pub octet_count: u32,
    blocks: &'a [u8],
}

impl<'a> SenderReport<'a> {
    /// The report blocks, at most 31.
    pub fn blocks(&self) -> impl Iterator<Item = ReportBlock> + use<'a> {
        report_blocks(self.blocks)
    }

    /// The middle 32 bits of the NTP timestamp, as reports echo it in `last_sr`.
    pub fn middle_ntp(&self) -> u32 {
        (self.ntp >> 16) as u32
    }
}

/// Receiver report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiverReport<'a> {
    /// Who reports.
    pub ssrc: u32,
    blocks: &'a [u8],
}

impl<'a> ReceiverReport<'a> {
    /// The report blocks, at most 31.
    pub fn blocks(&self) -> impl Iterator<Item = ReportBlock> + use<'a> {
        report_blocks(self.blocks)
    }
}

/// What a receiver says about one source (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReportBlock {
    /// The source reported on.
    pub ssrc: u32,
    /// Loss since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Loss since the start in packets, -2^23..2^23; negative with duplicates.
    pub cumulative_lost: i32,
    /// Highest sequence number received, extended by its count of cycles.
    pub highest_sequence: u32,
    /// Interarrival jitter in RTP timestamp units.
    pub jitter: u32,
    /// Middle NTP bits of the last sender report of the source; 0 before one.
    pub last_sr: u32,
    /// Time since that report in 1/65,536 s.
    pub delay_since_last_sr: u32,
}

impl ReportBlock {
    /// Octets of a block.
    pub const LEN: usize = 24;

    fn parse(octets: &[u8; Self::LEN]) -> Self {
        let word = |at: usize| u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
        Self {
            ssrc: word(0),
            fraction_lost: octets[4],
            // 24-bit two's complement: shifted up and back down to extend the sign.
            cumulative_lost: ((word(4) << 8) as i32) >> 8,
            highest_sequence: word(8),
            jitter: word(12),
            last_sr: word(16),
            delay_since_last_sr: word(20),
        }
    }
}

/// Source description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceDescription<'a> {
    chunks: &'a [u8],
    count: usize,
}

impl<'a> SourceDescription<'a> {
    /// CNAME item type (RFC 3550 §6.5.1).
    pub const CNAME: u8 = 1;

    /// All items as (SSRC, item type, text), in order; stops at the first item that does not fit.
    pub fn items(&self) -> impl Iterator<Item = (u32, u8, &'a [u8])> + use<'a> {
        let (mut rest, mut chunks_left, mut ssrc) = (self.chunks, self.count, None);
        std::iter::from_fn(move || {
            loop {
                let Some(current) = ssrc else {
                    if chunks_left == 0 {
                        return None;
                    }
                    chunks_left -= 1;
                    ssrc = Some(read_u32(rest, 0)?);
                    rest = &rest[4..];
                    continue;
                };
                let item = *rest.first()?;
                if item == 0 {
                    // The chunk ends at the next 32-bit boundary; what is left of the body started on one.
                    let end = rest.len() - 1;
                    rest = &rest[rest.len() - (end / 4 * 4)..];
                    ssrc = None;
                    continue;
                }
                let len = usize::from(*rest.get(1)?);
                let text = rest.get(2..2 + len)?;
                rest = &rest[2 + len..];
                return Some((current, item, text));
            }
        })
    }
}

/// Goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bye<'a> {
    ssrcs: &'a [u8],
    /// Reason text, if given.
    pub reason: Option<&'a [u8]>,
}

impl<'a> Bye<'a> {
    /// Sources that leave, at most 31.
    pub fn ssrcs(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.ssrcs
            .as_chunks::<4>()
            .0
            .iter()
            .map(|octets| u32::from_be_bytes(*octets))
    }
}

/// Extended report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtendedReport<'a> {
    /// Who reports.
    pub ssrc: u32,
    blocks: &'a [u8],
}

impl<'a> ExtendedReport<'a> {
    /// Report blocks as (block type, type-specific octet, contents); stops at the first that does not fit (RFC 3611 §3).
    pub fn blocks(&self) -> impl Iterator<Item = (u8, u8, &'a [u8])> + use<'a> {
        let mut rest = self.blocks;
        std::iter::from_fn(move || {
            let header: &[u8; 4] = rest.first_chunk()?;
            let len = 4 * usize::from(u16::from_be_bytes([header[2], header[3]]));
            let contents = rest.get(4..4 + len)?;
            let block = (header[0], header[1], contents);
            rest = &rest[4 + len..];
            Some(block)
        })
    }
}

fn report_blocks(octets: &[u8]) -> impl Iterator<Item = ReportBlock> + use<'_> {
    octets
        .as_chunks::<{ ReportBlock::LEN }>()
        .0
        .iter()
        .map(ReportBlock::parse)
}

/// The header at the start of `rest` and the packet's length with it, in octets.
fn split_header(rest: &[u8]) -> Result<([u8; 4], usize), RtcpError> {
    let header = *rest.first_chunk::<4>().ok_or(RtcpError::Length)?;
    if header[0] >> 6 != 2 {
        return Err(RtcpError::Version);
    }
    Ok((
        header,
        4 * (usize::from(u16::from_be_bytes([header[2], header[3]])) + 1),
    ))
}

fn read_u32(octets: &[u8], at: usize) -> Option<u32> {
    octets.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

#[cfg(test)]
mod tests;
