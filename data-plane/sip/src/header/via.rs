use std::net::IpAddr;

use super::{HeaderName, Params, TypedHeader};
use crate::parse::SyntaxError;
use crate::parse::scan::{Scanner, decimal, is_host, trim_lws};
use crate::uri::{Host, parse_port};

/// Start of every branch made by an RFC 3261 element (§8.1.1.7).
pub const MAGIC_COOKIE: &str = "z9hG4bK";

/// Transport of a Via (RFC 3261 §20.42) or of a `transport` parameter. Read case-insensitively.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport<'a> {
    /// `UDP`
    Udp,
    /// `TCP`
    Tcp,
    /// `TLS` over TCP
    Tls,
    /// `SCTP`
    Sctp,
    /// `WS` (RFC 7118)
    Ws,
    /// `WSS` (RFC 7118)
    Wss,
    /// Any other token.
    Other(&'a str),
}

/// One Via value: `SIP/2.0/transport sent-by ;params` (RFC 3261 §20.42).
#[derive(Clone, Copy, Debug)]
pub struct Via<'a> {
    transport: Transport<'a>,
    host: Host<'a>,
    port: Option<u16>,
    params: Params<'a>,
}

impl<'a> Transport<'a> {
    /// Reads a transport token.
    pub fn parse(token: &'a str) -> Self {
        const KNOWN: [Transport<'static>; 6] = [
            Transport::Udp,
            Transport::Tcp,
            Transport::Tls,
            Transport::Sctp,
            Transport::Ws,
            Transport::Wss,
        ];
        KNOWN
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(token))
            .unwrap_or(Self::Other(token))
    }

    /// As written in a Via.
    pub fn as_str(self) -> &'a str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Sctp => "SCTP",
            Self::Ws => "WS",
            Self::Wss => "WSS",
            Self::Other(token) => token,
        }
    }

    /// Whether the transport itself delivers reliably, so that Timers A, E and G do not run (RFC 3261 §17).
    pub fn is_reliable(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls | Self::Sctp | Self::Ws | Self::Wss)
    }
}

impl<'a> Via<'a> {
    /// Reads only as much as an answer needs: sent-protocol of any SIP version and sent-by. Parameters are left out.
    pub(crate) fn parse_sent_by(value: &'a [u8]) -> Result<Self, SyntaxError> {
        let mut scanner = Scanner::new(trim_lws(value));
        Self::head(&mut scanner).map(|(_, via)| via)
    }

    /// The protocol version, and all but the parameters.
    fn head(scanner: &mut Scanner<'a>) -> Result<(&'a str, Self), SyntaxError> {
        let protocol = scanner.token("sent-protocol")?;
        scanner.skip_lws();
        scanner.expect(b'/', "'/' in sent-protocol")?;
        scanner.skip_lws();
        let version = scanner.token("protocol version")?;
        if !protocol.eq_ignore_ascii_case("SIP") {
            return Err(SyntaxError { expected: "SIP", at: 0 });
        }
        scanner.skip_lws();
        scanner.expect(b'/', "'/' before transport")?;
        scanner.skip_lws();
        let transport = Transport::parse(scanner.token("transport")?);
        scanner.skip_lws();
        let host = Self::scan_host(scanner)?;
        scanner.skip_lws();
        let port = if scanner.eat(b':') {
            scanner.skip_lws();
            let at = scanner.at();
            let digits = scanner.take_while(|b| b.is_ascii_digit());
            let port = std::str::from_utf8(digits).ok().and_then(parse_port);
            Some(port.ok_or(SyntaxError {
                expected: "port from 1 to 65535",
                at,
            })?)
        } else {
            None
        };
        Ok((
            version,
            Self {
                transport,
                host,
                port,
                params: Params::default(),
            },
        ))
    }

    fn scan_host(scanner: &mut Scanner<'a>) -> Result<Host<'a>, SyntaxError> {
        let start = scanner.at();
        if scanner.eat(b'[') {
            scanner.take_while(|b| b != b']');
            scanner.expect(b']', "']'")?;
        } else {
            scanner.take_while(is_host);
        }
        let text = std::str::from_utf8(scanner.since(start));
        text.map_err(|_| SyntaxError {
            expected: "host",
            at: start,
        })
        .and_then(Host::parse)
    }

    /// Transport of the hop.
    pub fn transport(&self) -> Transport<'a> {
        self.transport
    }

