//! The sending side of a direction.

use std::fmt;

use super::cipher::{RtcpCipher, RtpCipher};
use super::counter::{CounterCipher, Indexed};
use super::index::{ReplayWindow, SrtpSnapshot, SsrcSnapshot, SsrcTable, Standing};
use super::key::SrtpKey;
use super::{SrtpError, index};
use crate::packet::PacketBuf;
use crate::rtp::{RtpHeader, SeqNo};

/// Most synchronization sources one sender keeps counters for. They are never evicted: a source that came back
/// with a forgotten index would reuse its keystream.
pub const MAX_SEND_SSRCS: usize = 64;

/// SRTCP indices are 31 bits (RFC 3711 §3.4).
const MAX_RTCP_INDEX: u32 = (1 << 31) - 1;

/// Protects what is sent to one leg, in place, under one master key.
///
/// No packet index is ever used twice with the key (RFC 3711 §9.1), whatever the relayed source does: duplicates are
/// refused, and a source that restarts its sequence numbers without changing its SSRC is moved on to the next free
/// ones (the second packet in sequence proves the restart, RFC 3550 A.1).
pub struct Protect {
    key: SrtpKey,
    rtp: RtpCipher,
    sources: SsrcTable<Source>,
}

/// Counters of one source.
#[derive(Debug, Clone, Default)]
struct Source {
    rtp: RtpState,
    /// The next SRTCP index. The first sent is 1, as libsrtp does.
    rtcp: u32,
    /// Added to the relayed sequence numbers, modulo 2^16.
    offset: u16,
    /// The relayed sequence number that would prove a restart.
    restart: Option<u16>,
}

#[derive(Debug, Clone, Default)]
enum RtpState {
    /// No packet yet.
    #[default]
    New,
    /// Continuing a direction whose last packet is known only roughly: at most one cycle has passed since `SeqNo`.
    Resumed(SeqNo),
    /// Running.
    Running(ReplayWindow),
}

impl Protect {
    /// A sender that starts with rollover counter 0 for every source.
    pub fn new(key: &SrtpKey) -> Self {
        Self {
            key: key.clone(),
            rtp: RtpCipher::new(key),
            sources: SsrcTable::default(),
        }
    }

    /// The key in use.
    pub fn key(&self) -> &SrtpKey {
        &self.key
    }

    /// Goes on counting where `predecessor`, a sender of the same stream under another key, stands: rollover counters are not
    /// reset by re-keying (RFC 3711 §3.3.1). For a new key together with a new remote address leave it (RFC 4568 §7.1.4).
    pub fn continue_from(&mut self, predecessor: &Self) {
        self.sources = predecessor.sources.clone();
    }

    /// Protects an RTP packet and returns its index. Its sequence number may change, see the type.
    ///
    /// # Errors
    /// The packet is unchanged but possibly for its sequence number, and must not be sent.
    pub fn protect_rtp(&mut self, packet: &mut PacketBuf<'_>) -> Result<SeqNo, SrtpError> {
        let header = RtpHeader::parse(packet.as_slice()).map_err(|_| SrtpError::Malformed)?;
        let at = self.assign(&header, packet)?;
        self.seal(packet, at)?;
        Ok(at.index)
    }

    /// Gives an RTP packet, whose header this is, its index. What comes then must be [`seal`](Self::seal) or a [`Job`](super::Job) with
    /// [`batchable`](Self::batchable): the index is used up.
    ///
    /// # Errors
    /// As [`protect_rtp`](Self::protect_rtp).
    pub(crate) fn assign(&mut self, header: &RtpHeader, packet: &mut PacketBuf<'_>) -> Result<Indexed, SrtpError> {
        if !packet.fits(self.rtp.tag_len() + self.mki().len()) {
            return Err(SrtpError::NoRoom);
        }
        let index = source(&mut self.sources, header.ssrc)?.assign(header.sequence)?;
        if index.sequence() != header.sequence {
            RtpHeader::set_sequence(packet.as_mut_slice(), index.sequence());
        }
        Ok(Indexed {
            header_len: header.header_len,
            ssrc: header.ssrc,
            index,
        })
    }

    /// Encrypts a packet under the index it was [assigned](Self::assign) and appends the trailer.
    pub(crate) fn seal(&self, packet: &mut PacketBuf<'_>, at: Indexed) -> Result<(), SrtpError> {
        self.rtp.protect(packet, at, self.mki())
    }

    /// The cipher of packets that may be sealed together with others; `None` for what goes one at a time.
    pub(crate) fn batchable(&self) -> Option<&CounterCipher> {
        self.rtp.counter().filter(|_| self.key.mki().is_none())
    }

    /// Protects an RTCP compound packet, whose first sender SSRC selects the counter, and returns its index.
    ///
    /// # Errors
    /// The packet is unchanged and must not be sent.
    pub fn protect_rtcp(&mut self, packet: &mut PacketBuf<'_>) -> Result<u32, SrtpError> {
        let ssrc = rtcp_ssrc(packet.as_slice())?;
        let source = source(&mut self.sources, ssrc)?;
        if source.rtcp >= MAX_RTCP_INDEX {
            return Err(SrtpError::KeyExhausted);
        }
        let mki = self.key.mki().map_or(&[][..], |mki| mki.as_bytes());
        RtcpCipher::new(&self.key).protect(packet, source.rtcp + 1, mki)?;
        source.rtcp += 1;
        Ok(source.rtcp)
    }

