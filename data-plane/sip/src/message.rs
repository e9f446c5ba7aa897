//! Parsed messages: one reference-counted buffer, a table of 16-bit ranges into it, typed values on demand.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use crate::header::{CSeq, Contact, FieldName, HeaderError, HeaderName, NameAddr, Reason, TypedHeader, Via};
use crate::method::Method;
use crate::parse::SyntaxError;
use crate::parse::scan::CommaSplit;
use crate::status::StatusCode;
use crate::uri::Uri;

mod bad_request;
mod table;
#[cfg(test)]
mod tests;

pub use bad_request::BadRequest;
pub(crate) use table::{Entry, Range, Table};

/// An understood message. Dereferences to [`Fields`], what requests and responses have in common.
#[derive(Clone)]
pub enum Message {
    /// RFC 3261 §7.1
    Request(Request),
    /// RFC 3261 §7.2
    Response(Response),
}

/// An understood request. Cloning shares the buffer.
#[derive(Clone)]
pub struct Request {
    method: Method,
    uri: Range,
    fields: Fields,
}

/// An understood response. Cloning shares the buffer.
#[derive(Clone)]
pub struct Response {
    status: StatusCode,
    reason: Range,
    fields: Fields,
}

/// Header fields and body.
///
/// What [`crate::parse::parse`] checked is infallible here: Call-ID, CSeq, From, To, tags, top Via, Max-Forwards. The rest is
/// parsed when asked for and returns a [`HeaderError`] naming the field.
#[derive(Clone)]
pub struct Fields {
    bytes: Bytes,
    table: Table,
    body: Range,
    core: Core,
}

/// What the parser keeps so that transaction and dialog matching never parse again.
#[derive(Clone)]
pub(crate) struct Core {
    pub(crate) branch: Option<Range>,
    pub(crate) call_id: Range,
    pub(crate) from_tag: Option<Range>,
    pub(crate) to_tag: Option<Range>,
    pub(crate) cseq: CSeq,
    pub(crate) max_forwards: Option<u8>,
}

/// One header field as received.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    /// Known name, or the text.
    pub name: FieldName<'a>,
    /// Value without surrounding white space; may hold folds and 8-bit text.
    pub value: &'a [u8],
}

impl Message {
    /// The request, if it is one.
    pub fn request(&self) -> Option<&Request> {
        match self {
            Self::Request(request) => Some(request),
            Self::Response(_) => None,
        }
    }

    /// The response, if it is one.
    pub fn response(&self) -> Option<&Response> {
        match self {
            Self::Request(_) => None,
            Self::Response(response) => Some(response),
        }
    }
}

impl Request {
    pub(crate) fn new(method: Method, uri: Range, fields: Fields) -> Self {
        Self { method, uri, fields }
    }

    /// Method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Request-URI.
    pub fn uri(&self) -> Uri<'_> {
        Uri::parse(self.uri_text().as_bytes()).expect("the parser checked the Request-URI")
    }

    /// Request-URI as received.
    pub fn uri_text(&self) -> &str {
        self.fields.text(self.uri)
    }
}

impl Response {
    pub(crate) fn new(status: StatusCode, reason: Range, fields: Fields) -> Self {
        Self { status, reason, fields }
    }

    /// Status code.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Reason phrase as received; may be empty or 8-bit text.
    pub fn reason_phrase(&self) -> &[u8] {
        self.reason.of(&self.fields.bytes)
    }
}

impl Deref for Message {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        match self {
            Self::Request(request) => &request.fields,
            Self::Response(response) => &response.fields,
        }
    }
}

impl Deref for Request {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.fields
    }
}

impl Deref for Response {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.fields
    }
}

impl From<Request> for Message {
    fn from(request: Request) -> Self {
        Self::Request(request)
    }
}

impl From<Response> for Message {
    fn from(response: Response) -> Self {
        Self::Response(response)
    }
}

impl Fields {
    pub(crate) fn new(bytes: Bytes, table: Table, body: Range, core: Core) -> Self {
        Self {
            bytes,
            table,
            body,
            core,
        }
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// The message as received, from the start line to the end of the body (and anything a datagram held behind it).
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Shares `part`, a slice of this message, without copying.
    ///
    /// # Panics
    /// When `part` does not lie in this message.
    pub fn share(&self, part: &[u8]) -> Bytes {
        self.bytes.slice_ref(part)
    }

    fn text(&self, range: Range) -> &str {
        std::str::from_utf8(range.of(&self.bytes)).expect("the parser checked that this range is UTF-8")
    }

    /// Call-ID.
    pub fn call_id(&self) -> &str {
        self.text(self.core.call_id)
    }

    /// CSeq number.
    pub fn cseq_number(&self) -> u32 {
        self.core.cseq.number
    }

    /// CSeq method; in a response the method of the request it answers.
    pub fn cseq_method(&self) -> &Method {
        &self.core.cseq.method
    }

    /// Tag of From; `None` only from RFC 2543 elements.
    pub fn from_tag(&self) -> Option<&str> {
        self.core.from_tag.map(|range| self.text(range))
    }

    /// Tag of To.
    pub fn to_tag(&self) -> Option<&str> {
        self.core.to_tag.map(|range| self.text(range))
    }

    /// Branch of the top Via, whoever made it; see [`Via::unique_branch`].
    pub fn branch(&self) -> Option<&str> {
        self.core.branch.map(|range| self.text(range))
    }

    /// Max-Forwards, 0..=255.
    pub fn max_forwards(&self) -> Option<u8> {
        self.core.max_forwards
    }

    /// From.
    pub fn from(&self) -> NameAddr<'_> {
        self.checked(HeaderName::From, NameAddr::parse)
    }

