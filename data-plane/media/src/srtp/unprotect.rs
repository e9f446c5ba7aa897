//! The receiving side of a direction.

use std::fmt;

use super::SrtpError;
use super::cipher::{RtcpCipher, RtpCipher, body_len};
use super::counter::{CounterCipher, Indexed};
use super::index::{ReplayWindow, SrtpSnapshot, SsrcSnapshot, SsrcTable, Standing};
use super::key::SrtpKey;
use super::protect::rtcp_ssrc;
use crate::packet::PacketBuf;
use crate::rtp::{RtpHeader, SeqNo};

/// Most synchronization sources one receiver keeps windows for; the one unused longest makes room. Only packets
/// that authenticate take a place, so nobody but the key's holder can push a source out.
pub const MAX_RECEIVE_SSRCS: usize = 16;

/// Rollover counters tried for a source never heard before: a stream joined up to 87 minutes (at 50 packets/s) late.
const JOIN_ROCS: u32 = 4;

/// Unprotects what one leg sends, in place, under one master key.
///
/// The tag is checked before anything of the packet is believed. The rollover counter is the closest one (RFC 3711
/// §3.3.1); if that does not authenticate, the next and the previous are tried, which carries a stream over a loss of
/// more than half a cycle, and for a source not heard before the first four.
pub struct Unprotect {
    key: SrtpKey,
    rtp: RtpCipher,
    sources: SsrcTable<Source>,
    clock: u32,
}

/// Proof that a packet carried a valid tag and was no replay. Only [`Unprotect`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authenticated {
    ssrc: u32,
    newest: bool,
}

impl Authenticated {
    /// The packet's source.
    pub fn ssrc(self) -> u32 {
        self.ssrc
    }

    /// Whether the packet is the newest of its source: a late one must not move a latch back.
    pub fn is_newest(self) -> bool {
        self.newest
    }
}

#[derive(Debug, Clone, Copy)]
struct Source {
    rtp: RtpState,
    rtcp: Option<ReplayWindow>,
    /// Value of the receiver's packet count when last heard.
    used: u32,
}

#[derive(Debug, Clone, Copy)]
enum RtpState {
    New,
    /// The counter comes from the time before a re-key; the peer should go on from it (RFC 3711 §3.3.1), but many start again.
    Carried(SeqNo),
    Running(ReplayWindow),
}

impl Unprotect {
    /// A receiver that has heard no source yet.
    pub fn new(key: &SrtpKey) -> Self {
        Self {
            key: key.clone(),
            rtp: RtpCipher::new(key),
            sources: SsrcTable::default(),
            clock: 0,
        }
    }

    /// The key in use.
    pub fn key(&self) -> &SrtpKey {
        &self.key
    }

    /// A receiver for a new key of the same stream: sources keep their rollover counters (RFC 3711 §3.3.1) but not their
    /// replay windows, since no packet under the new key has been seen.
    #[must_use]
    pub fn rekeyed(&self, key: &SrtpKey) -> Self {
        let mut fresh = Self::new(key);
        for (ssrc, source) in self.sources.iter() {
            let rtp = source.rtp.highest().map_or(RtpState::New, RtpState::Carried);
            fresh.sources.insert(
                ssrc,
                Source {
                    rtp,
                    rtcp: None,
                    used: source.used,
                },
            );
        }
        fresh.clock = self.clock;
        fresh
    }

    /// Authenticates and decrypts an SRTP packet.
    ///
    /// # Errors
    /// With every error but [`SrtpError::Replayed`] the packet is unchanged, so that another key can be tried.
    pub fn unprotect_rtp(&mut self, packet: &mut PacketBuf<'_>) -> Result<Authenticated, SrtpError> {
        let header = RtpHeader::parse(packet.as_slice()).map_err(|_| SrtpError::Malformed)?;
        let mki = self.key.mki().map_or(&[][..], |mki| mki.as_bytes());
        let candidates = self.candidates(header.ssrc, header.sequence);
        let index = self.rtp.unprotect(
            packet,
            header.header_len,
            header.ssrc,
            candidates.into_iter().flatten(),
            mki,
        )?;
        self.accept(header.ssrc, index)
    }

    /// The cipher for a packet that may be opened together with others, and the likeliest index to open it under; `None`
    /// for what goes one at a time. Believes nothing and changes nothing.
    pub(crate) fn batchable(&self, header: &RtpHeader, packet: &[u8]) -> Option<(&CounterCipher, Indexed)> {
        let cipher = self.rtp.counter().filter(|_| self.key.mki().is_none())?;
        body_len(packet.len(), header.header_len, cipher.tag_len()).ok()?;
        let at = Indexed {
            header_len: header.header_len,
            ssrc: header.ssrc,
            index: self.candidates(header.ssrc, header.sequence)[0]?,
        };
        Some((cipher, at))
    }

    /// Goes on with a packet that was opened by a [`Job`](super::Job) with [`batchable`](Self::batchable). Packets before it
    /// in the same batch may have moved the source on meanwhile: what counts is where it stands now.
    pub(crate) fn opened(&mut self, at: Indexed) -> Result<Authenticated, SrtpError> {
        if self.candidates(at.ssrc, at.index.sequence()).contains(&Some(at.index)) {
            self.accept(at.ssrc, at.index)
        } else {
            Err(SrtpError::Unauthentic)
        }
    }

