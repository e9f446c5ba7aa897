//! The Session Description Protocol (RFC 8866): a zero-copy parser, typed access and a writer.
//!
//! [`parse`] reads a body into a [`SessionDescription`] that borrows it, keeps every line in its order (those
//! nobody here understands too) and reads the lines an offer/answer exchange needs into types. Attributes are
//! read when asked for ([`Attribute::typed`]): most are never looked at.
//!
//! It is lenient where phones are known to differ and where being strict protects nobody: bare LF line ends,
//! blank lines, session lines out of order, missing `s=` and `t=`, unknown line types (RFC 8866 §5 would have the
//! whole description ignored). It is strict on what could smuggle a line into a rewritten body (NUL and lone CR)
//! and on size: see the `MAX_` constants.
//!
//! A body is *understood* (`Ok`), *answerable* (it is SDP and wrong, the request that carried it deserves an error
//! response) or to be *dropped* (not SDP, or over a limit: nothing of it should be quoted or looked at again);
//! [`SdpError::is_answerable`] tells the last two apart.

mod attribute;
mod write;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str;

use memchr::memchr;
use smallvec::SmallVec;

pub use attribute::{
    Attribute, Candidate, Direction, ExtMap, Fingerprint, Fmtp, Group, Rtcp, RtcpFeedback, RtpMap, Setup, Ssrc,
    TypedAttribute,
};
pub(crate) use write::ConnectionValue;
pub use write::Writer;

/// The largest body [`parse`] reads, in octets.
pub const MAX_SIZE: usize = 32 * 1024;
/// The most lines in a body.
pub const MAX_LINES: usize = 1024;
/// The longest line, in octets without its line end.
pub const MAX_LINE_LENGTH: usize = 4096;
/// The most `m=` sections.
pub const MAX_MEDIA: usize = 16;
/// The most `a=` lines in the session section or in one media section.
pub const MAX_ATTRIBUTES: usize = 256;
/// The most formats on one `m=` line.
pub const MAX_FORMATS: usize = 64;

/// Why a body was not understood. Line numbers count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// It does not begin with `v=0` (RFC 8866 §5.1).
    #[error("the body does not begin with v=0")]
    NotSdp,
    /// One of the `MAX_` limits is exceeded.
    #[error("the body exceeds the limit on {0}")]
    TooLarge(Limit),
    /// A line is not `<letter>=<value>`, or holds NUL or a lone CR (RFC 8866 §9).
    #[error("line {line} is not <letter>=<value>")]
    Line {
        /// The line's number.
        line: usize,
    },
    /// A line the edge must understand has a value it cannot.
    #[error("line {line}: invalid {field}= value")]
    Value {
        /// The line's number.
        line: usize,
        /// The line's letter.
        field: char,
    },
    /// There is no `o=` line (RFC 8866 §5.2).
    #[error("no o= line")]
    MissingOrigin,
    /// An `a=` line that was asked for in its typed form does not follow its grammar.
    #[error("invalid value of attribute {name}")]
    Attribute {
        /// The attribute's registered name.
        name: &'static str,
    },
}

impl SdpError {
    /// True when the sender evidently speaks SDP and deserves to be told; false when the body is not SDP or
    /// exceeds a limit and should be dropped unread.
    pub const fn is_answerable(&self) -> bool {
        match self {
            SdpError::NotSdp | SdpError::TooLarge(_) => false,
            SdpError::Line { .. } | SdpError::Value { .. } | SdpError::MissingOrigin | SdpError::Attribute { .. } => {
                true
            }
        }
    }
}

/// What there was too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Octets in the body: [`MAX_SIZE`].
    Size,
    /// Lines in the body: [`MAX_LINES`].
    Lines,
    /// Octets in a line: [`MAX_LINE_LENGTH`].
    LineLength,
    /// Media sections: [`MAX_MEDIA`].
    Media,
    /// Attributes in a section: [`MAX_ATTRIBUTES`].
    Attributes,
    /// Formats of an `m=` line: [`MAX_FORMATS`].
    Formats,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Size => "size",
            Limit::Lines => "lines",
            Limit::LineLength => "line length",
            Limit::Media => "media sections",
            Limit::Attributes => "attributes",
            Limit::Formats => "formats",
        })
    }
}

