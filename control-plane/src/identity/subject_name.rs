//! Subject alternative names of issued certificates.

use std::net::IpAddr;

use rcgen::SanType;

/// Reads a name as trunks store it: `DNS:`, `IP:`, `URI:` or `email:` with a value (RFC 5280 §4.2.1.6).
/// `None` when the prefix or the value is none of these.
pub fn parse(text: &str) -> Option<SanType> {
    let (kind, value) = text.split_once(':')?;
    match kind.to_ascii_lowercase().as_str() {
        "dns" => Some(SanType::DnsName(value.try_into().ok()?)),
        "ip" => Some(SanType::IpAddress(value.parse().ok()?)),
        "uri" => Some(SanType::URI(value.try_into().ok()?)),
        "email" => Some(SanType::Rfc822Name(value.try_into().ok()?)),
        _ => None,
    }
}

/// A host given on the command line: an IP literal, bracketed or not, or a DNS name. `None` when it is neither.
pub fn host(text: &str) -> Option<SanType> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(SanType::IpAddress(address));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let valid = text.len() <= 253 && text.split('.').all(label);
    valid.then(|| text.try_into().ok().map(SanType::DnsName)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_name_is_read() {
        assert_eq!(
            parse("DNS:sip.example.com"),
            Some(SanType::DnsName("sip.example.com".try_into().unwrap()))
        );
        assert_eq!(
            parse("IP:2001:db8::1"),
            Some(SanType::IpAddress("2001:db8::1".parse().unwrap()))
        );
        assert_eq!(
            parse("URI:sip:example.com"),
            Some(SanType::URI("sip:example.com".try_into().unwrap()))
        );
        assert_eq!(
            parse("email:ops@example.com"),
            Some(SanType::Rfc822Name("ops@example.com".try_into().unwrap()))
        );
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "sip.example.com", "IP:example.com", "X:y", "DNS:é.example"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_host_is_an_address_or_a_dns_name() {
        assert_eq!(
            host("192.0.2.1"),
            Some(SanType::IpAddress("192.0.2.1".parse().unwrap()))
        );
        assert_eq!(
            host("[2001:db8::1]"),
            Some(SanType::IpAddress("2001:db8::1".parse().unwrap()))
        );
        assert_eq!(
            host("control-1"),
            Some(SanType::DnsName("control-1".try_into().unwrap()))
        );
        for text in ["", "a..b", "a b", "[control]", "*.example.com"] {
            assert_eq!(host(text), None, "{text}");
        }
    }
}