    /// Indices to try for a packet, likeliest first.
    fn candidates(&self, ssrc: u32, sequence: u16) -> [Option<SeqNo>; 5] {
        let state = self.sources.find(ssrc).map_or(RtpState::New, |source| source.rtp);
        state.candidates(sequence)
    }

    /// Refuses the index of an authentic packet if it was seen before, and marks it as seen.
    fn accept(&mut self, ssrc: u32, index: SeqNo) -> Result<Authenticated, SrtpError> {
        let source = self.heard(ssrc);
        let newest = match &mut source.rtp {
            RtpState::Running(window) => {
                let standing = window.standing(index.as_u64());
                if standing == Standing::Refused {
                    return Err(SrtpError::Replayed);
                }
                window.mark(index.as_u64());
                standing == Standing::Newest
            }
            not_running => {
                *not_running = RtpState::Running(ReplayWindow::starting_at(index.as_u64()));
                true
            }
        };
        Ok(Authenticated { ssrc, newest })
    }

    /// Authenticates an SRTCP packet and decrypts it if its E flag is set.
    ///
    /// # Errors
    /// With every error but [`SrtpError::Replayed`] the packet is unchanged, so that another key can be tried.
    pub fn unprotect_rtcp(&mut self, packet: &mut PacketBuf<'_>) -> Result<Authenticated, SrtpError> {
        let ssrc = rtcp_ssrc(packet.as_slice())?;
        let mki = self.key.mki().map_or(&[][..], |mki| mki.as_bytes());
        let index = u64::from(RtcpCipher::new(&self.key).unprotect(packet, mki)?);
        let source = self.heard(ssrc);
        let newest = match &mut source.rtcp {
            Some(window) => {
                let standing = window.standing(index);
                if standing == Standing::Refused {
                    return Err(SrtpError::Replayed);
                }
                window.mark(index);
                standing == Standing::Newest
            }
            none => {
                *none = Some(ReplayWindow::starting_at(index));
                true
            }
        };
        Ok(Authenticated { ssrc, newest })
    }

    /// Where every source stands.
    pub fn snapshot(&self) -> SrtpSnapshot {
        let ssrcs = self.sources.iter().map(|(ssrc, source)| SsrcSnapshot {
            ssrc,
            rtp: source.rtp.highest(),
            rtcp: source.rtcp.map(|window| window.highest() as u32),
            sequence_offset: 0,
        });
        SrtpSnapshot { ssrcs: ssrcs.collect() }
    }

    /// Goes on from a snapshot of another receiver with the same key. Everything up to the snapshot's indices is
    /// refused as replay; what was received between snapshot and restore cannot be told from new packets.
    pub fn restore(&mut self, snapshot: &SrtpSnapshot) {
        for entry in snapshot.ssrcs.iter().take(MAX_RECEIVE_SSRCS) {
            let source = self.heard(entry.ssrc);
            if let Some(index) = entry.rtp {
                source.rtp = RtpState::Running(ReplayWindow::closed_at(index.as_u64()));
            }
            if let Some(index) = entry.rtcp {
                source.rtcp = Some(ReplayWindow::closed_at(u64::from(index)));
            }
        }
    }

    /// The entry of a source that just authenticated, made if it is new.
    fn heard(&mut self, ssrc: u32) -> &mut Source {
        self.clock = match self.clock.checked_add(1) {
            Some(clock) => clock,
            None => {
                // Once in four thousand million packets the order of use starts again.
                self.sources.values_mut().for_each(|source| source.used = 0);
                1
            }
        };
        let clock = self.clock;
        if self.sources.find(ssrc).is_none() {
            if self.sources.len() >= MAX_RECEIVE_SSRCS {
                self.sources.evict_oldest(|source| source.used);
            }
            self.sources.insert(
                ssrc,
                Source {
                    rtp: RtpState::New,
                    rtcp: None,
                    used: clock,
                },
            );
        }
        let source = self
            .sources
            .find_mut(ssrc)
            .expect("the source was found or inserted above");
        source.used = clock;
        source
    }
}

impl fmt::Debug for Unprotect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unprotect")
            .field("key", &self.key)
            .field("sources", &self.sources.len())
            .finish_non_exhaustive()
    }
}

impl RtpState {
    fn highest(&self) -> Option<SeqNo> {
        match self {
            Self::New => None,
            Self::Carried(index) => Some(*index),
            Self::Running(window) => SeqNo::from_u64(window.highest()),
        }
    }

    /// Indices to try for a sequence number, likeliest first.
    fn candidates(&self, sequence: u16) -> [Option<SeqNo>; 5] {
        let closest_and_neighbours = |highest: SeqNo| {
            let closest = highest.closest(sequence);
            let next = closest.roc().checked_add(1).map(|roc| closest.with_roc(roc));
            let previous = closest.roc().checked_sub(1).map(|roc| closest.with_roc(roc));
            [Some(closest), next, previous]
        };
        let mut candidates = [None; 5];
        match self {
            Self::New => {
                for (roc, slot) in (0..JOIN_ROCS).zip(&mut candidates) {
                    *slot = Some(SeqNo::new(roc, sequence));
                }
            }
            Self::Carried(highest) => {
                candidates[..3].copy_from_slice(&closest_and_neighbours(*highest));
                candidates[3] = Some(SeqNo::new(0, sequence));
                candidates[4] = Some(SeqNo::new(1, sequence));
            }
            Self::Running(window) => {
                if let Some(highest) = SeqNo::from_u64(window.highest()) {
                    candidates[..3].copy_from_slice(&closest_and_neighbours(highest));
                }
            }
        }
        candidates
    }
}