/// One line, `<kind>=<value>`, without its line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The letter before `=`, an ASCII graphic character.
    pub kind: u8,
    /// What follows `=`: octets without CR, LF and NUL, in whatever character set the sender uses.
    pub value: &'a [u8],
}

impl<'a> Line<'a> {
    /// The value as UTF-8; `None` when it is not.
    pub fn text(&self) -> Option<&'a str> {
        str::from_utf8(self.value).ok()
    }
}

/// A parsed body. It borrows the octets it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionDescription<'a> {
    lines: Vec<Line<'a>>,
    /// The session section is `lines[..session_end]`.
    session_end: usize,
    origin: Origin<'a>,
    connection: Option<Connection<'a>>,
    media: SmallVec<[MediaDescription<'a>; 2]>,
}

impl<'a> SessionDescription<'a> {
    /// Every line in the order it came.
    pub fn lines(&self) -> &[Line<'a>] {
        &self.lines
    }

    /// The lines before the first `m=`.
    pub fn session_lines(&self) -> &[Line<'a>] {
        &self.lines[..self.session_end]
    }

    /// The `o=` line.
    pub fn origin(&self) -> &Origin<'a> {
        &self.origin
    }

    /// The session-level `c=` line.
    pub fn connection(&self) -> Option<&Connection<'a>> {
        self.connection.as_ref()
    }

    /// The media sections in order.
    pub fn media(&self) -> &[MediaDescription<'a>] {
        &self.media
    }

    /// The lines of a media section after its `m=` line; empty for an index out of range.
    pub fn media_lines(&self, index: usize) -> &[Line<'a>] {
        let Some(media) = self.media.get(index) else { return &[] };
        &self.lines[media.first_line..media.end_line]
    }

    /// The `c=` line that holds for a media section: its own, otherwise the session's (RFC 8866 §5.7).
    pub fn connection_for(&self, index: usize) -> Option<&Connection<'a>> {
        self.media.get(index)?.connection.as_ref().or(self.connection.as_ref())
    }

    /// The session-level attributes in order.
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + '_ {
        attributes(self.session_lines())
    }

    /// The attributes of a media section in order; none for an index out of range.
    pub fn media_attributes(&self, index: usize) -> impl Iterator<Item = Attribute<'a>> + '_ {
        attributes(self.media_lines(index))
    }

    /// The direction of a media section: its own attribute, otherwise the session's, otherwise `sendrecv`
    /// (RFC 8866 §6.7). The last one wins where a section has several.
    pub fn direction(&self, index: usize) -> Direction {
        let of = |lines| {
            attributes(lines)
                .filter_map(|attribute| Direction::from_name(attribute.name))
                .last()
        };
        of(self.media_lines(index))
            .or_else(|| of(self.session_lines()))
            .unwrap_or(Direction::SendRecv)
    }

    /// The `b=` lines of the session section, or of a media section, as written after `b=`.
    pub fn bandwidth(&self, index: Option<usize>) -> impl Iterator<Item = &'a str> + '_ {
        let lines = index.map_or(self.session_lines(), |index| self.media_lines(index));
        lines.iter().filter(|line| line.kind == b'b').filter_map(Line::text)
    }

    /// Writes every line again, with CRLF line ends.
    pub fn to_bytes(&self) -> bytes::Bytes {
        let mut writer = Writer::default();
        for line in &self.lines {
            writer.raw(line.kind, line.value);
        }
        writer.finish()
    }
}

fn attributes<'a, 'l>(lines: &'l [Line<'a>]) -> impl Iterator<Item = Attribute<'a>> + use<'a, 'l> {
    lines
        .iter()
        .filter(|line| line.kind == b'a')
        .filter_map(|line| line.text().map(Attribute::from_text))
}

