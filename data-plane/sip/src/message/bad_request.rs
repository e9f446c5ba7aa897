use std::fmt;

use bytes::Bytes;

use super::Table;
use crate::header::{HeaderName, TypedHeader, Via};
use crate::method::Method;
use crate::parse::scan::CommaSplit;
use crate::status::StatusCode;

/// A request that is wrong, with what an answer needs. Its header values are unchecked and only copied into the response; only
/// the sent-by of the top Via is known to be readable.
#[derive(Clone)]
pub struct BadRequest {
    status: StatusCode,
    reason: &'static str,
    method: Method,
    bytes: Bytes,
    table: Table,
}

impl BadRequest {
    pub(crate) fn new(status: StatusCode, reason: &'static str, method: Method, bytes: Bytes, table: Table) -> Self {
        Self {
            status,
            reason,
            method,
            bytes,
            table,
        }
    }

    /// Status to answer with: 400, 414, 505 or 513.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Reason phrase that says what is wrong, without quoting the input.
    pub fn reason(&self) -> &'static str {
        self.reason
    }

    /// Method; never ACK.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Top Via for the way back (RFC 3261 §18.2.2); without parameters when those are what cannot be read.
    pub fn top_via(&self) -> Via<'_> {
        let line = self.lines(HeaderName::Via).next().expect("made only with a Via");
        let top = CommaSplit::new(line).next().unwrap_or(line);
        Via::parse(top)
            .or_else(|_| Via::parse_sent_by(top))
            .expect("made only with a readable sent-by")
    }

    /// The request as received.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Values of a field's lines.
    pub(crate) fn lines(&self, name: HeaderName) -> impl Iterator<Item = &[u8]> {
        self.table
            .iter()
            .filter(move |entry| entry.name() == name)
            .map(|entry| entry.value().of(&self.bytes))
    }
}

impl fmt::Debug for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered {} {}", self.method, self.status, self.reason)
    }
}
