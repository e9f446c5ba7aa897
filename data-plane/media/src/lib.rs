//! Media of Trunkline: SDP, RTP, RTCP, SRTP and the relay core.
//!
//! Sans-IO: no socket, no clock, no random source of its own. `now`, RNGs and packets are arguments, verdicts and
//! values come back. Knows no SIP and no trunk.

pub mod codec;
pub mod demux;
pub mod g711;
pub mod latch;
pub mod negotiate;
pub mod packet;
pub mod relay;
pub mod rtcp;
pub mod rtp;
pub mod sdes;
pub mod sdp;
pub mod srtp;
pub mod stats;
pub mod suite;
pub mod tone;

pub use suite::SrtpSuite;