/// The `o=` line (RFC 8866 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The user's login or `-`.
    pub username: &'a str,
    /// The session id: digits by the grammar, any token in practice, and wider than 64 bits with some senders.
    pub session_id: &'a str,
    /// The session version; comparable only for equality, for the same reason.
    pub session_version: &'a str,
    /// The address the session was created at, which nothing is ever sent to.
    pub address: &'a str,
}

/// A connection address as the wire names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host<'a> {
    /// An address literal.
    Ip(IpAddr),
    /// A name. The edge resolves none on the signalling path.
    Name(&'a str),
}

/// The `c=` line (RFC 8866 §5.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection<'a> {
    /// The address media is wanted at.
    pub host: Host<'a>,
}

impl Connection<'_> {
    /// The address literal, when it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.host {
            Host::Ip(ip) => Some(ip),
            Host::Name(_) => None,
        }
    }
}

/// The transport protocol of an `m=` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `RTP/AVP` (RFC 3551).
    RtpAvp,
    /// `RTP/SAVP` (RFC 3711).
    RtpSavp,
    /// `RTP/AVPF` (RFC 4585).
    RtpAvpf,
    /// `RTP/SAVPF` (RFC 5124).
    RtpSavpf,
    /// `UDP/TLS/RTP/SAVP` (RFC 5764): SRTP keyed by DTLS.
    DtlsSavp,
    /// `UDP/TLS/RTP/SAVPF` (RFC 5764).
    DtlsSavpf,
    /// Anything else: `udptl`, `TCP/…`, `UDP/BFCP`.
    Other,
}

impl Protocol {
    /// Reads the token, ignoring case.
    pub fn from_token(token: &str) -> Protocol {
        Protocol::NAMED
            .into_iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(token))
            .map_or(Protocol::Other, |(_, protocol)| protocol)
    }

    /// The registered spelling; `None` for [`Protocol::Other`].
    pub fn token(self) -> Option<&'static str> {
        Protocol::NAMED
            .into_iter()
            .find(|(_, protocol)| *protocol == self)
            .map(|(name, _)| name)
    }

    const NAMED: [(&'static str, Protocol); 6] = [
        ("RTP/AVP", Protocol::RtpAvp),
        ("RTP/SAVP", Protocol::RtpSavp),
        ("RTP/AVPF", Protocol::RtpAvpf),
        ("RTP/SAVPF", Protocol::RtpSavpf),
        ("UDP/TLS/RTP/SAVP", Protocol::DtlsSavp),
        ("UDP/TLS/RTP/SAVPF", Protocol::DtlsSavpf),
    ];
}

/// One media section: its `m=` line, its `c=` line, and where its other lines are (RFC 8866 §5.14).
#[derive(Debug, Clone, PartialEq)]
pub struct MediaDescription<'a> {
    /// The media type as written: `audio`, `video`, `image`, ….
    pub media: &'a str,
    /// The transport port; 0 refuses or removes the stream (RFC 3264 §5.1, §6, §8.2).
    pub port: u16,
    /// The number of ports, 1 unless written.
    pub port_count: u16,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The transport protocol as written, which a refusal repeats.
    pub protocol_text: &'a str,
    /// The formats as written; for RTP the payload types in order of preference. Never empty.
    pub formats: SmallVec<[&'a str; 12]>,
    /// The section's own `c=` line.
    pub connection: Option<Connection<'a>>,
    first_line: usize,
    end_line: usize,
}

impl MediaDescription<'_> {
    /// True for `m=audio`.
    pub fn is_audio(&self) -> bool {
        self.media.eq_ignore_ascii_case("audio")
    }
}

/// Where a media section wants its packets, from its `m=`, `c=` and `a=rtcp` lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaAddress {
    /// RTP.
    pub rtp: SocketAddr,
    /// RTCP: the next higher port unless `a=rtcp` names another (RFC 3550 §11, RFC 3605). Equal to
    /// [`MediaAddress::rtp`] only if the sender says so; multiplexing (RFC 5761) is negotiated apart.
    pub rtcp: SocketAddr,
}

