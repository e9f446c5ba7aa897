//! Messages to bytes: requests built from nothing, responses built from a request, ACK and CANCEL built from an INVITE.
//! Changing a received message while it passes through is [`crate::edit`].

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;

use crate::header::{FieldName, HeaderName, NameAddr};
use crate::message::{BadRequest, Request, Response};
use crate::method::Method;
use crate::parse::MAX_MESSAGE_SIZE;
use crate::status::StatusCode;

mod head;
#[cfg(test)]
mod tests;
mod text;
mod via;

pub(crate) use head::{Head, check_name, check_value};
pub use text::Text;
pub use via::ViaStamp;
pub(crate) use via::write_stamped;

/// Max-Forwards of a request that starts here (RFC 3261 §8.1.1.6).
pub const INITIAL_MAX_FORWARDS: u8 = 70;

/// Why a message cannot be written. All are mistakes of the caller, or values from outside that would break the framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// A value holds CR, LF (other than a fold) or NUL: written, it would become another header field.
    #[error("header value with a line break or NUL")]
    LineBreak,
    /// A field name is not a token.
    #[error("header name is not a token")]
    BadName,
    /// The message exceeds [`MAX_MESSAGE_SIZE`].
    #[error("message exceeds {MAX_MESSAGE_SIZE} bytes")]
    TooLarge,
    /// A response other than 100 to a request without To tag was given no tag (RFC 3261 §8.2.6.2).
    #[error("response without To tag")]
    NoToTag,
}

/// Builds a request. Header fields are written in call order; Content-Type, Content-Length and body come last.
///
/// ```
/// # use trunkline_sip::{header::HeaderName, method::Method, write::RequestBuilder};
/// let bytes = RequestBuilder::new(&Method::Options, "sip:example.com")
///     .header(HeaderName::Via, "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1")
///     .header(HeaderName::MaxForwards, 70)
///     .build()?;
/// assert!(bytes.starts_with(b"OPTIONS sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1"));
/// # Ok::<(), trunkline_sip::write::WriteError>(())
/// ```
#[must_use]
pub struct RequestBuilder {
    head: Head,
    body: Body,
}

/// Builds a response to a request (RFC 3261 §8.2.6.2): Via, From, To, Call-ID and CSeq are copied, Timestamp into a 100,
/// Record-Route into whatever forms a dialog (§12.1.1).
#[must_use]
pub struct ResponseBuilder<'a> {
    request: &'a Request,
    status: StatusCode,
    reason: Option<String>,
    to_tag: Option<String>,
    stamp: ViaStamp,
    extra: Head,
    body: Body,
}

/// Content-Type and content; no Content-Type when empty.
#[derive(Default)]
pub(crate) struct Body {
    pub(crate) content_type: String,
    pub(crate) content: Bytes,
}

impl RequestBuilder {
    /// Starts with the Request-Line.
    pub fn new(method: &Method, uri: impl fmt::Display) -> Self {
        let mut head = Head::default();
        head.start(format_args!("{method} {uri} SIP/2.0"));
        Self {
            head,
            body: Body::default(),
        }
    }

    /// Adds a field.
    pub fn header<'n>(mut self, name: impl Into<FieldName<'n>>, value: impl fmt::Display) -> Self {
        self.head.field(name.into(), value);
        self
    }

    /// Adds a field whose value need not be UTF-8, such as one copied from a message.
    pub fn header_bytes<'n>(mut self, name: impl Into<FieldName<'n>>, value: &[u8]) -> Self {
        self.head.field_bytes(name.into(), value);
        self
    }

    /// Sets the body.
    pub fn body(mut self, content_type: impl Into<String>, content: impl Into<Bytes>) -> Self {
        self.body = Body {
            content_type: content_type.into(),
            content: content.into(),
        };
        self
    }

    /// The whole message.
    ///
    /// # Errors
    /// The first mistake made while building.
    pub fn build(mut self) -> Result<Bytes, WriteError> {
        self.head.body(&self.body);
        self.head.finish()
    }
}

impl<'a> ResponseBuilder<'a> {
    /// Starts a response with the default reason phrase.
    pub fn new(request: &'a Request, status: StatusCode) -> Self {
        Self {
            request,
            status,
            reason: None,
            to_tag: None,
            stamp: ViaStamp::default(),
            extra: Head::default(),
            body: Body::default(),
        }
    }

    /// Replaces the reason phrase.
    pub fn reason(mut self, phrase: impl Into<String>) -> Self {
        self.reason = Some(phrase.into());
        self
    }

    /// Tag for To; unused when the request's To has one already. Mandatory for every other response but 100.
    pub fn to_tag(mut self, tag: impl Into<String>) -> Self {
        self.to_tag = Some(tag.into());
        self
    }

    /// Adds `received` and `rport` to the top Via, as the server that received the request must (RFC 3261 §18.2.1, RFC 3581 §4).
    pub fn stamp_via(mut self, stamp: ViaStamp) -> Self {
        self.stamp = stamp;
        self
    }

