//! URIs (RFC 3261 §19.1, RFC 3966): parsed in place, compared by §19.1.4, passwords kept out of `Debug`.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::header::Params;
use crate::parse::SyntaxError;
use crate::parse::scan::{decimal, is_host, is_uri};

mod compare;
#[cfg(test)]
mod tests;

/// A parsed URI that borrows its text. `Display` writes the text as received, `Debug` hides a password.
#[derive(Clone, Copy)]
pub enum Uri<'a> {
    /// `sip:` and `sips:`
    Sip(SipUri<'a>),
    /// `tel:` (RFC 3966)
    Tel(TelUri<'a>),
    /// Any other scheme, its content untouched.
    Other(OtherUri<'a>),
}

/// `sip:user:password@host:port;params?headers` (RFC 3261 §19.1.1).
#[derive(Clone, Copy)]
pub struct SipUri<'a> {
    text: &'a str,
    secure: bool,
    user: Option<&'a str>,
    password: Option<&'a str>,
    host: Host<'a>,
    port: Option<u16>,
    params: Params<'a>,
    headers: Option<&'a str>,
}

/// `tel:number;params` (RFC 3966 §3).
#[derive(Clone, Copy)]
pub struct TelUri<'a> {
    text: &'a str,
    number: &'a str,
    params: Params<'a>,
}

/// A URI of a scheme we do not interpret.
#[derive(Clone, Copy)]
pub struct OtherUri<'a> {
    text: &'a str,
    scheme: &'a str,
}

/// Host of a URI or of a Via sent-by. Equality is case-insensitive for names.
#[derive(Clone, Copy, Debug)]
pub enum Host<'a> {
    /// A host name, case as received.
    Name(&'a str),
    /// An IPv4 address, or an IPv6 reference with its brackets taken off.
    Ip(IpAddr),
}

/// A URI that owns its text. Construction checks it, so that [`UriBuf::as_uri`] cannot fail.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UriBuf(Box<str>);

impl<'a> Uri<'a> {
    /// Parses a whole URI. White space, control characters, `<`, `>`, `"` and bad `%` escapes are errors.
    pub fn parse(text: &'a [u8]) -> Result<Self, SyntaxError> {
        if let Some(at) = text.iter().position(|byte| !is_uri(*byte)) {
            return Err(SyntaxError {
                expected: "URI character",
                at,
            });
        }
        let text = std::str::from_utf8(text).map_err(|e| SyntaxError {
            expected: "UTF-8 URI",
            at: e.valid_up_to(),
        })?;
        let colon = memchr::memchr(b':', text.as_bytes()).ok_or(SyntaxError {
            expected: "URI scheme",
            at: 0,
        })?;
        let (scheme, rest) = (&text[..colon], &text[colon + 1..]);
        if scheme.eq_ignore_ascii_case("sip") {
            return SipUri::parse_rest(text, rest, false).map(Self::Sip);
        }
        let is_scheme_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(is_scheme_byte) {
            return Err(SyntaxError {
                expected: "URI scheme",
                at: 0,
            });
        }
        if scheme.eq_ignore_ascii_case("sips") {
            return SipUri::parse_rest(text, rest, true).map(Self::Sip);
        }
        if rest.is_empty() {
            return Err(SyntaxError {
                expected: "URI content",
                at: text.len(),
            });
        }
        if scheme.eq_ignore_ascii_case("tel") {
            return TelUri::parse_rest(text, rest).map(Self::Tel);
        }
        Ok(Self::Other(OtherUri { text, scheme }))
    }

    /// The text as received, password included.
    pub fn as_str(&self) -> &'a str {
        match self {
            Self::Sip(uri) => uri.text,
            Self::Tel(uri) => uri.text,
            Self::Other(uri) => uri.text,
        }
    }

    /// The text as received, with `***` in place of a password: fit for logs and records.
    pub fn without_password(&self) -> Cow<'a, str> {
        match self {
            Self::Sip(uri) if uri.password.is_some() => Cow::Owned(format!("{uri:?}")),
            _ => Cow::Borrowed(self.as_str()),
        }
    }

    /// The scheme, case as received.
    pub fn scheme(&self) -> &'a str {
        match self {
            Self::Other(uri) => uri.scheme,
            _ => self.as_str().split(':').next().unwrap_or(""),
        }
    }

    /// The SIP or SIPS URI, if it is one.
    pub fn sip(&self) -> Option<SipUri<'a>> {
        match self {
            Self::Sip(uri) => Some(*uri),
            _ => None,
        }
    }

    /// User part of a SIP URI or number of a tel URI, as received (escapes not resolved).
    pub fn user(&self) -> Option<&'a str> {
        match self {
            Self::Sip(uri) => uri.user,
            Self::Tel(uri) => Some(uri.number),
            Self::Other(_) => None,
        }
    }

    /// URI parameters; empty for schemes we do not interpret.
    pub fn params(&self) -> Params<'a> {
        match self {
            Self::Sip(uri) => uri.params,
            Self::Tel(uri) => uri.params,
            Self::Other(_) => Params::default(),
        }
    }

    /// Whether both name the same resource: RFC 3261 §19.1.4 for SIP and SIPS, RFC 3966 §4 for tel, text otherwise.
    pub fn is_equivalent(&self, other: &Uri<'_>) -> bool {
        // A parameter that stands twice with different values matches none of its twins; a URI still equals itself.
        self.as_str() == other.as_str() || compare::equivalent(self, other)
    }

    /// An owned copy.
    pub fn to_buf(&self) -> UriBuf {
        UriBuf(self.as_str().into())
    }
}