impl SessionDescription<'_> {
    /// Where a media section wants its packets; `None` without a usable `c=` line (missing, or a name). An `a=rtcp`
    /// that breaks its grammar or names a host is left out of account: RTCP is not worth a call.
    pub fn media_address(&self, index: usize) -> Option<MediaAddress> {
        let media = self.media.get(index)?;
        let ip = self.connection_for(index).and_then(Connection::ip)?;
        let mut rtcp = SocketAddr::new(ip, media.port.saturating_add(1));
        for attribute in self.media_attributes(index).filter(|attribute| attribute.is("rtcp")) {
            if let Ok(TypedAttribute::Rtcp(value)) = attribute.typed()
                && let Host::Ip(rtcp_ip) = value.host.unwrap_or(Host::Ip(ip))
            {
                rtcp = SocketAddr::new(rtcp_ip, value.port);
            }
        }
        Some(MediaAddress {
            rtp: SocketAddr::new(ip, media.port),
            rtcp,
        })
    }
}

/// Reads a body.
///
/// # Errors
/// [`SdpError`]; see [`SdpError::is_answerable`] for what to do with the request that carried it.
pub fn parse(body: &[u8]) -> Result<SessionDescription<'_>, SdpError> {
    if body.len() > MAX_SIZE {
        return Err(SdpError::TooLarge(Limit::Size));
    }
    let lines = split_lines(body)?;
    let first = lines.first().map(|(_, line)| *line);
    if !first.is_some_and(|line| line.kind == b'v' && line.value.trim_ascii() == b"0") {
        return Err(SdpError::NotSdp);
    }
    let mut session = SessionParts::default();
    let mut attributes_in_section = 0;
    for (position, &(number, line)) in lines.iter().enumerate() {
        session.read(position, number, line)?;
        match line.kind {
            b'm' => attributes_in_section = 0,
            b'a' => {
                attributes_in_section += 1;
                if attributes_in_section > MAX_ATTRIBUTES {
                    return Err(SdpError::TooLarge(Limit::Attributes));
                }
            }
            _ => {}
        }
    }
    let SessionParts {
        origin,
        connection,
        mut media,
    } = session;
    let session_end = media.first().map_or(lines.len(), |first| first.first_line - 1);
    let mut end = lines.len();
    for section in media.iter_mut().rev() {
        section.end_line = end;
        end = section.first_line - 1;
    }
    Ok(SessionDescription {
        lines: lines.into_iter().map(|(_, line)| line).collect(),
        session_end,
        origin: origin.ok_or(SdpError::MissingOrigin)?,
        connection,
        media,
    })
}

/// What [`parse`] has collected so far.
#[derive(Default)]
struct SessionParts<'a> {
    origin: Option<Origin<'a>>,
    connection: Option<Connection<'a>>,
    media: SmallVec<[MediaDescription<'a>; 2]>,
}

impl<'a> SessionParts<'a> {
    fn read(&mut self, position: usize, number: usize, line: Line<'a>) -> Result<(), SdpError> {
        let invalid = SdpError::Value {
            line: number,
            field: char::from(line.kind),
        };
        match line.kind {
            b'o' if self.origin.is_none() => {
                self.origin = Some(line.text().and_then(parse_origin).ok_or(invalid)?);
            }
            b'c' => {
                let connection = line.text().and_then(parse_connection).ok_or(invalid)?;
                let slot = self
                    .media
                    .last_mut()
                    .map_or(&mut self.connection, |media| &mut media.connection);
                // Several c= lines in a section are layered multicast (RFC 8866 §5.7); the first is the base.
                slot.get_or_insert(connection);
            }
            b'm' => {
                if self.media.len() == MAX_MEDIA {
                    return Err(SdpError::TooLarge(Limit::Media));
                }
                self.media.push(
                    line.text()
                        .ok_or(invalid)
                        .and_then(|text| parse_media(text, position, invalid))?,
                );
            }
            _ => {}
        }
        Ok(())
    }
}

