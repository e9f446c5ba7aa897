//! Secure RTP: RFC 3711 with the suites of RFC 4568, RFC 6188 and RFC 7714.
//!
//! One [`Protect`] or [`Unprotect`] holds a direction of a leg: session keys derived once, and per SSRC the rollover
//! counter and replay window. Packets change in place; a packet that fails leaves its buffer as it was.
//!
//! Not here: F8, encrypted header extensions, a key derivation rate, and MKI-selected key sets.

mod batch;
#[doc(hidden)]
pub mod bench;
mod cipher;
mod counter;
mod index;
mod kdf;
mod key;
mod mac;
mod protect;
mod unprotect;
#[cfg(target_arch = "x86_64")]
mod x86;

use thiserror::Error;

pub use batch::MAX_BATCH;
pub(crate) use batch::{Job, open_batch, seal_batch};
pub(crate) use counter::{CounterCipher, Indexed};
pub(crate) use index::{ReplayWindow, Standing};
pub use index::{SrtpSnapshot, SsrcSnapshot};
pub use key::{Mki, SrtpKey};
pub use protect::{MAX_SEND_SSRCS, Protect};
pub use unprotect::{Authenticated, MAX_RECEIVE_SSRCS, Unprotect};

/// Why a packet was neither protected nor unprotected. The packet is to be dropped and counted, nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum SrtpError {
    /// Not an RTP (or RTCP) packet, or too short for its trailer.
    #[error("packet is malformed")]
    Malformed,
    /// The trailer does not fit the buffer.
    #[error("packet does not fit its buffer")]
    NoRoom,
    /// The authentication tag is wrong under every candidate rollover counter.
    #[error("authentication failed")]
    Unauthentic,
    /// The packet carries another MKI than the key's.
    #[error("unknown master key identifier")]
    UnknownMki,
    /// Seen before, or too old to tell (RFC 3711 §3.3.2). For a sender: protecting it would reuse a keystream.
    #[error("packet is a replay or too old")]
    Replayed,
    /// The key has protected as many packets as it may (RFC 3711 §9.2).
    #[error("master key is exhausted")]
    KeyExhausted,
    /// More synchronization sources than the sender keeps counters for.
    #[error("too many synchronization sources")]
    TooManySsrcs,
}

#[cfg(test)]
mod tests;
