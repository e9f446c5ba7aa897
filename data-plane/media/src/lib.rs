//! Media of Trunkline: SDP, RTP, RTCP, SRTP and the relay core.
//!
//! Sans-IO: no socket, no clock, no random source of its own. `now`, RNGs and packets are arguments, verdicts and
//! values come back. Knows no SIP and no trunk.

pub mod codec;
pub mod demux;
pub mod negotiate;
pub mod g711;
pub mod latch;
pub mod stats;
pub mod tone;
pub mod packet;
pub mod rtcp;
pub mod rtp;
pub mod relay;
pub mod sdp;
pub mod sdes;
pub mod srtp;
pub mod suite;

pub use suite::SrtpSuite;