/// Splits a body into numbered lines. Blank lines count but do not appear.
fn split_lines(body: &[u8]) -> Result<Vec<(usize, Line<'_>)>, SdpError> {
    let mut lines = Vec::with_capacity(32);
    let mut rest = body;
    let mut number = 0;
    while !rest.is_empty() {
        number += 1;
        let (line, after) = match memchr(b'\n', rest) {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        rest = after;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if number > MAX_LINES {
            return Err(SdpError::TooLarge(Limit::Lines));
        }
        if line.len() > MAX_LINE_LENGTH {
            return Err(SdpError::TooLarge(Limit::LineLength));
        }
        match line {
            [] => {}
            [kind, b'=', value @ ..] if kind.is_ascii_graphic() && !value.iter().any(|&b| b == b'\r' || b == 0) => {
                lines.push((number, Line { kind: *kind, value }));
            }
            // Whatever does not begin as SDP is not SDP, whichever line-level rule it breaks first.
            _ if lines.is_empty() => return Err(SdpError::NotSdp),
            _ => return Err(SdpError::Line { line: number }),
        }
    }
    Ok(lines)
}

fn parse_origin(text: &str) -> Option<Origin<'_>> {
    let mut fields = text.split_ascii_whitespace();
    let origin = Origin {
        username: fields.next()?,
        session_id: fields.next()?,
        session_version: fields.next()?,
        address: {
            fields.next().filter(|net_type| net_type.eq_ignore_ascii_case("IN"))?;
            fields.next()?;
            fields.next()?
        },
    };
    fields.next().is_none().then_some(origin)
}

fn parse_connection(text: &str) -> Option<Connection<'_>> {
    let mut fields = text.split_ascii_whitespace();
    fields.next().filter(|net_type| net_type.eq_ignore_ascii_case("IN"))?;
    let connection = Connection {
        host: parse_host(fields.next()?, fields.next()?)?,
    };
    fields.next().is_none().then_some(connection)
}

/// Reads an address of the given address type. A multicast address may carry `/ttl/count`, which is cut off; the
/// type must fit a literal, or the sender's intent is unknowable.
pub(crate) fn parse_host<'a>(address_type: &str, address: &'a str) -> Option<Host<'a>> {
    let wants_v6 = match address_type {
        kind if kind.eq_ignore_ascii_case("IP4") => false,
        kind if kind.eq_ignore_ascii_case("IP6") => true,
        _ => return None,
    };
    let address = address.split('/').next()?;
    match address.parse::<IpAddr>() {
        Ok(ip) => (ip.is_ipv6() == wants_v6).then_some(Host::Ip(ip)),
        Err(_) => {
            let is_name = !address.is_empty()
                && address.len() <= 255
                && address
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
            is_name.then_some(Host::Name(address))
        }
    }
}

fn parse_media(text: &str, position: usize, invalid: SdpError) -> Result<MediaDescription<'_>, SdpError> {
    let mut fields = text.split_ascii_whitespace();
    let media = fields.next().ok_or(invalid)?;
    let port_field = fields.next().ok_or(invalid)?;
    let (port, port_count) = match port_field.split_once('/') {
        Some((port, count)) => (port, count.parse().ok().filter(|&count| count > 0).ok_or(invalid)?),
        None => (port_field, 1),
    };
    let port = port.parse().map_err(|_| invalid)?;
    let protocol_text = fields.next().ok_or(invalid)?;
    let mut formats = SmallVec::new();
    for format in fields {
        if formats.len() == MAX_FORMATS {
            return Err(SdpError::TooLarge(Limit::Formats));
        }
        formats.push(format);
    }
    if formats.is_empty() {
        return Err(invalid);
    }
    Ok(MediaDescription {
        media,
        port,
        port_count,
        protocol: Protocol::from_token(protocol_text),
        protocol_text,
        formats,
        connection: None,
        first_line: position + 1,
        end_line: position + 1,
    })
}
