//! One end of a two-way stream: what it sends, and what it expects to hear.

use std::net::SocketAddrV4;

use trunkline_media::packet::PacketBuf;
use trunkline_media::rtp::{FIXED_HEADER_LEN, RtpHeader};
use trunkline_media::srtp::{Protect, SrtpError, SrtpKey, Unprotect};

use super::frame::{self, RTP_AT};
use super::ledger::Ledger;
use super::wire::FRAME;

/// 20 ms of PCMU at 8 kHz.
const PAYLOAD: usize = 160;
/// RTP header and payload.
const PACKET: usize = FIXED_HEADER_LEN + PAYLOAD;
/// Payload type of PCMU (RFC 3551 §6).
const PCMU: u8 = 0;
/// What the payload begins with: the end's number and its count of packets; silence follows.
const LABEL: usize = 8;
/// Silence in µ-law.
const SILENCE: u8 = 0xFF;
/// Every so many packets of a stream are unprotected and read; all are counted by their header.
const SAMPLED: u16 = 16;

/// Where an end is, where its packets go, and the keys of both directions; none without SRTP.
#[derive(Debug, Clone)]
pub struct EndConfig {
    /// Address and port the end sends from and receives at.
    pub own: SocketAddrV4,
    /// Where it sends to: the relay's port for it.
    pub to: SocketAddrV4,
    /// Key of what it sends.
    pub sends: Option<SrtpKey>,
    /// Key of what it hears.
    pub hears: Option<SrtpKey>,
}

/// What a received packet was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The packet sent at this nanosecond of the generator's time.
    Fresh(u64),
    /// Not expected: a duplicate, or one given up.
    Stale,
    /// Not of the stream that should be heard here.
    Stranger,
    /// The right stream, but its content does not authenticate or is not what was sent.
    Wrong,
}

/// Sending and receiving state of one end.
#[derive(Debug)]
pub struct End {
    number: u32,
    head: [u8; RTP_AT],
    ssrc: u32,
    first: u16,
    count: u32,
    protect: Option<Protect>,
    unprotect: Option<Unprotect>,
    ledger: Ledger,
}

impl End {
    /// An end with this number, SSRC and first sequence number.
    pub fn new(number: u32, config: &EndConfig, hardware: ([u8; 6], [u8; 6]), ssrc: u32, first: u16) -> Self {
        let tag = config.sends.as_ref().map_or(0, |key| key.suite().rtp_tag_len());
        Self {
            number,
            head: frame::head(hardware, config.own, config.to, PACKET + tag),
            ssrc,
            first,
            count: 0,
            protect: config.sends.as_ref().map(Protect::new),
            unprotect: config.hears.as_ref().map(Unprotect::new),
            ledger: Ledger::default(),
        }
    }

    /// Writes the next packet into `slot` and returns the frame's length, and when the packet was sent that is now lost.
    ///
    /// # Errors
    /// When the packet cannot be protected: the key is used up.
    pub fn next(&mut self, at: u64, slot: &mut [u8; FRAME]) -> Result<(usize, Option<u64>), SrtpError> {
        let sequence = self.sequence(self.count);
        slot[..RTP_AT].copy_from_slice(&self.head);
        let packet = &mut slot[RTP_AT..];
        let header = RtpHeader {
            marker: self.count == 0,
            payload_type: PCMU,
            sequence,
            timestamp: self.count.wrapping_mul(PAYLOAD as u32),
            ssrc: self.ssrc,
            header_len: FIXED_HEADER_LEN,
            padded: false,
        };
        packet[..FIXED_HEADER_LEN].copy_from_slice(&header.to_bytes());
        let (label, silence) = packet[FIXED_HEADER_LEN..PACKET].split_at_mut(LABEL);
        label[..4].copy_from_slice(&self.number.to_be_bytes());
        label[4..].copy_from_slice(&self.count.to_be_bytes());
        silence.fill(SILENCE);
        let mut length = PACKET;
        if let Some(protect) = &mut self.protect {
            let mut buffer = PacketBuf::new(packet, PACKET);
            protect.protect_rtp(&mut buffer)?;
            length = buffer.len();
        }
        self.count = self.count.wrapping_add(1);
        Ok((RTP_AT + length, self.ledger.sent(sequence, at)))
    }

    /// Takes the last packet back: it did not go out.
    pub fn unsent(&mut self) {
        self.ledger.arrived(self.sequence(self.count.wrapping_sub(1)));
    }

    /// Judges a packet that `listener` received and this end should have sent.
    pub fn arrived(&mut self, packet: &[u8], listener: Option<&mut Unprotect>) -> Arrival {
        let Ok(header) = RtpHeader::parse(packet) else {
            return Arrival::Stranger;
        };
        if header.ssrc != self.ssrc || header.payload_type != PCMU {
            return Arrival::Stranger;
        }
        if header.sequence.is_multiple_of(SAMPLED) && !self.is_mine(packet, header.sequence, listener) {
            return Arrival::Wrong;
        }
        match self.ledger.arrived(header.sequence) {
            Some(sent) => Arrival::Fresh(sent),
            None => Arrival::Stale,
        }
    }

