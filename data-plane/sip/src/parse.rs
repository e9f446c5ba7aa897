//! Bytes to messages, with three outcomes: understood, wrong but answerable, drop.
//!
//! Decisions where RFC 3261 leaves room or the field differs:
//!
//! - **Line ends are CRLF.** A bare CR, a bare LF or an unescaped NUL in the header section makes the message malformed: the next
//!   element might split the lines elsewhere, and a field we removed or checked could come back behind our back.
//! - **The start line is exact** (one space, nothing trailing). RFC 4475 §3.1.2.8-10 allow leniency; refusing is safer for a proxy.
//! - **Singletons are single.** A second Call-ID, CSeq, From, To, Max-Forwards or Content-Length is an error even when equal.
//! - **Text is UTF-8 where we interpret it** (URIs, parameters, tokens); elsewhere any 8-bit text passes untouched.
//! - Only what selects the owner is checked here: start line, top Via, From, To, Call-ID, CSeq, Max-Forwards, Content-Length.
//!   Everything else is parsed where it is used ([`crate::message::Fields::typed`]).
//! - Nothing recurses, so there is no nesting limit to set; counts and sizes are in [`Limits`].

use bytes::{Buf, Bytes};

use crate::header::{CSeq, HeaderName, MaxForwards, NameAddr, TypedHeader, Via};
use crate::message::{BadRequest, Core, Entry, Fields, Message, Range, Request, Response, Table};
use crate::method::Method;
use crate::status::StatusCode;
use crate::uri::Uri;

mod peek;
pub(crate) mod scan;
mod start;
#[cfg(test)]
pub(crate) mod tests;

pub use peek::{KeepAlive, keep_alive, peek_call_id};
use scan::{CommaSplit, decimal, next_comma, trim_lws};

/// Largest message that can be represented, in bytes; offsets into a message are 16-bit.
pub const MAX_MESSAGE_SIZE: usize = 65_535;

/// What a value was expected to hold, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} at byte {at}")]
pub struct SyntaxError {
    pub(crate) expected: &'static str,
    pub(crate) at: usize,
}

/// Bounds on what is accepted. A request beyond them is answered (400, 414 or 513), a response is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole message, at most [`MAX_MESSAGE_SIZE`].
    pub message: usize,
    /// Bytes of the start line without CRLF; a longer Request-URI gives 414.
    pub start_line: usize,
    /// Header fields (lines, folds not counted).
    pub headers: usize,
    /// Bytes of one header field with its folds.
    pub header_line: usize,
    /// Via values over all Via lines.
    pub vias: usize,
}

impl Default for Limits {
    /// Wide enough for every message of RFC 4475 and for Identity headers with full PASSporTs.
    fn default() -> Self {
        Self {
            message: MAX_MESSAGE_SIZE,
            start_line: 8_192,
            headers: 256,
            header_line: 8_192,
            vias: 70,
        }
    }
}

/// Where the bytes came from, which decides what Content-Length means (RFC 3261 §18.3, §20.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// One datagram: Content-Length may be absent (body runs to the end), bytes behind the body are ignored.
    Datagram,
    /// Cut out of a TCP or TLS stream by [`crate::stream::Framer`]: Content-Length is mandatory.
    Stream,
}

/// Outcome of [`parse`].
#[derive(Debug)]
pub enum Parsed {
    /// A message whose routing headers are all valid.
    Understood(Message),
    /// A request that is wrong, but says enough to send it a response.
    Answerable(BadRequest),
    /// Nothing to be done with it but count it.
    Drop(DropReason),
}

/// Why bytes were dropped without an answer. Fit for a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DropReason {
    /// Nothing but CR, LF or NUL; see [`keep_alive`].
    #[error("keep-alive")]
    KeepAlive,
    /// No SIP start line.
    #[error("not SIP")]
    NotSip,
    /// Larger than [`MAX_MESSAGE_SIZE`].
    #[error("too large")]
    TooLarge,
    /// A response with an error in it; responses are never answered.
    #[error("malformed response")]
    MalformedResponse,
    /// An ACK with an error in it; ACKs are never answered (RFC 3261 §17).
    #[error("malformed ACK")]
    MalformedAck,
    /// A wrong request whose top Via cannot be read: no way back.
    #[error("request without a usable Via")]
    NoVia,
}

