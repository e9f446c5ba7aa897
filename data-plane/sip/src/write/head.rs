use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Body, ViaStamp, WriteError, write_stamped};
use crate::header::{FieldName, HeaderName};
use crate::parse::MAX_MESSAGE_SIZE;
use crate::parse::scan::{CommaSplit, token_str};
use crate::status::StatusCode;

/// A message being written. The first error sticks and comes out at the end, so that building reads as a list of fields.
#[derive(Default)]
pub(crate) struct Head {
    out: BytesMut,
    error: Option<WriteError>,
}

impl Head {
    pub(crate) fn start(&mut self, line: fmt::Arguments<'_>) {
        self.out.reserve(1024);
        let from = self.out.len();
        self.display(line);
        if self.out[from..].iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            self.error.get_or_insert(WriteError::LineBreak);
        }
        self.out.put_slice(b"\r\n");
    }

    /// `room` is about what the whole message takes: it is kept as long as its transaction, so there is no more.
    pub(crate) fn start_response(&mut self, status: StatusCode, phrase: &str, room: usize) {
        self.out.reserve(room);
        let digits = [100, 10, 1].map(|unit| b'0' + (status.as_u16() / unit % 10) as u8);
        if phrase.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            self.error.get_or_insert(WriteError::LineBreak);
        }
        for part in [b"SIP/2.0 ", &digits[..], b" ", phrase.as_bytes(), b"\r\n"] {
            self.out.put_slice(part);
        }
    }

    pub(crate) fn field(&mut self, name: FieldName<'_>, value: impl fmt::Display) {
        self.name(name);
        let from = self.out.len();
        self.display(format_args!("{value}"));
        let checked = check_value(&self.out[from..]);
        self.note(checked);
        self.out.put_slice(b"\r\n");
    }

    pub(crate) fn field_bytes(&mut self, name: FieldName<'_>, value: &[u8]) {
        self.name(name);
        self.note(check_value(value));
        self.out.put_slice(value);
        self.out.put_slice(b"\r\n");
    }

    /// A field of a parsed message: the parser has held it to the same framing rule.
    pub(crate) fn copied(&mut self, name: HeaderName, value: &[u8]) {
        debug_assert!(check_value(value).is_ok(), "the parser let a line break through");
        self.out.put_slice(name.as_str().as_bytes());
        self.out.put_slice(b": ");
        self.out.put_slice(value);
        self.out.put_slice(b"\r\n");
    }

    /// A line of Vias of a parsed message, with `stamp` on the first value.
    pub(crate) fn stamped_vias(&mut self, line: &[u8], stamp: &ViaStamp) {
        self.out.put_slice(b"Via: ");
        for (index, value) in CommaSplit::new(line).enumerate() {
            if index == 0 {
                write_stamped(value, stamp, &mut self.out);
            } else {
                self.out.put_slice(b", ");
                self.out.put_slice(value);
            }
        }
        self.out.put_slice(b"\r\n");
    }

    /// A To of a parsed message without tag, with this one.
    pub(crate) fn tagged(&mut self, to: &[u8], tag: &str) {
        self.note(check_value(tag.as_bytes()));
        for part in [b"To: ", to, b";tag=", tag.as_bytes(), b"\r\n"] {
            self.out.put_slice(part);
        }
    }

    /// Octets so far.
    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    /// Appends the fields of another head.
    pub(crate) fn append(&mut self, other: Head) {
        self.out.put_slice(&other.out);
        self.note(other.error.map_or(Ok(()), Err));
    }

    /// Content-Type, Content-Length, the empty line and the content.
    pub(crate) fn body(&mut self, body: &Body) {
        if !body.content_type.is_empty() {
            self.field(HeaderName::ContentType.into(), &body.content_type);
        }
        if body.content.is_empty() {
            self.out.put_slice(b"Content-Length: 0\r\n");
        } else {
            self.field(HeaderName::ContentLength.into(), body.content.len());
        }
        self.out.put_slice(b"\r\n");
        self.out.put_slice(&body.content);
    }

    pub(crate) fn finish(self) -> Result<Bytes, WriteError> {
        match self.error {
            Some(error) => Err(error),
            None if self.out.len() > MAX_MESSAGE_SIZE => Err(WriteError::TooLarge),
            None => Ok(self.out.freeze()),
        }
    }

    fn name(&mut self, name: FieldName<'_>) {
        self.note(check_name(name));
        // The fields behind the copied ones begin in a buffer of their own: a challenge or a Contact fits.
        if self.out.capacity() == 0 {
            self.out.reserve(256);
        }
        self.out.put_slice(name.as_str().as_bytes());
        self.out.put_slice(b": ");
    }

    fn display(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a growing buffer cannot fail; a Display that reports an error leaves a value cut short.
        if fmt::Write::write_fmt(&mut self.out, text).is_err() {
            self.error.get_or_insert(WriteError::LineBreak);
        }
    }

    fn note(&mut self, outcome: Result<(), WriteError>) {
        if let Err(error) = outcome {
            self.error.get_or_insert(error);
        }
    }
}

pub(crate) fn check_name(name: FieldName<'_>) -> Result<(), WriteError> {
    match name {
        // The one that has no text.
        FieldName::Known(HeaderName::Other) => Err(WriteError::BadName),
        FieldName::Known(_) => Ok(()),
        FieldName::Text(text) if token_str(text.as_bytes()).is_some() => Ok(()),
        FieldName::Text(_) => Err(WriteError::BadName),
    }
}

/// The framing rule of the parser, from the other side: CR and LF only as `CRLF` plus white space, NUL only escaped.
pub(crate) fn check_value(value: &[u8]) -> Result<(), WriteError> {
    for at in memchr::memchr3_iter(b'\r', b'\n', 0, value) {
        let is_fold = |from: usize| {
            value[from..].starts_with(b"\r\n") && value.get(from + 2).is_some_and(|b| matches!(b, b' ' | b'\t'))
        };
        let allowed = match value[at] {
            b'\r' => is_fold(at),
            b'\n' => at > 0 && is_fold(at - 1),
            _ => at > 0 && value[at - 1] == b'\\',
        };
        if !allowed {
            return Err(WriteError::LineBreak);
        }
    }
    Ok(())
}
