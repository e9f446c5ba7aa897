use std::fmt;

macro_rules! names {
    ($($name:ident = $text:literal $(/ $compact:literal)?;)*) => {
        /// The header fields this product reads or writes, by name. Everything else is [`HeaderName::Other`] and keeps
        /// its text in the message.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum HeaderName {
            $(#[doc = concat!("`", $text, "`" $(, ", compact form `", $compact, "`")?)] $name,)*
            /// A field without an entry in this table.
            Other,
        }

        const NAMES: &[(HeaderName, &str)] = &[$((HeaderName::$name, $text),)*];
        const COMPACT: &[(HeaderName, &str)] = &[$($((HeaderName::$name, $compact),)?)*];
    };
}

names! {
    Accept = "Accept";
    AcceptContact = "Accept-Contact" / "a";
    AcceptEncoding = "Accept-Encoding";
    AcceptLanguage = "Accept-Language";
    AlertInfo = "Alert-Info";
    Allow = "Allow";
    AllowEvents = "Allow-Events" / "u";
    AuthenticationInfo = "Authentication-Info";
    Authorization = "Authorization";
    CallId = "Call-ID" / "i";
    CallInfo = "Call-Info";
    Contact = "Contact" / "m";
    ContentDisposition = "Content-Disposition";
    ContentEncoding = "Content-Encoding" / "e";
    ContentLanguage = "Content-Language";
    ContentLength = "Content-Length" / "l";
    ContentType = "Content-Type" / "c";
    CSeq = "CSeq";
    Date = "Date";
    Diversion = "Diversion";
    ErrorInfo = "Error-Info";
    Event = "Event" / "o";
    Expires = "Expires";
    FlowTimer = "Flow-Timer";
    From = "From" / "f";
    HistoryInfo = "History-Info";
    Identity = "Identity" / "y";
    InReplyTo = "In-Reply-To";
    InfoPackage = "Info-Package";
    Join = "Join";
    MaxBreadth = "Max-Breadth";
    MaxForwards = "Max-Forwards";
    MimeVersion = "MIME-Version";
    MinExpires = "Min-Expires";
    MinSe = "Min-SE";
    Organization = "Organization";
    PAccessNetworkInfo = "P-Access-Network-Info";
    PAssertedIdentity = "P-Asserted-Identity";
    PChargingVector = "P-Charging-Vector";
    PPreferredIdentity = "P-Preferred-Identity";
    Path = "Path";
    Priority = "Priority";
    Privacy = "Privacy";
    ProxyAuthenticate = "Proxy-Authenticate";
    ProxyAuthenticationInfo = "Proxy-Authentication-Info";
    ProxyAuthorization = "Proxy-Authorization";
    ProxyRequire = "Proxy-Require";
    RAck = "RAck";
    Reason = "Reason";
    RecordRoute = "Record-Route";
    RecvInfo = "Recv-Info";
    ReferTo = "Refer-To" / "r";
    ReferredBy = "Referred-By" / "b";
    RejectContact = "Reject-Contact" / "j";
    RemotePartyId = "Remote-Party-ID";
    Replaces = "Replaces";
    ReplyTo = "Reply-To";
    RequestDisposition = "Request-Disposition" / "d";
    Require = "Require";
    RetryAfter = "Retry-After";
    Route = "Route";
    RSeq = "RSeq";
    Server = "Server";
    ServiceRoute = "Service-Route";
    SessionExpires = "Session-Expires" / "x";
    SipEtag = "SIP-ETag";
    SipIfMatch = "SIP-If-Match";
    Subject = "Subject" / "s";
    SubscriptionState = "Subscription-State";
    Supported = "Supported" / "k";
    TargetDialog = "Target-Dialog";
    Timestamp = "Timestamp";
    To = "To" / "t";
    Unsupported = "Unsupported";
    UserAgent = "User-Agent";
    Via = "Via" / "v";
    Warning = "Warning";
    WwwAuthenticate = "WWW-Authenticate";
    XIninCnv = "x-inin-cnv";
}

