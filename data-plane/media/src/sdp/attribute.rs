//! The attributes an offer/answer exchange over RTP meets, in types.

use std::net::IpAddr;

use super::{Host, SdpError, parse_host};

/// An `a=` line, split at its first colon (RFC 8866 §5.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// The name, case-sensitive by RFC 8866 §5.13; compare with [`Attribute::is`].
    pub name: &'a str,
    /// What follows the colon, without surrounding blanks; `None` for a property attribute.
    pub value: Option<&'a str>,
}

impl<'a> Attribute<'a> {
    /// Splits the text after `a=`.
    pub fn from_text(text: &'a str) -> Attribute<'a> {
        match text.split_once(':') {
            Some((name, value)) => Attribute {
                name: name.trim_ascii(),
                value: Some(value.trim_ascii()),
            },
            None => Attribute {
                name: text.trim_ascii(),
                value: None,
            },
        }
    }

    /// True when the attribute has this name. Case is ignored: no two names differ by it alone, and some phones
    /// write `a=SendRecv`.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// The attribute in its typed form, [`TypedAttribute::Other`] for names not known here.
    ///
    /// # Errors
    /// [`SdpError::Attribute`] when the name is known and the value breaks its grammar.
    pub fn typed(&self) -> Result<TypedAttribute<'a>, SdpError> {
        if let Some(direction) = Direction::from_name(self.name) {
            return Ok(TypedAttribute::Direction(direction));
        }
        let Some((name, read)) = READERS.iter().find(|(name, _)| self.is(name)) else {
            return Ok(TypedAttribute::Other(*self));
        };
        read(self.value.unwrap_or("")).ok_or(SdpError::Attribute { name })
    }
}

