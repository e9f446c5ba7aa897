//! Media without a phone: thousands of RTP streams from one core, paced as phones pace them, counted and timed.
//!
//! A relay costs microseconds per packet, so a generator that costs as much measures itself. What makes this one light:
//!
//! - Packets leave as whole Ethernet frames over an AF_PACKET socket, past the queueing discipline and the sender's half of the
//!   stack ([`wire`]).
//! - They are received in a ring the kernel writes and stamps (TPACKET_V3), before the receiver's half of the stack, which then
//!   drops them ([`network`]): neither side pays for sockets nobody reads.
//! - Nothing is looked up: the port says which stream a packet belongs to, its sequence number when it was sent ([`ledger`]).
//!
//! Each stream end has an address, a port, an SSRC and keys of its own ([`stream`]); each sends every 20 ms at its own phase of
//! them ([`pace`]). [`generator`] is the loop.

pub mod frame;
pub mod generator;
pub mod histogram;
pub mod ledger;
pub mod network;
pub mod pace;
pub mod stream;
pub mod wire;
