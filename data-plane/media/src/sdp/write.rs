//! Writing a body line by line.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use bytes::Bytes;

/// Builds a body, one line after another, each ended by CRLF (RFC 8866 §9).
///
/// It writes what it is given in the order it is given; order is the caller's affair. What it does guarantee is that
/// one call makes one line: NUL, CR and LF inside a value are left out.
#[derive(Debug, Default)]
pub struct Writer {
    text: Vec<u8>,
}

impl Writer {
    /// Writes a line from octets in whatever character set.
    pub fn raw(&mut self, kind: u8, value: &[u8]) -> &mut Self {
        self.text.extend([kind, b'=']);
        self.text.extend(value.iter().filter(|&&b| !ends_line(b)));
        self.text.extend(b"\r\n");
        self
    }

    /// Writes a line from anything that can be displayed.
    pub fn line(&mut self, kind: u8, value: impl fmt::Display) -> &mut Self {
        self.text.extend([kind, b'=']);
        self.display(value);
        self.text.extend(b"\r\n");
        self
    }

    /// Writes a property attribute, `a=<name>` (RFC 8866 §5.13).
    pub fn flag(&mut self, name: &str) -> &mut Self {
        self.line(b'a', name)
    }

    /// Writes a value attribute, `a=<name>:<value>` (RFC 8866 §5.13).
    pub fn attribute(&mut self, name: &str, value: impl fmt::Display) -> &mut Self {
        self.line(b'a', format_args!("{name}:{value}"))
    }

    /// Writes `c=` for an address (RFC 8866 §5.7).
    pub fn connection(&mut self, ip: IpAddr) -> &mut Self {
        self.line(b'c', ConnectionValue(ip))
    }

    /// Appends lines written by another writer.
    pub(crate) fn verbatim(&mut self, lines: &[u8]) {
        self.text.extend(lines);
    }

    /// The body.
    pub fn finish(self) -> Bytes {
        Bytes::from(self.text)
    }

    fn display(&mut self, value: impl fmt::Display) {
        // Writing to a Vec cannot fail; a Display that reports an error of its own leaves a shorter value.
        let _ = write!(OneLine(&mut self.text), "{value}");
    }
}

fn ends_line(octet: u8) -> bool {
    matches!(octet, b'\r' | b'\n' | 0)
}

struct OneLine<'a>(&'a mut Vec<u8>);

impl fmt::Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend(text.bytes().filter(|&b| !ends_line(b)));
        Ok(())
    }
}

/// `IN IP4 192.0.2.1`, as `c=` and the end of `o=` write it.
pub(crate) struct ConnectionValue(pub(crate) IpAddr);

impl fmt::Display for ConnectionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.0.is_ipv4() { "IP4" } else { "IP6" };
        write!(f, "IN {family} {}", self.0)
    }
}
