//! For `benches/srtp.rs`, which can only see what is public. No part of the API.

use super::batch::{Job, open_batch, seal_batch};
use super::counter::{CounterCipher, Indexed};
use super::key::SrtpKey;
use crate::packet::PacketBuf;
use crate::rtp::{FIXED_HEADER_LEN, SeqNo};

/// Which code does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// What there is in any processor, one packet at a time.
    Portable,
    /// What [`Protect`](super::Protect) and the relay use here.
    Best,
}

/// Directions with a key each, and a packet for each of them.
pub struct Directions {
    code: Code,
    ciphers: Vec<CounterCipher>,
    sealed: Vec<Vec<u8>>,
    slots: Vec<Vec<u8>>,
    payload: usize,
    next: usize,
}

impl Directions {
    /// One direction a key, all of counter-mode suites, whose packets have `payload` octets.
    pub fn new(code: Code, keys: &[SrtpKey], payload: usize) -> Self {
        let cipher = match code {
            Code::Portable => CounterCipher::portable,
            Code::Best => CounterCipher::new,
        };
        let len = FIXED_HEADER_LEN + payload;
        let mut directions = Self {
            code,
            ciphers: keys.iter().map(cipher).collect(),
            sealed: Vec::new(),
            slots: vec![vec![0x80; len + PacketBuf::HEADROOM]; keys.len()],
            payload,
            next: 0,
        };
        for _ in keys {
            directions.seal(1);
        }
        directions.sealed = directions.slots.clone();
        directions
    }

    /// Seals the packets of the next `count` directions together.
    pub fn seal(&mut self, count: usize) {
        let len = FIXED_HEADER_LEN + self.payload;
        self.with_next(
            count,
            |_| len,
            |code, jobs| match code {
                Code::Best => seal_batch(jobs),
                Code::Portable => jobs.iter_mut().for_each(|job| {
                    let _room = job.cipher.protect(job.packet, job.at, &[]);
                }),
            },
        );
    }

    /// Opens the packets of the next `count` directions together, each a copy of one sealed before.
    ///
    /// # Panics
    /// If one does not open.
    pub fn open(&mut self, count: usize) {
        for at in self.next..self.next + count {
            let at = at % self.slots.len();
            self.slots[at].copy_from_slice(&self.sealed[at]);
        }
        let len = FIXED_HEADER_LEN + self.payload;
        let opened = self.with_next(
            count,
            |cipher| len + cipher.tag_len(),
            |code, jobs| match code {
                Code::Best => open_batch(jobs).count_ones() as usize,
                Code::Portable => jobs.iter_mut().filter_map(open_one).count(),
            },
        );
        assert_eq!(opened, count, "every packet was sealed under this key");
    }

    fn with_next<T>(
        &mut self,
        count: usize,
        len: impl Fn(&CounterCipher) -> usize,
        work: impl FnOnce(Code, &mut [Job<'_, '_>]) -> T,
    ) -> T {
        let from = self.next;
        self.next = (from + count) % self.ciphers.len();
        let ciphers = &self.ciphers[from..from + count];
        let mut packets: smallvec::SmallVec<[PacketBuf<'_>; 64]> = self.slots[from..from + count]
            .iter_mut()
            .zip(ciphers)
            .map(|(slot, cipher)| PacketBuf::new(slot, len(cipher)))
            .collect();
        let mut jobs: smallvec::SmallVec<[Job<'_, '_>; 64]> = packets
            .iter_mut()
            .zip(ciphers)
            .map(|(packet, cipher)| Job {
                cipher,
                packet,
                at: Indexed {
                    header_len: FIXED_HEADER_LEN,
                    ssrc: 1,
                    index: SeqNo::new(0, 1),
                },
            })
            .collect();
        work(self.code, &mut jobs)
    }
}

fn open_one(job: &mut Job<'_, '_>) -> Option<SeqNo> {
    let Indexed {
        header_len,
        ssrc,
        index,
    } = job.at;
    job.cipher
        .unprotect(job.packet, header_len, ssrc, std::iter::once(index), &[])
        .ok()
}
