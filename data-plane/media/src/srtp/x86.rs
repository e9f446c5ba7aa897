//! The processor's own AES and SHA-1 instructions (x86-64), where it has them.
//!
//! Everything unsafe of this crate is here: loads and stores of vectors, and calls of functions that need instructions the
//! build target does not promise. A [`Hardware`] proves that they are there. The portable code gives the same results
//! and is what the tests compare with.
#![expect(unsafe_code, reason = "vector loads and instructions chosen at run time")]

mod aes;
mod sha1;

use core::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_storeu_si128};

pub(super) use aes::Schedule;

use super::batch::Message;

/// Proof that the processor has AES-NI, SHA-NI, SSSE3 and SSE4.1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hardware(());

impl Hardware {
    /// Asks the processor; after the first time the answer is a load.
    pub(super) fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("sha")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1");
        all.then_some(Self(()))
    }

    /// HMAC-SHA1 of each message into the tag at its place, several at a time. Messages without a tag are left out.
    pub(super) fn hmac_sha1(self, messages: &[Message<'_>], tags: &mut [[u8; 20]]) {
        // SAFETY: `self` proves that the instructions are there.
        unsafe { sha1::hmacs(messages, tags) }
    }
}

#[inline]
#[target_feature(enable = "sse2")]
fn load(octets: &[u8; 16]) -> __m128i {
    // SAFETY: the reference covers the sixteen octets read; no alignment is needed.
    unsafe { _mm_loadu_si128(octets.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn store(octets: &mut [u8; 16], value: __m128i) {
    // SAFETY: the reference covers the sixteen octets written; no alignment is needed.
    unsafe { _mm_storeu_si128(octets.as_mut_ptr().cast(), value) }
}