impl DropReason {
    /// Stable name for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep_alive",
            Self::NotSip => "not_sip",
            Self::TooLarge => "too_large",
            Self::MalformedResponse => "malformed_response",
            Self::MalformedAck => "malformed_ack",
            Self::NoVia => "no_via",
        }
    }
}

/// Parses one message. Never panics and never copies message text; leading CRLFs are skipped (RFC 3261 §7.5).
pub fn parse(mut bytes: Bytes, framing: Framing, limits: &Limits) -> Parsed {
    while bytes.first().is_some_and(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        bytes.advance(1);
    }
    if bytes.is_empty() {
        return Parsed::Drop(DropReason::KeepAlive);
    }
    if bytes.len() > MAX_MESSAGE_SIZE {
        return Parsed::Drop(DropReason::TooLarge);
    }
    let mut fault = Fault::default();
    let Some(start) = start::parse(&bytes, limits, &mut fault) else {
        return Parsed::Drop(DropReason::NotSip);
    };
    if bytes.len() > limits.message {
        fault.set(StatusCode::MESSAGE_TOO_LARGE, "Message Too Large");
    }
    let section = Section::parse(&bytes, start.end, limits, &mut fault);
    let core = section.core(&bytes, &start.line, limits, &mut fault);
    let body = section.body(&bytes, framing, limits, &mut fault);
    match (start.line, fault.found, core) {
        (start::Line::Request { method, uri }, None, Some(core)) => {
            let fields = Fields::new(bytes, section.table, body, core);
            Parsed::Understood(Message::Request(Request::new(method, uri, fields)))
        }
        (start::Line::Response { status, reason }, None, Some(core)) => {
            let fields = Fields::new(bytes, section.table, body, core);
            Parsed::Understood(Message::Response(Response::new(status, reason, fields)))
        }
        (start::Line::Response { .. }, ..) => Parsed::Drop(DropReason::MalformedResponse),
        (
            start::Line::Request {
                method: Method::Ack, ..
            },
            ..,
        ) => Parsed::Drop(DropReason::MalformedAck),
        (start::Line::Request { method, .. }, found, _) => {
            let (status, reason) = found.unwrap_or((StatusCode::BAD_REQUEST, "Bad Request"));
            match section.top_via_value(&bytes).map(Via::parse_sent_by) {
                Some(Ok(_)) => Parsed::Answerable(BadRequest::new(status, reason, method, bytes, section.table)),
                _ => Parsed::Drop(DropReason::NoVia),
            }
        }
    }
}

/// First thing found wrong; later findings are consequences more often than causes.
#[derive(Default)]
pub(crate) struct Fault {
    found: Option<(StatusCode, &'static str)>,
}

impl Fault {
    pub(crate) fn set(&mut self, status: StatusCode, reason: &'static str) {
        self.found.get_or_insert((status, reason));
    }

    pub(crate) fn bad(&mut self, reason: &'static str) {
        self.set(StatusCode::BAD_REQUEST, reason);
    }
}

/// The header section as lines, and where the body starts.
struct Section {
    table: Table,
    end: usize,
}

impl Section {
    fn parse(bytes: &[u8], start: usize, limits: &Limits, fault: &mut Fault) -> Self {
        let mut table = Table::new();
        let mut at = start;
        loop {
            let Some(line_end) = memchr::memchr(b'\n', &bytes[at..]).map(|lf| at + lf) else {
                fault.bad("Truncated Header Section");
                return Self {
                    table,
                    end: bytes.len(),
                };
            };
            if &bytes[at..line_end] == b"\r" || at == line_end {
                if at == line_end {
                    fault.bad("Bare LF In Header Section");
                }
                return Self {
                    table,
                    end: line_end + 1,
                };
            }
            let end = fold_end(bytes, line_end);
            match Entry::parse(bytes, at, end, limits) {
                Ok(entry) if table.len() < limits.headers => table.push(entry),
                Ok(_) => fault.bad("Too Many Header Fields"),
                Err(reason) => fault.bad(reason),
            }
            at = end;
        }
    }