/// An attribute whose grammar is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TypedAttribute<'a> {
    /// `sendrecv`, `sendonly`, `recvonly`, `inactive`.
    Direction(Direction),
    /// `rtpmap` (RFC 8866 §6.6).
    RtpMap(RtpMap<'a>),
    /// `fmtp` (RFC 8866 §6.15).
    Fmtp(Fmtp<'a>),
    /// `ptime` in milliseconds (RFC 8866 §6.4).
    Ptime(u16),
    /// `maxptime` in milliseconds (RFC 8866 §6.5).
    MaxPtime(u16),
    /// `rtcp` (RFC 3605).
    Rtcp(Rtcp<'a>),
    /// `rtcp-mux` (RFC 5761 §5.1.1).
    RtcpMux,
    /// `crypto` (RFC 4568), unread: the text after the colon.
    Crypto(&'a str),
    /// `candidate` (RFC 8839 §5.1).
    Candidate(Candidate<'a>),
    /// `fingerprint` (RFC 8122 §5).
    Fingerprint(Fingerprint<'a>),
    /// `setup` (RFC 4145 §4).
    Setup(Setup),
    /// `group` (RFC 5888 §5).
    Group(Group<'a>),
    /// `mid` (RFC 5888 §4).
    Mid(&'a str),
    /// `extmap` (RFC 8285 §5).
    ExtMap(ExtMap<'a>),
    /// `ssrc` (RFC 5576 §4.1).
    Ssrc(Ssrc<'a>),
    /// `rtcp-fb` (RFC 4585 §4.2).
    RtcpFeedback(RtcpFeedback<'a>),
    /// `label` (RFC 4574).
    Label(&'a str),
    /// Every other attribute.
    Other(Attribute<'a>),
}

/// Which way media flows, as seen by the side that wrote it (RFC 8866 §6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Direction {
    /// Both ways.
    #[default]
    SendRecv,
    /// The writer sends.
    SendOnly,
    /// The writer receives.
    RecvOnly,
    /// Neither.
    Inactive,
}

impl Direction {
    /// Reads an attribute name, ignoring case; `None` when it is no direction.
    pub fn from_name(name: &str) -> Option<Direction> {
        [
            Direction::SendRecv,
            Direction::SendOnly,
            Direction::RecvOnly,
            Direction::Inactive,
        ]
        .into_iter()
        .find(|direction| direction.name().eq_ignore_ascii_case(name))
    }

    /// The attribute's name.
    pub const fn name(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    /// The direction with these two abilities.
    pub const fn new(sends: bool, receives: bool) -> Direction {
        match (sends, receives) {
            (true, true) => Direction::SendRecv,
            (true, false) => Direction::SendOnly,
            (false, true) => Direction::RecvOnly,
            (false, false) => Direction::Inactive,
        }
    }

    /// True when the writer sends.
    pub const fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }

    /// True when the writer receives.
    pub const fn receives(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::RecvOnly)
    }

    /// The same flow as seen from the other side.
    #[must_use]
    pub const fn reversed(self) -> Direction {
        Direction::new(self.receives(), self.sends())
    }

    /// What both allow, seen from the same side.
    #[must_use]
    pub const fn intersect(self, other: Direction) -> Direction {
        Direction::new(self.sends() && other.sends(), self.receives() && other.receives())
    }
}

/// `a=rtpmap:<payload type> <encoding>/<clock>[/<parameters>]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtpMap<'a> {
    /// 0..=127.
    pub payload_type: u8,
    /// The encoding name, case-insensitive.
    pub encoding: &'a str,
    /// The RTP clock rate in Hz.
    pub clock_rate: u32,
    /// The channel count, when written.
    pub channels: Option<u8>,
}

/// `a=fmtp:<format> <parameters>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fmtp<'a> {
    /// The format of the `m=` line it belongs to.
    pub format: &'a str,
    /// The parameters, opaque.
    pub parameters: &'a str,
}

/// `a=rtcp:<port>[ IN <address type> <address>]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rtcp<'a> {
    /// The RTCP port, 1..=65535.
    pub port: u16,
    /// The RTCP address, when it is not that of the `c=` line.
    pub host: Option<Host<'a>>,
}

/// `a=candidate:…`, up to its type; extensions stay unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Groups candidates of the same base and server.
    pub foundation: &'a str,
    /// 1 for RTP, 2 for RTCP.
    pub component: u16,
    /// `UDP` or `TCP` in any case.
    pub transport: &'a str,
    /// 1..=2³¹-1, higher is better.
    pub priority: u32,
    /// An address literal or, with mDNS, a name.
    pub address: &'a str,
    /// The transport port.
    pub port: u16,
    /// `host`, `srflx`, `prflx`, `relay` or an extension.
    pub kind: &'a str,
}

/// `a=fingerprint:<hash> <octets in hex>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint<'a> {
    /// The hash function's name.
    pub hash: &'a str,
    /// Upper-case hex octets between colons.
    pub value: &'a str,
}

/// `a=setup:…`: who opens the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// The writer opens it.
    Active,
    /// The writer waits for it.
    Passive,
    /// Either; the answerer decides.
    ActPass,
    /// Not now.
    HoldConn,
}

/// `a=group:<semantics> <mids>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group<'a> {
    /// `BUNDLE`, `LS`, ….
    pub semantics: &'a str,
    /// The identification tags between blanks.
    pub mids: &'a str,
}

/// `a=extmap:<id>[/<direction>] <uri>[ …]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtMap<'a> {
    /// 1..=14 one-byte, 15..=255 two-byte headers, up to 4351 in offers.
    pub id: u16,
    /// Restricts the extension to one direction.
    pub direction: Option<Direction>,
    /// The extension's name.
    pub uri: &'a str,
}

/// `a=ssrc:<ssrc>[ <attribute>]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ssrc<'a> {
    /// The source.
    pub ssrc: u32,
    /// `cname:…` and others, unread.
    pub attribute: &'a str,
}

/// `a=rtcp-fb:<payload type or *> <feedback>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtcpFeedback<'a> {
    /// `None` for `*`, all payload types.
    pub payload_type: Option<u8>,
    /// `nack`, `ccm fir`, ….
    pub feedback: &'a str,
}

type Reader = fn(&str) -> Option<TypedAttribute<'_>>;

