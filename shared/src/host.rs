//! Hosts as SIP URIs name them: an IP literal or a host name (RFC 3261 §25.1 `host`).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a host name nor an IP address")]
pub struct HostError(String);

/// A host: an IP address or a host name, in lower case and without a final dot, so that equality is sameness.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// IPv4 or IPv6 literal.
    Address(IpAddr),
    /// Host name, 1-253 characters, labels of 1-63.
    Name(Arc<str>),
}

impl Host {
    /// The address, when it is a literal.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Name(_) => None,
        }
    }

    /// Whether `host`, as it stands in a URI (IPv6 in brackets or not, any letter case), names this host.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Address(address) => unbracketed(host).parse::<IpAddr>().is_ok_and(|other| other == *address),
            Self::Name(name) => host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case(name),
        }
    }
}

/// As it stands in a URI: IPv6 in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl FromStr for Host {
    type Err = HostError;

    /// Takes IPv6 with and without brackets. A text of digits and dots that is no IPv4 address is refused, not read as a name.
    fn from_str(text: &str) -> Result<Self, HostError> {
        if let Ok(address) = unbracketed(text).parse::<IpAddr>() {
            return Ok(Self::Address(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if is_host_name(name) {
            Ok(Self::Name(name.to_ascii_lowercase().into()))
        } else {
            Err(HostError(text.into()))
        }
    }
}

/// Whether `name` is a host name: labels of letters, digits and inner hyphens, the last not all digits (RFC 1123 §2.1).
pub fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253
        && name.split('.').all(label)
        && name
            .rsplit('.')
            .next()
            .is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
}

fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::Host;

    #[test]
    fn hosts_have_one_form() {
        for (text, shown) in [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8::1", "[2001:db8::1]"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("SIP.Example.COM.", "sip.example.com"),
            ("pbx", "pbx"),
            ("_sip._udp.example.com", "_sip._udp.example.com"),
        ] {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            ".",
            "a..b",
            "-a",
            "a-",
            "1.2.3.4.5",
            "192.0.2.256",
            "a b",
            "a:5060",
            "[a]",
            &"a.".repeat(200),
        ] {
            assert!(bad.parse::<Host>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_matches_its_spellings() {
        assert!("example.com".parse::<Host>().unwrap().matches("EXAMPLE.com."));
        assert!("2001:db8::1".parse::<Host>().unwrap().matches("[2001:DB8:0::1]"));
        assert!(!"example.com".parse::<Host>().unwrap().matches("www.example.com"));
    }
}