    fn values(&self, name: HeaderName) -> impl Iterator<Item = &Entry> {
        self.table.iter().filter(move |entry| entry.name() == name)
    }

    fn top_via_value<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let line = self.values(HeaderName::Via).next()?.value().of(bytes);
        Some(CommaSplit::new(line).next().unwrap_or(line))
    }

    /// The value of a field that may stand once.
    fn single<'a>(
        &self,
        bytes: &'a [u8],
        name: HeaderName,
        fault: &mut Fault,
        twice: &'static str,
    ) -> Option<&'a [u8]> {
        let mut values = self.values(name);
        let first = values.next()?;
        if values.next().is_some() {
            fault.bad(twice);
        }
        Some(first.value().of(bytes))
    }

    /// Checks and remembers what every message needs to find its transaction and dialog.
    fn core(&self, bytes: &[u8], line: &start::Line, limits: &Limits, fault: &mut Fault) -> Option<Core> {
        let via = match self.top_via_value(bytes).map(Via::parse) {
            Some(Ok(via)) => Some(via),
            Some(Err(_)) => {
                fault.bad("Malformed Via");
                None
            }
            None => {
                fault.bad("Missing Via");
                None
            }
        };
        let vias: usize = self
            .values(HeaderName::Via)
            .map(|entry| count_values(entry.value().of(bytes), limits.vias))
            .sum();
        if vias > limits.vias {
            fault.bad("Too Many Via Values");
        }
        let from = self.address(
            bytes,
            HeaderName::From,
            fault,
            ["Missing From", "Malformed From", "Several From"],
        );
        let to = self.address(
            bytes,
            HeaderName::To,
            fault,
            ["Missing To", "Malformed To", "Several To"],
        );
        let call_id = self.single(bytes, HeaderName::CallId, fault, "Several Call-ID");
        if call_id.is_none() {
            fault.bad("Missing Call-ID");
        }
        let call_id = call_id.filter(|id| !id.is_empty() && id.iter().all(|b| matches!(b, 0x21..=0x7e)));
        if call_id.is_none() {
            fault.bad("Malformed Call-ID");
        }
        let cseq = match self
            .single(bytes, HeaderName::CSeq, fault, "Several CSeq")
            .map(CSeq::parse)
        {
            Some(Ok(cseq)) => Some(cseq),
            Some(Err(_)) => {
                fault.bad("Malformed CSeq");
                None
            }
            None => {
                fault.bad("Missing CSeq");
                None
            }
        };
        if let (start::Line::Request { method, .. }, Some(cseq)) = (line, &cseq)
            && *method != cseq.method
        {
            fault.bad("CSeq Method Differs From Request Method");
        }
        let hops = self
            .single(bytes, HeaderName::MaxForwards, fault, "Several Max-Forwards")
            .map(MaxForwards::parse);
        if matches!(hops, Some(Err(_))) {
            fault.bad("Malformed Max-Forwards");
        }
        Some(Core {
            branch: via?.branch().map(|branch| Range::find(bytes, branch.as_bytes())),
            call_id: Range::find(bytes, call_id?),
            from_tag: from?.tag().map(|tag| Range::find(bytes, tag.as_bytes())),
            to_tag: to?.tag().map(|tag| Range::find(bytes, tag.as_bytes())),
            cseq: cseq?,
            max_forwards: hops.and_then(Result::ok).map(|hops| hops.0),
        })
    }

    fn address<'a>(
        &self,
        bytes: &'a [u8],
        name: HeaderName,
        fault: &mut Fault,
        [missing, malformed, several]: [&'static str; 3],
    ) -> Option<NameAddr<'a>> {
        match self.single(bytes, name, fault, several).map(NameAddr::parse) {
            Some(Ok(address)) => return Some(address),
            Some(Err(_)) => fault.bad(malformed),
            None => fault.bad(missing),
        }
        None
    }

    /// RFC 3261 §18.3: what Content-Length says must be there; what a datagram holds beyond it is discarded.
    fn body(&self, bytes: &[u8], framing: Framing, limits: &Limits, fault: &mut Fault) -> Range {
        let rest = bytes.len() - self.end;
        let length = match self.single(bytes, HeaderName::ContentLength, fault, "Several Content-Length") {
            None => {
                if framing == Framing::Stream {
                    fault.bad("Missing Content-Length");
                }
                rest
            }
            Some(value) => match decimal(value).map(|length| length as usize) {
                Some(length) if length <= rest => length,
                Some(length) if framing == Framing::Stream && self.end.saturating_add(length) > limits.message => {
                    fault.set(StatusCode::MESSAGE_TOO_LARGE, "Message Too Large");
                    rest
                }
                Some(_) => {
                    fault.bad("Body Shorter Than Content-Length");
                    rest
                }
                None => {
                    fault.bad("Malformed Content-Length");
                    rest
                }
            },
        };
        Range::new(self.end, self.end + length)
    }
}

