//! RTP headers (RFC 3550 §5.1) and extended sequence numbers (RFC 3711 §3.3.1).

use thiserror::Error;

/// Length of the fixed header in octets.
pub const FIXED_HEADER_LEN: usize = 12;

/// Why octets are not an RTP packet (RFC 3550 A.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RtpError {
    /// Shorter than its header says.
    #[error("RTP packet is shorter than its header")]
    Truncated,
    /// Version is not 2.
    #[error("RTP version is not 2")]
    Version,
    /// The padding count is zero or runs into the header.
    #[error("RTP padding is inconsistent")]
    Padding,
}

/// The fields of an RTP header and its length; the packet itself stays where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtpHeader {
    /// Marker bit.
    pub marker: bool,
    /// Payload type, 0..=127.
    pub payload_type: u8,
    /// Sequence number as on the wire.
    pub sequence: u16,
    /// Timestamp in units of the payload's clock.
    pub timestamp: u32,
    /// Synchronization source.
    pub ssrc: u32,
    /// Octets of fixed header, CSRC list and extension together: where the payload starts.
    pub header_len: usize,
    /// Whether the padding bit is set. The padding count itself may still be encrypted.
    pub padded: bool,
}

impl RtpHeader {
    /// Reads the header of `packet`, which may be RTP or SRTP; CSRCs and extension are skipped by their counts.
    pub fn parse(packet: &[u8]) -> Result<Self, RtpError> {
        let fixed: &[u8; FIXED_HEADER_LEN] = packet.first_chunk().ok_or(RtpError::Truncated)?;
        if fixed[0] >> 6 != 2 {
            return Err(RtpError::Version);
        }
        let mut header_len = FIXED_HEADER_LEN + 4 * usize::from(fixed[0] & 0x0F);
        if fixed[0] & 0x10 != 0 {
            let extension: &[u8; 4] = packet
                .get(header_len..)
                .and_then(|rest| rest.first_chunk())
                .ok_or(RtpError::Truncated)?;
            header_len += 4 + 4 * usize::from(u16::from_be_bytes([extension[2], extension[3]]));
        }
        if packet.len() < header_len {
            return Err(RtpError::Truncated);
        }
        Ok(Self {
            marker: fixed[1] & 0x80 != 0,
            payload_type: fixed[1] & 0x7F,
            sequence: u16::from_be_bytes([fixed[2], fixed[3]]),
            timestamp: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            header_len,
            padded: fixed[0] & 0x20 != 0,
        })
    }

    /// The payload of the **plain** packet this header was read from, without padding (RFC 3550 §5.1, A.1).
    pub fn payload<'a>(&self, packet: &'a [u8]) -> Result<&'a [u8], RtpError> {
        let payload = packet.get(self.header_len..).ok_or(RtpError::Truncated)?;
        if !self.padded {
            return Ok(payload);
        }
        let padding = usize::from(*payload.last().ok_or(RtpError::Padding)?);
        if padding == 0 || padding > payload.len() {
            return Err(RtpError::Padding);
        }
        Ok(&payload[..payload.len() - padding])
    }

    /// The twelve octets of a header without CSRC, extension or padding; `header_len` and `padded` are not used.
    pub fn to_bytes(&self) -> [u8; FIXED_HEADER_LEN] {
        let mut octets = [0; FIXED_HEADER_LEN];
        octets[0] = 0x80;
        octets[1] = (u8::from(self.marker) << 7) | (self.payload_type & 0x7F);
        octets[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        octets[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        octets[8..12].copy_from_slice(&self.ssrc.to_be_bytes());
        octets
    }

    /// Writes another payload type (0..=127) into a packet that [`parse`](Self::parse) accepted; the marker stays.
    pub fn set_payload_type(packet: &mut [u8], payload_type: u8) {
        if let Some(octet) = packet.get_mut(1) {
            *octet = (*octet & 0x80) | (payload_type & 0x7F);
        }
    }

    /// Writes another sequence number into a packet that [`parse`](Self::parse) accepted.
    pub fn set_sequence(packet: &mut [u8], sequence: u16) {
        if let Some(octets) = packet.get_mut(2..4) {
            octets.copy_from_slice(&sequence.to_be_bytes());
        }
    }
}

/// An extended sequence number: rollover counter in bits 16..48, the wire's number in bits 0..16. The *packet
/// index* of RFC 3711 §3.3.1. Never wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqNo(u64);

impl SeqNo {
    /// The largest packet index, 2^48 - 1.
    pub const MAX: Self = Self((1 << 48) - 1);

    /// The index with the given rollover counter and sequence number.
    pub const fn new(roc: u32, sequence: u16) -> Self {
        Self(((roc as u64) << 16) | sequence as u64)
    }

    /// The index with this value; `None` from 2^48 on.
    pub const fn from_u64(value: u64) -> Option<Self> {
        if value <= Self::MAX.0 { Some(Self(value)) } else { None }
    }

    /// The whole index, 0..2^48.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The rollover counter.
    pub const fn roc(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// The sequence number on the wire.
    pub const fn sequence(self) -> u16 {
        self.0 as u16
    }

    /// The index closest to `self` that has this sequence number (RFC 3550 A.1, RFC 3711 §3.3.1): at most 2^15 away,
    /// except that an index below zero becomes the one of rollover counter 0.
    #[must_use]
    pub fn closest(self, sequence: u16) -> Self {
        let ahead = sequence.wrapping_sub(self.sequence());
        let index = if ahead < 0x8000 {
            self.0 + u64::from(ahead)
        } else {
            // Behind by 0x1_0000 - ahead; before the very first wrap there is nothing behind, so it is ahead after all.
            let behind = 0x1_0000 - u64::from(ahead);
            self.0.checked_sub(behind).unwrap_or(self.0 + u64::from(ahead))
        };
        Self(index.min(Self::MAX.0))
    }

    /// The smallest index above `self` that has this sequence number; `None` beyond [`MAX`](Self::MAX).
    pub fn next_with(self, sequence: u16) -> Option<Self> {
        let ahead = sequence.wrapping_sub(self.sequence());
        let step = if ahead == 0 { 0x1_0000 } else { u64::from(ahead) };
        Self::from_u64(self.0 + step)
    }

    /// The index after this one; `None` after [`MAX`](Self::MAX).
    pub fn succ(self) -> Option<Self> {
        Self::from_u64(self.0 + 1)
    }

    /// The same sequence number under another rollover counter.
    #[must_use]
    pub fn with_roc(self, roc: u32) -> Self {
        Self::new(roc, self.sequence())
    }
}

#[cfg(test)]
mod tests;
