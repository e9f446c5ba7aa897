//! Writing reports: what a test phone sends. Each function appends one packet; a compound is several calls, a report first.

use super::{ReportBlock, packet_type};

/// Most report blocks, BYE sources or SDES chunks in one packet: the count has five bits.
const MAX_COUNT: usize = 31;

/// The sender's part of a sender report (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SenderInfo {
    /// 64-bit NTP timestamp.
    pub ntp: u64,
    /// The same instant on the RTP clock.
    pub rtp_timestamp: u32,
    /// RTP packets sent so far.
    pub packet_count: u32,
    /// Payload octets sent so far.
    pub octet_count: u32,
}

/// Appends a sender report; blocks beyond 31 are left out.
pub fn write_sender_report(out: &mut Vec<u8>, ssrc: u32, info: &SenderInfo, blocks: &[ReportBlock]) {
    let start = begin(out, packet_type::SR, blocks.len());
    out.extend(ssrc.to_be_bytes());
    out.extend(info.ntp.to_be_bytes());
    for word in [info.rtp_timestamp, info.packet_count, info.octet_count] {
        out.extend(word.to_be_bytes());
    }
    write_blocks(out, blocks);
    finish(out, start);
}

/// Appends a receiver report; blocks beyond 31 are left out.
pub fn write_receiver_report(out: &mut Vec<u8>, ssrc: u32, blocks: &[ReportBlock]) {
    let start = begin(out, packet_type::RR, blocks.len());
    out.extend(ssrc.to_be_bytes());
    write_blocks(out, blocks);
    finish(out, start);
}

/// Appends a source description with one CNAME, cut to 255 octets.
pub fn write_source_description(out: &mut Vec<u8>, ssrc: u32, cname: &[u8]) {
    let cname = &cname[..cname.len().min(255)];
    let start = begin(out, packet_type::SDES, 1);
    out.extend(ssrc.to_be_bytes());
    out.extend([super::SourceDescription::CNAME, cname.len() as u8]);
    out.extend(cname);
    // At least one zero octet ends the chunk, then zeros to the boundary.
    out.push(0);
    while !(out.len() - start).is_multiple_of(4) {
        out.push(0);
    }
    finish(out, start);
}

/// Appends a goodbye without a reason; sources beyond 31 are left out.
pub fn write_bye(out: &mut Vec<u8>, ssrcs: &[u32]) {
    let start = begin(out, packet_type::BYE, ssrcs.len());
    for ssrc in ssrcs.iter().take(MAX_COUNT) {
        out.extend(ssrc.to_be_bytes());
    }
    finish(out, start);
}

fn begin(out: &mut Vec<u8>, packet_type: u8, count: usize) -> usize {
    let start = out.len();
    out.extend([0x80 | count.min(MAX_COUNT) as u8, packet_type, 0, 0]);
    start
}

fn finish(out: &mut [u8], start: usize) {
    let words = ((out.len() - start) / 4 - 1) as u16;
    out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
}

fn write_blocks(out: &mut Vec<u8>, blocks: &[ReportBlock]) {
    for block in blocks.iter().take(MAX_COUNT) {
        out.extend(block.ssrc.to_be_bytes());
        let lost = block.cumulative_lost.clamp(-(1 << 23), (1 << 23) - 1) as u32 & 0x00FF_FFFF;
        out.extend((u32::from(block.fraction_lost) << 24 | lost).to_be_bytes());
        for word in [
            block.highest_sequence,
            block.jitter,
            block.last_sr,
            block.delay_since_last_sr,
        ] {
            out.extend(word.to_be_bytes());
        }
    }
}
