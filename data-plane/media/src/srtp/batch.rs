//! Several packets of any number of directions at once.
//!
//! Index and replay state are not touched here: who makes a job has assigned, or guessed, its index.

use super::counter::{CounterCipher, Indexed};
use crate::packet::PacketBuf;

/// One packet for [`open_batch`] or [`seal_batch`].
pub(crate) struct Job<'a, 'p> {
    /// Of the direction the packet belongs to.
    pub(crate) cipher: &'a CounterCipher,
    pub(crate) packet: &'a mut PacketBuf<'p>,
    pub(crate) at: Indexed,
}

/// Encrypts each packet and appends its tag. Packets whose tag does not fit are left without: see to the room first.
pub(crate) fn seal_batch(jobs: &mut [Job<'_, '_>]) {
    for job in jobs {
        let sealed = job.cipher.protect(job.packet, job.at, &[]);
        debug_assert!(sealed.is_ok(), "whoever assigns an index has seen to the room");
    }
}

/// Authenticates each packet under its index; those that pass are decrypted and lose their tag, the others stay as they are.
/// Bit `n` of the result is set if job `n` passed; there may be at most 64.
pub(crate) fn open_batch(jobs: &mut [Job<'_, '_>]) -> u64 {
    debug_assert!(jobs.len() <= 64, "one bit a job");
    let mut passed = 0;
    for (bit, job) in jobs.iter_mut().enumerate() {
        let Indexed {
            header_len,
            ssrc,
            index,
        } = job.at;
        let opened = job
            .cipher
            .unprotect(job.packet, header_len, ssrc, std::iter::once(index), &[]);
        passed |= u64::from(opened.is_ok()) << bit;
    }
    passed
}