impl<'a> SipUri<'a> {
    fn parse_rest(text: &'a str, rest: &'a str, secure: bool) -> Result<Self, SyntaxError> {
        let base = text.len() - rest.len();
        let fail = |expected| SyntaxError { expected, at: base };
        check_escapes(text)?;
        // "@" must be escaped everywhere but here, while user and password may hold ";" and "?" (§25.1).
        let (userinfo, hostpart) = match split_once(rest, b'@') {
            Some((userinfo, hostpart)) => (Some(userinfo), hostpart),
            None => (None, rest),
        };
        let (user, password) = match userinfo {
            Some("") => return Err(fail("user")),
            Some(info) => match split_once(info, b':') {
                Some(("", _)) => return Err(fail("user")),
                Some((user, password)) => (Some(user), Some(password)),
                None => (Some(info), None),
            },
            None => (None, None),
        };
        let (hostpart, headers) = match split_once(hostpart, b'?') {
            Some((_, "")) => return Err(fail("URI headers")),
            Some((hostpart, headers)) => (hostpart, Some(headers)),
            None => (hostpart, None),
        };
        let host_end = memchr::memchr(b';', hostpart.as_bytes()).unwrap_or(hostpart.len());
        let (host, port) = parse_host_port(&hostpart[..host_end]).map_err(|e| fail(e.expected))?;
        let params = Params::parse_uri(&hostpart[host_end..]).map_err(|e| fail(e.expected))?;
        Ok(Self {
            text,
            secure,
            user,
            password,
            host,
            port,
            params,
            headers,
        })
    }

    /// Whether the scheme is `sips`.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// User part as received; see [`unescape`].
    pub fn user(&self) -> Option<&'a str> {
        self.user
    }

    /// Password as received. Never log it.
    pub fn password(&self) -> Option<&'a str> {
        self.password
    }

    /// Host.
    pub fn host(&self) -> Host<'a> {
        self.host
    }

    /// Explicit port, 1..=65535.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// URI parameters.
    pub fn params(&self) -> Params<'a> {
        self.params
    }

    /// `transport` parameter as received, compare case-insensitively.
    pub fn transport(&self) -> Option<&'a str> {
        self.params.value("transport")
    }

    /// `maddr` parameter.
    pub fn maddr(&self) -> Option<&'a str> {
        self.params.value("maddr")
    }

    /// Whether the `lr` parameter is there, whatever its value (RFC 3261 §19.1.1).
    pub fn is_loose_router(&self) -> bool {
        self.params.contains("lr")
    }

    /// `?name=value&…` without the question mark.
    pub fn headers(&self) -> Option<&'a str> {
        self.headers
    }

    /// The text as received.
    pub fn as_str(&self) -> &'a str {
        self.text
    }
}

impl<'a> TelUri<'a> {
    fn parse_rest(text: &'a str, rest: &'a str) -> Result<Self, SyntaxError> {
        let end = rest.find(';').unwrap_or(rest.len());
        let number = &rest[..end];
        let digits = number.strip_prefix('+').unwrap_or(number);
        let is_phone_digit =
            |b: u8| b.is_ascii_hexdigit() || matches!(b, b'*' | b'#' | b'-' | b'.' | b'(' | b')' | b'%');
        if digits.is_empty() || !digits.bytes().all(is_phone_digit) {
            return Err(SyntaxError {
                expected: "telephone number",
                at: text.len() - rest.len(),
            });
        }
        check_escapes(text)?;
        Ok(Self {
            text,
            number,
            params: Params::parse_uri(&rest[end..])?,
        })
    }

    /// Number with its visual separators.
    pub fn number(&self) -> &'a str {
        self.number
    }

    /// Whether the number is global, i.e. starts with `+`.
    pub fn is_global(&self) -> bool {
        self.number.starts_with('+')
    }

    /// Parameters, `phone-context` among them for local numbers.
    pub fn params(&self) -> Params<'a> {
        self.params
    }
}