    fn mki(&self) -> &[u8] {
        self.key.mki().map_or(&[], |mki| mki.as_bytes())
    }

    /// Where every source stands.
    pub fn snapshot(&self) -> SrtpSnapshot {
        let ssrcs = self.sources.iter().map(|(ssrc, source)| SsrcSnapshot {
            ssrc,
            rtp: source.rtp.highest(),
            rtcp: (source.rtcp > 0).then_some(source.rtcp),
            sequence_offset: source.offset,
        });
        SrtpSnapshot { ssrcs: ssrcs.collect() }
    }

    /// Goes on from a snapshot of another sender with the same key. The snapshot's SRTP index may be up to one cycle of
    /// sequence numbers old (2^16 packets); `rtcp_jump` is added to the SRTCP indices to step over what was sent since.
    pub fn restore(&mut self, snapshot: &SrtpSnapshot, rtcp_jump: u32) {
        for entry in snapshot.ssrcs.iter().take(MAX_SEND_SSRCS) {
            if let Ok(source) = source(&mut self.sources, entry.ssrc) {
                *source = Source {
                    rtp: entry.rtp.map_or(RtpState::New, RtpState::Resumed),
                    rtcp: entry
                        .rtcp
                        .map_or(0, |index| index.saturating_add(rtcp_jump).min(MAX_RTCP_INDEX)),
                    offset: entry.sequence_offset,
                    restart: None,
                };
            }
        }
    }
}

impl fmt::Debug for Protect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protect")
            .field("key", &self.key)
            .field("sources", &self.sources.len())
            .finish_non_exhaustive()
    }
}

impl RtpState {
    fn highest(&self) -> Option<SeqNo> {
        match self {
            Self::New => None,
            Self::Resumed(index) => Some(*index),
            Self::Running(window) => SeqNo::from_u64(window.highest()),
        }
    }
}

impl Source {
    /// The index for a relayed sequence number, marked as used.
    fn assign(&mut self, relayed: u16) -> Result<SeqNo, SrtpError> {
        let sequence = relayed.wrapping_add(self.offset);
        let index = match &mut self.rtp {
            RtpState::New => SeqNo::new(0, sequence),
            RtpState::Resumed(last) => last.next_with(sequence).ok_or(SrtpError::KeyExhausted)?,
            RtpState::Running(window) => {
                let highest = SeqNo::from_u64(window.highest()).ok_or(SrtpError::KeyExhausted)?;
                return self.assign_running(highest, relayed, sequence);
            }
        };
        self.rtp = RtpState::Running(ReplayWindow::starting_at(index.as_u64()));
        Ok(index)
    }

    fn assign_running(&mut self, highest: SeqNo, relayed: u16, sequence: u16) -> Result<SeqNo, SrtpError> {
        let RtpState::Running(window) = &mut self.rtp else {
            return Err(SrtpError::Replayed);
        };
        if highest == SeqNo::MAX {
            return Err(SrtpError::KeyExhausted);
        }
        let behind = highest.sequence().wrapping_sub(sequence);
        if u64::from(behind) < index::WINDOW && highest.as_u64() < u64::from(behind) {
            // From before the first packet protected: there is no index left for it.
            return Err(SrtpError::Replayed);
        }
        let index = if u64::from(behind) < index::WINDOW || behind > 0x8000 {
            highest.closest(sequence)
        } else if self.restart == Some(relayed) {
            let next = highest.succ().ok_or(SrtpError::KeyExhausted)?;
            self.offset = next.sequence().wrapping_sub(relayed);
            next
        } else {
            self.restart = Some(relayed.wrapping_add(1));
            return Err(SrtpError::Replayed);
        };
        if window.standing(index.as_u64()) == Standing::Refused {
            return Err(SrtpError::Replayed);
        }
        window.mark(index.as_u64());
        self.restart = None;
        Ok(index)
    }
}

fn source(sources: &mut SsrcTable<Source>, ssrc: u32) -> Result<&mut Source, SrtpError> {
    if sources.find(ssrc).is_none() {
        if sources.len() >= MAX_SEND_SSRCS {
            return Err(SrtpError::TooManySsrcs);
        }
        sources.insert(ssrc, Source::default());
    }
    sources.find_mut(ssrc).ok_or(SrtpError::TooManySsrcs)
}

/// SSRC of the sender of a compound packet: octets 4 to 8.
pub(super) fn rtcp_ssrc(packet: &[u8]) -> Result<u32, SrtpError> {
    let head: &[u8; 8] = packet.first_chunk().ok_or(SrtpError::Malformed)?;
    if head[0] >> 6 != 2 {
        return Err(SrtpError::Malformed);
    }
    Ok(u32::from_be_bytes([head[4], head[5], head[6], head[7]]))
}