    /// Adds a field behind the copied ones.
    pub fn header<'n>(mut self, name: impl Into<FieldName<'n>>, value: impl fmt::Display) -> Self {
        self.extra.field(name.into(), value);
        self
    }

    /// Adds a field whose value need not be UTF-8.
    pub fn header_bytes<'n>(mut self, name: impl Into<FieldName<'n>>, value: &[u8]) -> Self {
        self.extra.field_bytes(name.into(), value);
        self
    }

    /// Sets the body.
    pub fn body(mut self, content_type: impl Into<String>, content: impl Into<Bytes>) -> Self {
        self.body = Body {
            content_type: content_type.into(),
            content: content.into(),
        };
        self
    }

    /// The whole message.
    ///
    /// # Errors
    /// The first mistake made while building, or [`WriteError::NoToTag`].
    pub fn build(self) -> Result<Bytes, WriteError> {
        let request = self.request;
        let mut head = Head::default();
        // What is copied out of the request, and at most the tag, the stamp and the status line besides.
        let copied = request.bytes().len() - request.body().len();
        let room = copied + self.extra.len() + self.body.content.len() + 128;
        status_line(&mut head, self.status, self.reason.as_deref(), room);
        head.vias(request.lines(HeaderName::Via), &self.stamp);
        if self.forms_dialog() {
            copy(&mut head, request, HeaderName::RecordRoute);
        }
        copy(&mut head, request, HeaderName::From);
        let to = request.line(HeaderName::To).unwrap_or_default();
        match (&self.to_tag, request.to_tag()) {
            (_, Some(_)) => head.field_bytes(HeaderName::To.into(), to),
            (Some(tag), None) => head.tagged(to, tag),
            (None, None) if self.status == StatusCode::TRYING => head.field_bytes(HeaderName::To.into(), to),
            (None, None) => return Err(WriteError::NoToTag),
        }
        copy(&mut head, request, HeaderName::CallId);
        copy(&mut head, request, HeaderName::CSeq);
        if self.status == StatusCode::TRYING {
            copy(&mut head, request, HeaderName::Timestamp);
        }
        head.append(self.extra);
        head.body(&self.body);
        head.finish()
    }

    fn forms_dialog(&self) -> bool {
        self.request.method().creates_dialog() && matches!(self.status.as_u16(), 101..=299)
    }
}

impl BadRequest {
    /// The response this request deserves. Whatever of Via, From, To, Call-ID and CSeq was there is copied as it stands, the
    /// first of each where only one is allowed; `to_tag` goes into a To that can be read and has none; `source` is where the
    /// request came from, for `received` and `rport`.
    ///
    /// # Errors
    /// [`WriteError::LineBreak`] when `to_tag` holds one.
    pub fn response(&self, to_tag: &str, source: SocketAddr) -> Result<Bytes, WriteError> {
        let mut head = Head::default();
        status_line(&mut head, self.status(), Some(self.reason()), 1024);
        let stamp = ViaStamp::for_source(&self.top_via(), source);
        head.vias(self.lines(HeaderName::Via), &stamp);
        let first = |name| self.lines(name).next();
        if let Some(from) = first(HeaderName::From) {
            head.field_bytes(HeaderName::From.into(), from);
        }
        match first(HeaderName::To).map(|to| (to, NameAddr::parse(to))) {
            Some((to, Ok(address))) if address.tag().is_none() => head.tagged(to, to_tag),
            Some((to, _)) => head.field_bytes(HeaderName::To.into(), to),
            None => {}
        }
        for name in [HeaderName::CallId, HeaderName::CSeq] {
            if let Some(value) = first(name) {
                head.field_bytes(name.into(), value);
            }
        }
        head.body(&Body::default());
        head.finish()
    }
}

/// The ACK for a failure response, 300 to 699 (RFC 3261 §17.1.1.3): everything from the INVITE as it was sent, only To from the
/// response, and the INVITE's top Via alone.
pub fn ack_for_failure(invite: &Request, response: &Response) -> RequestBuilder {
    let to = response.line(HeaderName::To).unwrap_or_default();
    hop_by_hop(Method::Ack, invite, to)
}

/// The CANCEL for a request as it was sent (RFC 3261 §9.1). Add a Reason (RFC 3326) before building if there is one.
pub fn cancel_for(request: &Request) -> RequestBuilder {
    let to = request.line(HeaderName::To).unwrap_or_default();
    hop_by_hop(Method::Cancel, request, to)
}

fn hop_by_hop(method: Method, sent: &Request, to: &[u8]) -> RequestBuilder {
    let mut builder = RequestBuilder::new(&method, sent.uri_text());
    let head = &mut builder.head;
    head.field_bytes(
        HeaderName::Via.into(),
        sent.values(HeaderName::Via).next().unwrap_or_default(),
    );
    head.field(HeaderName::MaxForwards.into(), INITIAL_MAX_FORWARDS);
    copy(head, sent, HeaderName::Route);
    copy(head, sent, HeaderName::From);
    head.field_bytes(HeaderName::To.into(), to);
    copy(head, sent, HeaderName::CallId);
    head.field(HeaderName::CSeq.into(), format_args!("{} {method}", sent.cseq_number()));
    builder
}

fn copy(head: &mut Head, request: &Request, name: HeaderName) {
    for value in request.lines(name) {
        head.copied(name, value);
    }
}

fn status_line(head: &mut Head, status: StatusCode, reason: Option<&str>, room: usize) {
    head.start_response(status, reason.unwrap_or(status.phrase()), room);
}

impl Head {
    /// Via lines, with `stamp` on the first value.
    fn vias<'v>(&mut self, lines: impl Iterator<Item = &'v [u8]>, stamp: &ViaStamp) {
        for (index, line) in lines.enumerate() {
            if index > 0 || stamp.is_empty() {
                self.copied(HeaderName::Via, line);
                continue;
            }
            self.stamped_vias(line, stamp);
        }
    }
}
