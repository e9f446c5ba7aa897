//! What must hold for every input from the network, as functions from bytes to nothing that panic when it does not.
//!
//! Each target is a module with one function `run`. `tests/corpus.rs` replays the committed inputs of `corpus/` through
//! them in every test run; the binaries behind the feature `libfuzzer` let libFuzzer look for new ones (`explore.sh`).
//!
//! A corpus holds seeds with a name (messages of RFC 4475, the cases of the SDP tests, packets), `found-…`: inputs that once
//! failed and say what they showed, and `explored-…`: the fewest inputs that reach every branch exploring has reached.

pub mod digest;
pub mod negotiation;
pub mod rtp;
pub mod sdp;
pub mod sip_message;
pub mod sip_stream;
pub mod srtp;

/// A target: its name, which is also its directory of the corpus and its binary, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("digest", digest::run),
    ("negotiation", negotiation::run),
    ("rtp", rtp::run),
    ("sdp", sdp::run),
    ("sip_message", sip_message::run),
    ("sip_stream", sip_stream::run),
    ("srtp", srtp::run),
];