    /// Times of sending of what has not arrived.
    pub fn missing(&self) -> impl Iterator<Item = u64> {
        self.ledger.missing()
    }

    /// What unprotects what this end hears; put it back with [`End::give_back`].
    pub fn lend_unprotect(&mut self) -> Option<Unprotect> {
        self.unprotect.take()
    }

    /// Ends a loan of [`End::lend_unprotect`].
    pub fn give_back(&mut self, unprotect: Option<Unprotect>) {
        self.unprotect = unprotect;
    }

    fn sequence(&self, count: u32) -> u16 {
        self.first.wrapping_add(count as u16)
    }

    fn is_mine(&self, packet: &[u8], sequence: u16, listener: Option<&mut Unprotect>) -> bool {
        let mut copy = [0; FRAME];
        let Some(room) = copy.get_mut(..packet.len()) else {
            return false;
        };
        room.copy_from_slice(packet);
        let mut buffer = PacketBuf::new(&mut copy, packet.len());
        if let Some(unprotect) = listener {
            match unprotect.unprotect_rtp(&mut buffer) {
                // A duplicate authenticates; the ledger tells it from a fresh one.
                Ok(_) => {}
                Err(SrtpError::Replayed) => return true,
                Err(_) => return false,
            }
        }
        let plain = buffer.as_slice();
        let Some(payload) = plain.get(FIXED_HEADER_LEN..).filter(|payload| payload.len() == PAYLOAD) else {
            return false;
        };
        let (label, silence) = payload.split_at(LABEL);
        let count = u32::from_be_bytes([label[4], label[5], label[6], label[7]]);
        label[..4] == self.number.to_be_bytes()
            && self.sequence(count) == sequence
            && silence.iter().all(|octet| *octet == SILENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use trunkline_media::SrtpSuite;

    fn end(number: u32, sends: Option<SrtpKey>) -> End {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 10_000);
        let config = EndConfig {
            own: address,
            to: address,
            sends,
            hears: None,
        };
        End::new(number, &config, ([0; 6], [0; 6]), 77, 65_530)
    }

    fn packet(end: &mut End, at: u64) -> Vec<u8> {
        let mut slot = [0; FRAME];
        let (length, _) = end.next(at, &mut slot).unwrap();
        slot[RTP_AT..length].to_vec()
    }

    #[test]
    fn what_is_sent_is_recognised_once_across_a_wrap() {
        let mut end = end(3, None);
        for at in 1..40 {
            let sent = packet(&mut end, at);
            assert_eq!(sent.len(), 172);
            assert_eq!(end.arrived(&sent, None), Arrival::Fresh(at));
            assert_eq!(end.arrived(&sent, None), Arrival::Stale);
        }
        assert_eq!(end.missing().count(), 0);
    }

    #[test]
    fn another_stream_and_a_changed_payload_are_told() {
        let (mut mine, mut other) = (end(3, None), end(4, None));
        let (mut wrong, mut strangers) = (0, 0);
        for at in 1..33 {
            let foreign = packet(&mut other, at);
            packet(&mut mine, at);
            match mine.arrived(&foreign, None) {
                Arrival::Wrong => wrong += 1,
                Arrival::Fresh(_) => {}
                other => panic!("{other:?}"),
            }
            let mut stranger = foreign;
            stranger[11] ^= 1;
            strangers += usize::from(mine.arrived(&stranger, None) == Arrival::Stranger);
        }
        assert_eq!((wrong, strangers), (2, 32), "every sixteenth is read, every SSRC is");
    }

    #[test]
    fn a_protected_packet_needs_the_right_key() {
        let mut rng = rand::rng();
        let key = SrtpKey::generate(SrtpSuite::AesCm128HmacSha1_80, &mut rng);
        let wrong = SrtpKey::generate(SrtpSuite::AesCm128HmacSha1_80, &mut rng);
        let mut end = end(3, Some(key.clone()));
        let (mut right, mut wrong) = (Unprotect::new(&key), Unprotect::new(&wrong));
        for at in 1..33 {
            let sent = packet(&mut end, at);
            assert_eq!(sent.len(), 182);
            let sampled = u16::from_be_bytes([sent[2], sent[3]]).is_multiple_of(SAMPLED);
            if sampled {
                assert_eq!(end.arrived(&sent, Some(&mut wrong)), Arrival::Wrong);
            }
            assert_eq!(end.arrived(&sent, Some(&mut right)), Arrival::Fresh(at));
        }
    }
}
