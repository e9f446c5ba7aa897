//! SIP without I/O (RFC 3261 and its extensions): bytes to messages and back, digest, transactions, dialogs.
//!
//! This crate knows no trunk, no media, no clock and no socket. `now` and randomness are arguments.
//!
//! - [`parse`]: `parse(Bytes) -> Parsed::{Understood, Answerable, Drop}`, [`parse::peek_call_id`], keep-alives.
//! - [`message`]: [`message::Request`], [`message::Response`], and what both share, [`message::Fields`].
//! - [`mod@write`]: requests, responses, ACK and CANCEL; [`edit`]: changes to a message that passes through.
//! - [`stream`]: messages out of a TCP or TLS stream; [`digest`]: authentication, both sides.
//! - [`transaction`]: the four machines and their table; [`timer`]: their values; [`dialog`]: dialogs of a record-routing proxy.
//! - [`header`], [`uri`], [`method`], [`status`]: typed values that borrow from the message.

pub mod dialog;
pub mod digest;
pub mod edit;
pub mod header;
pub mod message;
pub mod method;
pub mod parse;
pub mod status;
pub mod stream;
pub mod timer;
pub mod transaction;
pub mod uri;
pub mod write;