/// One line an attribute: its name and how its value is read.
const READERS: [(&str, Reader); 16] = [
    ("rtpmap", rtpmap),
    ("fmtp", |value| {
        let (format, parameters) = split_blank(value)?;
        Some(TypedAttribute::Fmtp(Fmtp { format, parameters }))
    }),
    ("ptime", |value| milliseconds(value).map(TypedAttribute::Ptime)),
    ("maxptime", |value| milliseconds(value).map(TypedAttribute::MaxPtime)),
    ("rtcp", rtcp),
    ("rtcp-mux", |_| Some(TypedAttribute::RtcpMux)),
    ("crypto", |value| {
        (!value.is_empty()).then_some(TypedAttribute::Crypto(value))
    }),
    ("candidate", candidate),
    ("fingerprint", |value| {
        let (hash, value) = split_blank(value)?;
        let is_hex = value
            .split(':')
            .all(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
        is_hex.then_some(TypedAttribute::Fingerprint(Fingerprint { hash, value }))
    }),
    ("setup", setup),
    ("group", |value| {
        let (semantics, mids) = split_blank(value).unwrap_or((value, ""));
        (!semantics.is_empty()).then_some(TypedAttribute::Group(Group { semantics, mids }))
    }),
    ("mid", |value| token(value).map(TypedAttribute::Mid)),
    ("extmap", extmap),
    ("ssrc", |value| {
        let (ssrc, attribute) = split_blank(value).unwrap_or((value, ""));
        Some(TypedAttribute::Ssrc(Ssrc {
            ssrc: ssrc.parse().ok()?,
            attribute,
        }))
    }),
    ("rtcp-fb", |value| {
        let (format, feedback) = split_blank(value)?;
        let payload_type = if format == "*" {
            None
        } else {
            Some(payload_type(format)?)
        };
        Some(TypedAttribute::RtcpFeedback(RtcpFeedback { payload_type, feedback }))
    }),
    ("label", |value| token(value).map(TypedAttribute::Label)),
];

fn rtpmap(value: &str) -> Option<TypedAttribute<'_>> {
    let (format, mapping) = split_blank(value)?;
    let mut parts = mapping.split('/');
    let encoding = parts.next().and_then(token)?;
    let clock_rate = parts.next()?.parse().ok()?;
    // Only a number is a channel count; other encoding parameters are nobody's here.
    let channels = parts.next().and_then(|text| text.parse().ok());
    Some(TypedAttribute::RtpMap(RtpMap {
        payload_type: payload_type(format)?,
        encoding,
        clock_rate,
        channels,
    }))
}

fn rtcp(value: &str) -> Option<TypedAttribute<'_>> {
    let (port, rest) = split_blank(value).unwrap_or((value, ""));
    let port = port.parse().ok().filter(|&port| port != 0)?;
    let mut fields = rest.split_ascii_whitespace();
    let host = match fields.next() {
        None => None,
        Some(net_type) if net_type.eq_ignore_ascii_case("IN") => Some(parse_host(fields.next()?, fields.next()?)?),
        Some(_) => return None,
    };
    Some(TypedAttribute::Rtcp(Rtcp { port, host }))
}

fn candidate(value: &str) -> Option<TypedAttribute<'_>> {
    let mut fields = value.split_ascii_whitespace();
    Some(TypedAttribute::Candidate(Candidate {
        foundation: fields.next()?,
        component: fields.next()?.parse().ok()?,
        transport: fields.next()?,
        priority: fields.next()?.parse().ok()?,
        address: fields
            .next()
            .filter(|address| address.parse::<IpAddr>().is_ok() || address.contains('.'))?,
        port: fields.next()?.parse().ok()?,
        kind: {
            fields.next().filter(|word| word.eq_ignore_ascii_case("typ"))?;
            fields.next()?
        },
    }))
}

fn setup(value: &str) -> Option<TypedAttribute<'_>> {
    let setup = match value.to_ascii_lowercase().as_str() {
        "active" => Setup::Active,
        "passive" => Setup::Passive,
        "actpass" => Setup::ActPass,
        "holdconn" => Setup::HoldConn,
        _ => return None,
    };
    Some(TypedAttribute::Setup(setup))
}

fn extmap(value: &str) -> Option<TypedAttribute<'_>> {
    let (id, rest) = split_blank(value)?;
    let (id, direction) = match id.split_once('/') {
        Some((id, direction)) => (id, Some(Direction::from_name(direction)?)),
        None => (id, None),
    };
    let id = id.parse().ok().filter(|id| (1..=4351).contains(id))?;
    Some(TypedAttribute::ExtMap(ExtMap {
        id,
        direction,
        uri: rest.split_ascii_whitespace().next()?,
    }))
}

fn payload_type(text: &str) -> Option<u8> {
    text.parse()
        .ok()
        .filter(|&number| number <= crate::codec::MAX_PAYLOAD_TYPE)
}

/// Milliseconds, 1..=65535; a fraction, which RFC 8866 §6.4 allows, is cut off.
fn milliseconds(text: &str) -> Option<u16> {
    text.split('.').next()?.trim_ascii().parse().ok().filter(|&ms| ms != 0)
}

fn token(text: &str) -> Option<&str> {
    (!text.is_empty() && !text.bytes().any(|b| b.is_ascii_whitespace())).then_some(text)
}

/// Splits at the first run of blanks; both halves are non-empty.
fn split_blank(text: &str) -> Option<(&str, &str)> {
    let (head, tail) = text.split_once([' ', '\t'])?;
    let tail = tail.trim_ascii_start();
    (!head.is_empty() && !tail.is_empty()).then_some((head, tail))
}
