//! Several packets of any number of directions at once.
//!
//! Index and replay state are not touched here: who makes a job has assigned, or guessed, its index.

use smallvec::SmallVec;
use subtle::ConstantTimeEq;

use super::counter::{CounterCipher, Indexed};
use super::mac::HmacSha1;
#[cfg(target_arch = "x86_64")]
use super::x86::Hardware;
use crate::packet::PacketBuf;

/// Most packets that are worked on together. The tags of all are in one word, and what is kept of each between the steps is
/// on the stack.
pub const MAX_BATCH: usize = 64;

/// One packet for [`open_batch`] or [`seal_batch`].
pub(crate) struct Job<'a, 'p> {
    /// Of the direction the packet belongs to.
    pub(crate) cipher: &'a CounterCipher,
    pub(crate) packet: &'a mut PacketBuf<'p>,
    pub(crate) at: Indexed,
}

/// A message to authenticate: some octets, then the rollover counter (RFC 3711 §4.2).
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) mac: &'a HmacSha1,
    pub(super) octets: &'a [u8],
    pub(super) roc: u32,
}

/// One tag a message, each cut to its suite's length where it is used.
type Tags = SmallVec<[[u8; 20]; MAX_BATCH]>;

/// Encrypts each packet and appends its tag. Packets whose tag does not fit are left without: see to the room first.
pub(crate) fn seal_batch(jobs: &mut [Job<'_, '_>]) {
    for job in &mut *jobs {
        job.cipher
            .crypt(job.at, &mut job.packet.as_mut_slice()[job.at.header_len..]);
    }
    let tags = tags(jobs.iter().map(|job| job.message(0)));
    for (job, tag) in jobs.iter_mut().zip(tags) {
        let appended = job.packet.extend_from_slice(&tag[..job.cipher.tag_len()]);
        debug_assert!(appended.is_ok(), "whoever assigns an index has seen to the room");
    }
}

/// Authenticates each packet under its index; those that pass are decrypted and lose their tag, the others stay as they are.
/// Bit `n` of the result is set if job `n` passed; there may be at most [`MAX_BATCH`], none shorter than header and tag.
pub(crate) fn open_batch(jobs: &mut [Job<'_, '_>]) -> u64 {
    debug_assert!(jobs.len() <= MAX_BATCH, "one bit a job");
    let tags = tags(jobs.iter().map(|job| job.message(job.cipher.tag_len())));
    let mut passed = 0;
    for (bit, (job, tag)) in jobs.iter_mut().zip(tags).enumerate() {
        let body_len = job.body_len(job.cipher.tag_len());
        let (body, received) = job.packet.as_mut_slice().split_at_mut(body_len);
        // In constant time, so that a forger learns nothing from how long a refusal takes.
        if bool::from(tag[..job.cipher.tag_len()].ct_eq(received)) {
            job.cipher.crypt(job.at, &mut body[job.at.header_len..]);
            job.packet.truncate(body_len);
            passed |= 1 << bit;
        }
    }
    passed
}

impl Job<'_, '_> {
    fn body_len(&self, trailer_len: usize) -> usize {
        self.packet.len().saturating_sub(trailer_len).max(self.at.header_len)
    }

    /// What is authenticated of a packet that ends with a trailer.
    fn message(&self, trailer_len: usize) -> Message<'_> {
        Message {
            mac: self.cipher.mac(),
            octets: &self.packet.as_slice()[..self.body_len(trailer_len)],
            roc: self.at.index.roc(),
        }
    }
}

fn tags<'a>(messages: impl ExactSizeIterator<Item = Message<'a>>) -> Tags {
    #[cfg(target_arch = "x86_64")]
    if messages.len() > 1
        && let Some(hardware) = Hardware::detect()
    {
        let messages: SmallVec<[_; MAX_BATCH]> = messages.collect();
        let mut tags = SmallVec::from_elem([0; 20], messages.len());
        hardware.hmac_sha1(&messages, &mut tags);
        return tags;
    }
    messages.map(|message| portable_tag(&message)).collect()
}

fn portable_tag(message: &Message<'_>) -> [u8; 20] {
    let prefix = message.mac.prefix(message.octets);
    message.mac.finish(&prefix, &message.roc.to_be_bytes())
}

#[cfg(test)]
mod tests;
