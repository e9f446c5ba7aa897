//! Cuts a TCP or TLS byte stream into messages (RFC 3261 §18.3) and keep-alives (RFC 5626 §3.5.1).

use bytes::{Buf, Bytes, BytesMut};

use crate::header::HeaderName;
use crate::parse::scan::{decimal, is_token, trim_lws};
use crate::parse::{Limits, fold_end};

#[cfg(test)]
mod tests;

/// Collects bytes of one connection and gives out what is complete.
///
/// Call [`Framer::push`] with what was read, then [`Framer::poll`] until it gives `None`. The buffer never grows beyond one
/// message by [`Limits::message`] plus what one `push` brought. After an error the connection must be closed: where the next
/// message starts is unknown, and `poll` repeats the error.
#[derive(Debug)]
pub struct Framer {
    buffer: BytesMut,
    limits: Limits,
    /// The header section does not end before this offset.
    scanned: usize,
    /// The last thing taken was one lone CRLF.
    half_ping: bool,
    failed: Option<StreamError>,
}

/// Something complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes for [`crate::parse::parse`] with [`crate::parse::Framing::Stream`].
    Message(Bytes),
    /// CRLF CRLF: write one CRLF.
    Ping,
    /// CRLF: the peer is alive.
    Pong,
}

/// Why a connection cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StreamError {
    /// Bytes that start no SIP message.
    #[error("stream is not SIP")]
    NotSip,
    /// Header section or whole message beyond the limits.
    #[error("message on stream too large")]
    TooLarge,
    /// Content-Length missing, malformed or repeated: the end of the message is unknown.
    #[error("message on stream without usable Content-Length")]
    ContentLength,
}

impl StreamError {
    /// Stable name for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotSip => "not_sip",
            Self::TooLarge => "too_large",
            Self::ContentLength => "content_length",
        }
    }
}

impl Framer {
    /// An empty framer.
    pub fn new(limits: Limits) -> Self {
        Self {
            buffer: BytesMut::new(),
            limits,
            scanned: 0,
            half_ping: false,
            failed: None,
        }
    }

    /// Adds bytes that were read. Ignored after an error.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Bytes held back until more arrive.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The next complete thing; `None` when more bytes are needed.
    ///
    /// When the end of a message cannot be told, its header section alone is given out first, so that a request can still be
    /// answered; the error follows with the next call.
    ///
    /// # Errors
    /// See [`StreamError`]; the connection is lost.
    pub fn poll(&mut self) -> Result<Option<Frame>, StreamError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if let Some(keep_alive) = self.keep_alive() {
            return Ok(Some(keep_alive));
        }
        if !self.buffer.first().copied().is_none_or(starts_message) {
            return Err(self.fail(StreamError::NotSip));
        }
        let Some(head) = self.head_end()? else { return Ok(None) };
        let length = match content_length(&self.buffer[..head]) {
            Some(length) if head.saturating_add(length) <= self.limits.message => length,
            Some(_) => return Ok(Some(self.last_words(head, StreamError::TooLarge))),
            None => return Ok(Some(self.last_words(head, StreamError::ContentLength))),
        };
        if self.buffer.len() < head + length {
            return Ok(None);
        }
        self.scanned = 0;
        Ok(Some(Frame::Message(self.buffer.split_to(head + length).freeze())))
    }

    /// Takes one keep-alive between messages. A ping may arrive in two halves, and a pong looks like the first half, so a
    /// lone CRLF counts as pong at once and a CRLF right behind it makes a ping of both.
    fn keep_alive(&mut self) -> Option<Frame> {
        if self.buffer.starts_with(b"\r\n\r\n") {
            self.buffer.advance(4);
            self.half_ping = false;
            return Some(Frame::Ping);
        }
        if self.buffer.starts_with(b"\r\n") {
            self.buffer.advance(2);
            self.half_ping = !self.half_ping;
            return Some(if self.half_ping { Frame::Pong } else { Frame::Ping });
        }
        self.half_ping &= self.buffer.is_empty() || self.buffer[..] == b"\r"[..];
        None
    }

    /// Offset behind the empty line, if it has arrived. `scanned` stays in front of it until the body is complete.
    fn head_end(&mut self) -> Result<Option<usize>, StreamError> {
        let end = memchr::memmem::find(&self.buffer[self.scanned..], b"\r\n\r\n").map(|at| self.scanned + at + 4);
        self.scanned = end.unwrap_or(self.buffer.len() + 1).saturating_sub(4);
        if end.unwrap_or(self.buffer.len()) > self.limits.message {
            return Err(self.fail(StreamError::TooLarge));
        }
        Ok(end)
    }

    fn last_words(&mut self, head: usize, error: StreamError) -> Frame {
        let words = self.buffer.split_to(head).freeze();
        self.fail(error);
        Frame::Message(words)
    }

    fn fail(&mut self, error: StreamError) -> StreamError {
        self.buffer = BytesMut::new();
        self.failed = Some(error);
        error
    }
}

/// A message starts with a token; a CR may be the first half of a keep-alive.
fn starts_message(byte: u8) -> bool {
    is_token(byte) || byte == b'\r'
}

/// Value of the only Content-Length; `None` when there is none, several, or it is no number.
fn content_length(head: &[u8]) -> Option<usize> {
    let mut found = None;
    let mut at = 0;
    while let Some(lf) = memchr::memchr(b'\n', &head[at..]).map(|lf| at + lf) {
        let end = fold_end(head, lf);
        let line = &head[at..end];
        if matches!(line.first(), Some(b'l' | b'L' | b'c' | b'C'))
            && let Some(colon) = memchr::memchr(b':', line)
            && HeaderName::lookup(line[..colon].trim_ascii_end()) == HeaderName::ContentLength
        {
            if found.is_some() {
                return None;
            }
            found = Some(decimal(trim_lws(&line[colon + 1..]))? as usize);
        }
        at = end;
    }
    found
}