impl HeaderName {
    /// Looks a field name up, long or compact form, case-insensitively (RFC 3261 §7.3.3).
    pub fn lookup(name: &[u8]) -> Self {
        if let [letter] = name {
            let letter = letter.to_ascii_lowercase();
            let compact = COMPACT.iter().find(|(_, text)| text.as_bytes()[0] == letter);
            return compact.map_or(Self::Other, |(known, _)| *known);
        }
        let Some(mut slot) = slot_of(name) else {
            return Self::Other;
        };
        while SLOTS[slot] != 0 {
            let (known, text) = NAMES[usize::from(SLOTS[slot]) - 1];
            if text.as_bytes().eq_ignore_ascii_case(name) {
                return known;
            }
            slot = (slot + 1) % SLOTS.len();
        }
        Self::Other
    }

    /// The long form as it is written; empty for [`HeaderName::Other`].
    pub fn as_str(self) -> &'static str {
        NAMES.get(self as usize).map_or("", |(_, text)| text)
    }
}

/// Open-addressing table over [`NAMES`], built at compile time: an entry is the index plus one, 0 is free. At under a
/// third full, a look-up compares one or two names.
const SLOTS: [u8; 256] = {
    let mut slots = [0u8; 256];
    let mut index = 0;
    while index < NAMES.len() {
        let mut slot = hash(NAMES[index].1.as_bytes());
        while slots[slot] != 0 {
            slot = (slot + 1) % slots.len();
        }
        slots[slot] = index as u8 + 1;
        index += 1;
    }
    slots
};

fn slot_of(name: &[u8]) -> Option<usize> {
    (!name.is_empty()).then(|| hash(name))
}

const fn hash(name: &[u8]) -> usize {
    let first = name[0].to_ascii_lowercase() as usize;
    let middle = name[name.len() / 2].to_ascii_lowercase() as usize;
    let last = name[name.len() - 1].to_ascii_lowercase() as usize;
    (first * 31 + middle * 7 + last * 3 + name.len() * 61) % 256
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Other { "Other" } else { self.as_str() })
    }
}

/// A field name as callers give it: one of the known names, or text for the rest.
#[derive(Clone, Copy, Debug)]
pub enum FieldName<'a> {
    /// A known field.
    Known(HeaderName),
    /// Any other field; must be a token to be written.
    Text(&'a str),
}

impl<'a> FieldName<'a> {
    /// The name as it is written.
    pub fn as_str(self) -> &'a str {
        match self {
            Self::Known(name) => name.as_str(),
            Self::Text(text) => text,
        }
    }
}

impl PartialEq for FieldName<'_> {
    /// Names compare case-insensitively (RFC 3261 §7.3.1).
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Known(a), Self::Known(b)) => a == b,
            _ => self.as_str().eq_ignore_ascii_case(other.as_str()),
        }
    }
}

impl Eq for FieldName<'_> {}

impl From<HeaderName> for FieldName<'_> {
    fn from(name: HeaderName) -> Self {
        Self::Known(name)
    }
}

impl<'a> From<&'a str> for FieldName<'a> {
    fn from(text: &'a str) -> Self {
        match HeaderName::lookup(text.as_bytes()) {
            HeaderName::Other => Self::Text(text),
            known => Self::Known(known),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case() {
        for (index, (name, text)) in NAMES.iter().enumerate() {
            assert_eq!(*name as usize, index);
            for spelling in [text.to_string(), text.to_ascii_lowercase(), text.to_ascii_uppercase()] {
                assert_eq!(HeaderName::lookup(spelling.as_bytes()), *name, "{spelling}");
            }
        }
    }

    #[test]
    fn compact_forms_are_found_and_unique() {
        for (name, letter) in COMPACT {
            assert_eq!(HeaderName::lookup(letter.as_bytes()), *name);
            assert_eq!(HeaderName::lookup(letter.to_ascii_uppercase().as_bytes()), *name);
            assert_eq!(COMPACT.iter().filter(|(_, other)| other == letter).count(), 1);
        }
    }

    #[test]
    fn unknown_names_are_other() {
        for name in ["", "z", "X-Custom", "Vi", "Call-IDs", "Frmo"] {
            assert_eq!(HeaderName::lookup(name.as_bytes()), HeaderName::Other, "{name}");
        }
    }

    #[test]
    fn text_names_that_are_known_compare_equal_to_the_known_name() {
        assert_eq!(
            FieldName::from("record-route"),
            FieldName::from(HeaderName::RecordRoute)
        );
        assert_eq!(FieldName::from("X-Foo"), FieldName::from("x-foo"));
        assert_ne!(FieldName::from("X-Foo"), FieldName::from("X-Bar"));
    }
}