    /// To.
    pub fn to(&self) -> NameAddr<'_> {
        self.checked(HeaderName::To, NameAddr::parse)
    }

    /// Top Via.
    pub fn top_via(&self) -> Via<'_> {
        self.checked(HeaderName::Via, Via::parse)
    }

    fn checked<'a, T>(&'a self, name: HeaderName, parse: impl Fn(&'a [u8]) -> Result<T, SyntaxError>) -> T {
        let value = self
            .values(name)
            .next()
            .expect("the parser checked that this field is there");
        parse(value).expect("the parser checked this value")
    }

    /// Every field in order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.table.iter().map(|entry| Field {
            name: match entry.name() {
                HeaderName::Other => FieldName::Text(self.text(entry.name_range())),
                known => FieldName::Known(known),
            },
            value: entry.value().of(&self.bytes),
        })
    }

    /// Values of all lines of a field, in order, lists not split.
    pub fn lines<'a>(&'a self, name: impl Into<FieldName<'a>>) -> impl Iterator<Item = &'a [u8]> {
        let name = name.into();
        self.table
            .iter()
            .filter(move |entry| entry.is(name, &self.bytes))
            .map(|entry| entry.value().of(&self.bytes))
    }

    /// Value of the first line of a field, list not split.
    pub fn line<'a>(&'a self, name: impl Into<FieldName<'a>>) -> Option<&'a [u8]> {
        self.lines(name).next()
    }

    /// As [`Fields::line`], if it is UTF-8.
    pub fn line_text<'a>(&'a self, name: impl Into<FieldName<'a>>) -> Option<&'a str> {
        std::str::from_utf8(self.line(name)?).ok()
    }

    /// Whether the field is there.
    pub fn contains<'a>(&'a self, name: impl Into<FieldName<'a>>) -> bool {
        self.line(name).is_some()
    }

    /// Single values of a list field over all its lines, split at commas outside quotes and `<>`. Not for fields whose
    /// grammar has other commas: Date, Authorization, Subject.
    pub fn values(&self, name: HeaderName) -> impl Iterator<Item = &[u8]> {
        self.lines(name).flat_map(CommaSplit::new)
    }

    /// First value of a typed field; `Ok(None)` when the field is absent.
    pub fn typed<'a, T: TypedHeader<'a>>(&'a self) -> Result<Option<T>, HeaderError> {
        let parse = |value| T::parse(value).map_err(|source| HeaderError::Malformed { name: T::NAME, source });
        self.line(T::NAME).map(parse).transpose()
    }

    /// All values of a typed list field (Via, Reason, Warning).
    pub fn typed_list<'a, T: TypedHeader<'a> + 'a>(&'a self) -> impl Iterator<Item = Result<T, HeaderError>> {
        self.values(T::NAME)
            .map(|value| T::parse(value).map_err(|source| HeaderError::Malformed { name: T::NAME, source }))
    }

    /// All Vias, top first; the first is always `Ok`.
    pub fn vias(&self) -> impl Iterator<Item = Result<Via<'_>, HeaderError>> {
        self.typed_list()
    }

    /// Addresses of any list field made of name-addrs: Route, Record-Route, Path, Service-Route, P-Asserted-Identity …
    pub fn addresses(&self, name: HeaderName) -> impl Iterator<Item = Result<NameAddr<'_>, HeaderError>> {
        let malformed = move |source| HeaderError::Malformed { name, source };
        self.values(name)
            .map(move |value| NameAddr::parse(value).map_err(malformed))
    }

    /// Contacts, `*` included.
    pub fn contacts(&self) -> impl Iterator<Item = Result<Contact<'_>, HeaderError>> {
        let malformed = |source| HeaderError::Malformed {
            name: HeaderName::Contact,
            source,
        };
        self.values(HeaderName::Contact)
            .map(move |value| Contact::parse(value).map_err(malformed))
    }

    /// Tokens of a field that lists tokens: Supported, Require, Proxy-Require, Unsupported, Allow. Items that are not tokens
    /// are skipped.
    pub fn tokens(&self, name: HeaderName) -> impl Iterator<Item = &str> {
        self.values(name).filter_map(crate::parse::scan::token_str)
    }

    /// Whether a token list names `token`, case-insensitively (option tags; RFC 3261 §7.3.1).
    pub fn has_token(&self, name: HeaderName, token: &str) -> bool {
        self.tokens(name).any(|one| one.eq_ignore_ascii_case(token))
    }

    /// Cause of the first Reason value with protocol Q.850, 1..=127 (RFC 3326 §2, RFC 6432). Malformed values are skipped.
    pub fn q850_cause(&self) -> Option<u8> {
        self.typed_list::<Reason<'_>>()
            .flatten()
            .find_map(|reason| reason.q850_cause())
    }

    /// Body, empty when there is none.
    pub fn body(&self) -> &[u8] {
        self.body.of(&self.bytes)
    }

    /// Body, sharing the buffer.
    pub fn body_bytes(&self) -> Bytes {
        self.bytes.slice(self.body.start()..self.body.end())
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(request) => request.fmt(f),
            Self::Response(response) => response.fmt(f),
        }
    }
}

impl fmt::Debug for Request {
    /// No header values: they hold credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} ({})", self.method, self.uri(), self.call_id())
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} ({})", self.status, self.cseq_method(), self.call_id())
    }
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: [{} bytes]", self.name.as_str(), self.value.len())
    }
}