/// What stands before and behind the first `byte`, an ASCII character.
fn split_once(text: &str, byte: u8) -> Option<(&str, &str)> {
    let at = memchr::memchr(byte, text.as_bytes())?;
    Some((&text[..at], &text[at + 1..]))
}

fn check_escapes(text: &str) -> Result<(), SyntaxError> {
    let bytes = text.as_bytes();
    for at in memchr::memchr_iter(b'%', bytes) {
        if !bytes
            .get(at + 1..at + 3)
            .is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit))
        {
            return Err(SyntaxError {
                expected: "two hex digits after '%'",
                at,
            });
        }
    }
    Ok(())
}

/// `host [ ":" port ]` without white space.
pub(crate) fn parse_host_port(text: &str) -> Result<(Host<'_>, Option<u16>), SyntaxError> {
    let host_end = if text.starts_with('[') {
        text.find(']')
            .map(|at| at + 1)
            .ok_or(SyntaxError { expected: "']'", at: 0 })?
    } else {
        memchr::memchr(b':', text.as_bytes()).unwrap_or(text.len())
    };
    let host = Host::parse(&text[..host_end])?;
    let port = match &text[host_end..] {
        "" => None,
        rest => Some(rest.strip_prefix(':').and_then(parse_port).ok_or(SyntaxError {
            expected: "port from 1 to 65535",
            at: host_end,
        })?),
    };
    Ok((host, port))
}

pub(crate) fn parse_port(text: &str) -> Option<u16> {
    decimal(text.as_bytes())
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
}

impl<'a> Host<'a> {
    /// Reads a host name, an IPv4 address, or an IPv6 reference in brackets.
    pub fn parse(text: &'a str) -> Result<Self, SyntaxError> {
        if let Some(inner) = text.strip_prefix('[') {
            let address = inner.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok());
            return address.map(|v6| Self::Ip(v6.into())).ok_or(SyntaxError {
                expected: "IPv6 address",
                at: 1,
            });
        }
        if text.is_empty() || !text.bytes().all(is_host) {
            return Err(SyntaxError {
                expected: "host",
                at: 0,
            });
        }
        // Only what begins with a digit can be an address; a name may as well.
        let address = text.as_bytes()[0].is_ascii_digit().then(|| text.parse::<Ipv4Addr>());
        Ok(match address {
            Some(Ok(v4)) => Self::Ip(v4.into()),
            _ => Self::Name(text),
        })
    }

    /// The address, if the host is a literal.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(*ip),
            Self::Name(_) => None,
        }
    }
}

impl PartialEq for Host<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(a), Self::Name(b)) => a.eq_ignore_ascii_case(b),
            (Self::Ip(a), Self::Ip(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Host<'_> {}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V4(v4)) => v4.fmt(f),
            Self::Ip(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
        }
    }
}

impl UriBuf {
    /// Checks and copies.
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        Uri::parse(text.as_bytes()).map(|uri| uri.to_buf())
    }

    /// The parsed form.
    pub fn as_uri(&self) -> Uri<'_> {
        Uri::parse(self.0.as_bytes()).expect("text was checked when the UriBuf was made")
    }

    /// The text, password included.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for UriBuf {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        Self::parse(text)
    }
}

/// Resolves `%HH` escapes. The result may be any bytes, NUL included.
pub fn unescape(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(bytes);
    }
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match hex_pair(bytes, at) {
            Some(value) => {
                plain.push(value);
                at += 3;
            }
            None => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(plain)
}

/// Writes `user` with every byte escaped that the user part of a SIP URI may not hold (RFC 3261 §25.1).
pub fn escape_user(user: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&b);
    if user.bytes().all(plain) {
        return Cow::Borrowed(user);
    }
    let mut escaped = String::with_capacity(user.len() + 8);
    for byte in user.bytes() {
        if plain(byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    Cow::Owned(escaped)
}

/// Value of the escape at `at`, if there is one.
fn hex_pair(bytes: &[u8], at: usize) -> Option<u8> {
    let [b'%', high, low] = *bytes.get(at..at + 3)? else {
        return None;
    };
    let digit = |b: u8| char::from(b).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

impl fmt::Display for Uri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Uri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sip(uri) => uri.fmt(f),
            _ => f.write_str(self.as_str()),
        }
    }
}

impl fmt::Display for SipUri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl fmt::Debug for SipUri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(user), Some(_)) = (self.user, self.password) else {
            return f.write_str(self.text);
        };
        let after = self.text.find('@').unwrap_or(0);
        write!(
            f,
            "{}:{user}:***{}",
            if self.secure { "sips" } else { "sip" },
            &self.text[after..]
        )
    }
}

impl fmt::Display for TelUri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl fmt::Display for UriBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UriBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_uri().fmt(f)
    }
}
