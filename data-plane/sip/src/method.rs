//! Request methods.

use std::fmt;

/// A request method (RFC 3261 §7.1). Methods are case-sensitive: `invite` is an extension method, not INVITE.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Method {
    /// RFC 3261 §13
    Invite,
    /// RFC 3261 §13.2.2.4, §17.1.1.3
    Ack,
    /// RFC 3261 §15
    Bye,
    /// RFC 3261 §9
    Cancel,
    /// RFC 3261 §10
    Register,
    /// RFC 3261 §11
    Options,
    /// RFC 6086
    Info,
    /// RFC 3428
    Message,
    /// RFC 6665 §4
    Notify,
    /// RFC 3262 §3
    Prack,
    /// RFC 3903
    Publish,
    /// RFC 3515
    Refer,
    /// RFC 6665 §4
    Subscribe,
    /// RFC 3311
    Update,
    /// Any other token. The only variant that owns memory, bounded by the start-line limit.
    Extension(Box<str>),
}

impl Method {
    /// Reads a method token; `None` when `text` is empty or holds a byte that no token may hold (RFC 3261 §25.1).
    pub fn parse(text: &[u8]) -> Option<Self> {
        Some(match text {
            b"INVITE" => Self::Invite,
            b"ACK" => Self::Ack,
            b"BYE" => Self::Bye,
            b"CANCEL" => Self::Cancel,
            b"REGISTER" => Self::Register,
            b"OPTIONS" => Self::Options,
            b"INFO" => Self::Info,
            b"MESSAGE" => Self::Message,
            b"NOTIFY" => Self::Notify,
            b"PRACK" => Self::Prack,
            b"PUBLISH" => Self::Publish,
            b"REFER" => Self::Refer,
            b"SUBSCRIBE" => Self::Subscribe,
            b"UPDATE" => Self::Update,
            other => Self::Extension(crate::parse::scan::token_str(other)?.into()),
        })
    }

    /// The token as it stands on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Invite => "INVITE",
            Self::Ack => "ACK",
            Self::Bye => "BYE",
            Self::Cancel => "CANCEL",
            Self::Register => "REGISTER",
            Self::Options => "OPTIONS",
            Self::Info => "INFO",
            Self::Message => "MESSAGE",
            Self::Notify => "NOTIFY",
            Self::Prack => "PRACK",
            Self::Publish => "PUBLISH",
            Self::Refer => "REFER",
            Self::Subscribe => "SUBSCRIBE",
            Self::Update => "UPDATE",
            Self::Extension(token) => token,
        }
    }

    /// Whether a 2xx to this method creates a dialog: INVITE, SUBSCRIBE, REFER (RFC 3261 §12.1, RFC 6665 §4.4.1,
    /// RFC 3515 §2.4.4).
    pub fn creates_dialog(&self) -> bool {
        matches!(self, Self::Invite | Self::Subscribe | Self::Refer)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_method_survives_a_round_trip() {
        for name in [
            "INVITE",
            "ACK",
            "BYE",
            "CANCEL",
            "REGISTER",
            "OPTIONS",
            "INFO",
            "MESSAGE",
            "NOTIFY",
            "PRACK",
            "PUBLISH",
            "REFER",
            "SUBSCRIBE",
            "UPDATE",
        ] {
            let method = Method::parse(name.as_bytes()).unwrap();
            assert_eq!(method.as_str(), name);
            assert!(!matches!(method, Method::Extension(_)), "{name} is not known");
        }
    }

    #[test]
    fn case_matters_and_only_tokens_pass() {
        assert_eq!(Method::parse(b"invite"), Some(Method::Extension("invite".into())));
        assert_eq!(
            Method::parse(b"RE%47IST%45R"),
            Some(Method::Extension("RE%47IST%45R".into()))
        );
        for bad in [&b""[..], b"IN VITE", b"INVITE\r", b"IN\xc3\xa9", b"<X>"] {
            assert_eq!(Method::parse(bad), None, "{bad:?}");
        }
    }
}