/// End of the line that starts before `lf`, with the lines folded onto it (RFC 3261 §7.3.1).
pub(crate) fn fold_end(bytes: &[u8], mut lf: usize) -> usize {
    while bytes.get(lf + 1).is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
        match memchr::memchr(b'\n', &bytes[lf + 1..]) {
            Some(next) => lf = lf + 1 + next,
            None => break,
        }
    }
    lf + 1
}

/// Values in one line, counted no further than one past `limit`.
fn count_values(mut list: &[u8], limit: usize) -> usize {
    let mut count = 1;
    while count <= limit
        && let Some(comma) = next_comma(list)
    {
        count += 1;
        list = &list[comma + 1..];
    }
    count
}

impl Entry {
    /// Reads `name HCOLON value CRLF` from `bytes[start..end]`, where `end` is behind the LF.
    fn parse(bytes: &[u8], start: usize, end: usize, limits: &Limits) -> Result<Self, &'static str> {
        let line = &bytes[start..end];
        if line.len() > limits.header_line {
            return Err("Header Field Too Long");
        }
        check_line_breaks(line)?;
        let colon = memchr::memchr(b':', line).ok_or("Header Field Without Colon")?;
        let name = line[..colon].trim_ascii_end();
        if name.len() > usize::from(u8::MAX) || scan::token_str(name).is_none() {
            return Err("Malformed Header Field Name");
        }
        let value = trim_lws(&line[colon + 1..]);
        let value_start = if value.is_empty() {
            end - 2
        } else {
            Range::find(bytes, value).start()
        };
        Ok(Self::new(
            HeaderName::lookup(name),
            start,
            name.len(),
            Range::new(value_start, value_start + value.len()),
            end,
        ))
    }
}

/// Every CR is followed by LF and every LF follows a CR; inside the line such a pair is followed by white space by
/// construction of the fold. NUL may stand only behind a backslash (RFC 4475 §3.1.1.2).
fn check_line_breaks(line: &[u8]) -> Result<(), &'static str> {
    // A line as almost all are: CRLF at its end and none of the three before.
    if let [text @ .., b'\r', b'\n'] = line
        && memchr::memchr3(b'\r', b'\n', 0, text).is_none()
    {
        return Ok(());
    }
    for at in memchr::memchr3_iter(b'\r', b'\n', 0, line) {
        match line[at] {
            b'\r' if line.get(at + 1) != Some(&b'\n') => return Err("Bare CR In Header Section"),
            b'\n' if at == 0 || line[at - 1] != b'\r' => return Err("Bare LF In Header Section"),
            0 if at == 0 || line[at - 1] != b'\\' => return Err("NUL In Header Section"),
            _ => {}
        }
    }
    Ok(())
}

/// A Request-URI: any valid URI, but no SIP URI with headers (RFC 3261 §19.1.1 table 1).
fn is_request_uri(text: &[u8]) -> bool {
    Uri::parse(text).is_ok_and(|uri| uri.sip().is_none_or(|sip| sip.headers().is_none()))
}
