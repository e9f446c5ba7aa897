//! What can be told from raw bytes without parsing a message.

use super::scan::trim_lws;
use crate::header::HeaderName;

/// A keep-alive instead of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// CRLF CRLF: over a stream the receiver answers with one CRLF (RFC 5626 §3.5.1).
    Ping,
    /// One CRLF: the answer, or a lone keep-alive; needs no answer.
    Pong,
    /// Any other run of CR, LF and NUL that phones send to hold a NAT binding; needs no answer.
    Padding,
}

/// `Some` when the datagram holds nothing but CR, LF and NUL, or nothing at all.
pub fn keep_alive(datagram: &[u8]) -> Option<KeepAlive> {
    match datagram {
        b"\r\n\r\n" => Some(KeepAlive::Ping),
        b"\r\n" => Some(KeepAlive::Pong),
        other if other.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0)) => Some(KeepAlive::Padding),
        _ => None,
    }
}

/// Call-ID of an unparsed message, for choosing the shard that parses it. Gives the same bytes as
/// [`crate::message::Fields::call_id`] whenever the message is understood. Reads header lines until the first Call-ID,
/// copies nothing, and never reads the body.
pub fn peek_call_id(message: &[u8]) -> Option<&[u8]> {
    let start = message.iter().position(|byte| !matches!(byte, b'\r' | b'\n' | 0))?;
    let mut rest = &message[start..];
    rest = &rest[memchr::memchr(b'\n', rest)? + 1..];
    loop {
        let lf = memchr::memchr(b'\n', rest)?;
        let line = &rest[..lf];
        if matches!(line, b"" | b"\r") {
            return None;
        }
        if matches!(line[0], b'i' | b'I' | b'c' | b'C')
            && let Some(colon) = memchr::memchr(b':', line)
            && HeaderName::lookup(line[..colon].trim_ascii_end()) == HeaderName::CallId
        {
            let value = trim_lws(&rest[colon + 1..super::fold_end(rest, lf)]);
            return (!value.is_empty()).then_some(value);
        }
        rest = &rest[lf + 1..];
    }
}