    /// Host of sent-by.
    pub fn host(&self) -> Host<'a> {
        self.host
    }

    /// Explicit port of sent-by.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Port of sent-by, or the transport's default: 5061 for TLS, 5060 otherwise (RFC 3261 §18.2.2), 443 and 80 for
    /// WebSocket.
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(match self.transport {
            Transport::Tls => 5061,
            Transport::Wss => 443,
            Transport::Ws => 80,
            _ => 5060,
        })
    }

    /// All parameters.
    pub fn params(&self) -> Params<'a> {
        self.params
    }

    /// `branch` as received, whoever made it.
    pub fn branch(&self) -> Option<&'a str> {
        self.params.value("branch")
    }

    /// `branch` if it identifies a transaction: it starts with the magic cookie and does not end there
    /// (RFC 3261 §17.2.3, RFC 4475 §3.2.1). `None` means RFC 2543 matching.
    pub fn unique_branch(&self) -> Option<&'a str> {
        let branch = self.branch()?;
        let cookie = branch.get(..MAGIC_COOKIE.len())?;
        (cookie.eq_ignore_ascii_case(MAGIC_COOKIE) && branch.len() > MAGIC_COOKIE.len()).then_some(branch)
    }

    /// `received` if it is an address; brackets around IPv6 are accepted (RFC 3261 §18.2.1, RFC 5118 §4.5).
    pub fn received(&self) -> Option<IpAddr> {
        let value = self.params.value("received")?;
        let bare = value
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(value);
        bare.parse().ok()
    }

    /// Whether `rport` is there, with or without a value (RFC 3581 §3).
    pub fn has_rport(&self) -> bool {
        self.params.contains("rport")
    }

    /// Value of `rport`.
    pub fn rport(&self) -> Option<u16> {
        self.params.value("rport").and_then(parse_port)
    }

    /// `maddr` as received.
    pub fn maddr(&self) -> Option<&'a str> {
        self.params.value("maddr")
    }

    /// `ttl`, 0..=255.
    pub fn ttl(&self) -> Option<u8> {
        self.params
            .value("ttl")
            .and_then(|ttl| decimal(ttl.as_bytes()))
            .and_then(|ttl| u8::try_from(ttl).ok())
    }
}

impl<'a> TypedHeader<'a> for Via<'a> {
    const NAME: HeaderName = HeaderName::Via;

    fn parse(value: &'a [u8]) -> Result<Self, SyntaxError> {
        let mut scanner = Scanner::new(trim_lws(value));
        let (version, head) = Self::head(&mut scanner)?;
        if version != "2.0" {
            return Err(SyntaxError {
                expected: "SIP/2.0",
                at: 0,
            });
        }
        Ok(Self {
            params: Params::parse_header(&mut scanner)?,
            ..head
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Via<'_> {
        Via::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn white_space_and_folds_are_allowed_between_all_parts() {
        let via = parse("SIP  / 2.0\r\n / TCP     spindle.example.com : 5070  ;\r\n  branch  =   z9hG4bK9ikj8  ");
        assert_eq!(via.transport(), Transport::Tcp);
        assert_eq!(
            (via.host(), via.port()),
            (Host::Name("spindle.example.com"), Some(5070))
        );
        assert_eq!(via.unique_branch(), Some("z9hG4bK9ikj8"));
    }

    #[test]
    fn all_parameters_and_ipv6_are_read() {
        let via = parse("SIP/2.0/TLS [2001:db8::1]:5071;rport=9;received=[2001:db8::2];maddr=x;ttl=16;branch=z9hG4bKa");
        assert_eq!(via.host().ip(), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(via.received(), Some("2001:db8::2".parse().unwrap()));
        assert_eq!(
            (via.rport(), via.maddr(), via.ttl(), via.port_or_default()),
            (Some(9), Some("x"), Some(16), 5071)
        );
        let bare = parse("SIP/2.0/tls a;rport");
        assert!(bare.has_rport() && bare.rport().is_none() && bare.port_or_default() == 5061);
    }

    #[test]
    fn a_bare_cookie_or_a_foreign_branch_is_not_unique() {
        for branch in ["z9hG4bK", "1", "z9hG4b"] {
            assert_eq!(parse(&format!("SIP/2.0/UDP h;branch={branch}")).unique_branch(), None);
        }
        assert_eq!(parse("SIP/2.0/UDP h").unique_branch(), None);
        assert!(parse("SIP/2.0/udp h;branch=Z9HG4BKx").unique_branch().is_some());
    }

    #[test]
    fn malformed_vias_are_refused_but_sent_by_may_still_be_read() {
        for bad in [
            "",
            "SIP/2.0/UDP",
            "SIP/3.0/UDP h",
            "HTTP/2.0/UDP h",
            "SIP/2.0/UDP h:0",
            "SIP/2.0/UDP h:65536",
            "SIP/2.0/UDP [::1",
            "SIP/2.0/UDP h x",
        ] {
            assert!(Via::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let broken = b"SIP/2.0/UDP 192.0.2.15;;,;,,";
        assert!(Via::parse(broken).is_err());
        assert_eq!(
            Via::parse_sent_by(broken).unwrap().host().ip(),
            Some("192.0.2.15".parse().unwrap())
        );
    }
}
