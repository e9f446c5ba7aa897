//! Requests, from what the phone is and what it wants (RFC 3261 §8.1.1).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use trunkline_sip::header::{HeaderName, MAGIC_COOKIE};
use trunkline_sip::method::Method;
use trunkline_sip::uri::escape_user;
use trunkline_sip::write::{INITIAL_MAX_FORWARDS, RequestBuilder, WriteError};

use super::ALLOW;
use super::transport::Protocol;

const USER_AGENT: &str = concat!("trunkline-check/", env!("CARGO_PKG_VERSION"));

/// Where the phone is and by what address of record it is known.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    user: String,
    server: SocketAddr,
    local: SocketAddr,
    protocol: Protocol,
}

impl Identity {
    pub(super) fn new(user: &str, server: SocketAddr, local: SocketAddr, protocol: Protocol) -> Self {
        Self {
            user: user.to_owned(),
            server,
            local,
            protocol,
        }
    }

    /// Request-URI of a REGISTER: the registrar's domain (RFC 3261 §10.2).
    pub(super) fn registrar(&self) -> String {
        format!("sip:{}{}", self.server, self.transport_param())
    }

    /// Address of record of a user of this server: From and To hold no port and no transport (RFC 3261 §19.1.1, table 1).
    pub(super) fn address_of_record(&self, user: &str) -> String {
        match self.server.ip() {
            IpAddr::V4(ip) => format!("sip:{}@{ip}", escape_user(user)),
            IpAddr::V6(ip) => format!("sip:{}@[{ip}]", escape_user(user)),
        }
    }

    /// Request-URI for a user of this server.
    pub(super) fn request_uri(&self, user: &str) -> String {
        format!("sip:{}@{}{}", escape_user(user), self.server, self.transport_param())
    }

    /// Transport to the server.
    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// User part of the phone's own address of record.
    pub(super) fn user(&self) -> &str {
        &self.user
    }

    /// Contact of this phone.
    pub(super) fn contact(&self) -> String {
        format!(
            "<sip:{}@{}{}>",
            escape_user(&self.user),
            self.local,
            self.transport_param()
        )
    }

    fn via(&self, branch: &str) -> String {
        // With rport, so that answers come back through a NAT as well (RFC 3581).
        format!(
            "SIP/2.0/{} {};branch={branch};rport",
            self.protocol.as_str(),
            self.local
        )
    }

    fn transport_param(&self) -> &'static str {
        match self.protocol {
            Protocol::Udp => "",
            Protocol::Tls => ";transport=tls",
        }
    }
}

/// A request but for its Via.
#[derive(Clone)]
pub(super) struct Draft {
    pub(super) method: Method,
    pub(super) uri: String,
    /// From, tag included.
    pub(super) from: String,
    /// To, tag included inside a dialog.
    pub(super) to: String,
    pub(super) call_id: String,
    pub(super) cseq: u32,
    pub(super) routes: Vec<String>,
    /// Seconds, in a REGISTER.
    pub(super) expires: Option<u32>,
    /// Authorization or Proxy-Authorization.
    pub(super) credentials: Option<(HeaderName, String)>,
    /// Session description.
    pub(super) body: Option<Bytes>,
}

impl Draft {
    /// A request outside of any dialog, to `user` of the same server.
    pub(super) fn new(method: Method, uri: String, identity: &Identity, user: &str, call_id: &str, cseq: u32) -> Self {
        Self {
            method,
            uri,
            from: format!("<{}>;tag={}", identity.address_of_record(identity.user()), token()),
            to: format!("<{}>", identity.address_of_record(user)),
            call_id: call_id.to_owned(),
            cseq,
            routes: Vec::new(),
            expires: None,
            credentials: None,
            body: None,
        }
    }

    /// The whole message.
    pub(super) fn build(&self, identity: &Identity, branch: &str) -> Result<Bytes, WriteError> {
        let mut builder = RequestBuilder::new(&self.method, &self.uri)
            .header(HeaderName::Via, identity.via(branch))
            .header(HeaderName::MaxForwards, INITIAL_MAX_FORWARDS);
        for route in &self.routes {
            builder = builder.header(HeaderName::Route, route);
        }
        builder = builder
            .header(HeaderName::From, &self.from)
            .header(HeaderName::To, &self.to)
            .header(HeaderName::CallId, &self.call_id)
            .header(HeaderName::CSeq, format_args!("{} {}", self.cseq, self.method))
            .header(HeaderName::UserAgent, USER_AGENT);
        if matches!(self.method, Method::Register | Method::Invite) {
            builder = builder.header(HeaderName::Contact, identity.contact());
        }
        if self.method == Method::Invite {
            builder = builder.header(HeaderName::Allow, ALLOW);
        }
        if let Some(expires) = self.expires {
            builder = builder.header(HeaderName::Expires, expires);
        }
        if let Some((name, value)) = &self.credentials {
            builder = builder.header(*name, value);
        }
        if let Some(body) = &self.body {
            builder = builder.body("application/sdp", body.clone());
        }
        builder.build()
    }
}

impl fmt::Debug for Draft {
    /// No credentials and no body: both hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.method, self.uri, self.call_id)
    }
}

/// A branch no other transaction has (RFC 3261 §8.1.1.7).
pub(super) fn branch() -> String {
    format!("{MAGIC_COOKIE}{}", token())
}

/// 64 random bits, for tags and Call-IDs (RFC 3261 §19.3).
pub(super) fn token() -> String {
    format!("{:016x}", rand::random::<u64>())
}

#[cfg(test)]
mod tests {
    use trunkline_sip::message::{Message, Request};
    use trunkline_sip::parse::{Framing, Limits, Parsed, parse};

    use super::*;

    fn identity(protocol: Protocol) -> Identity {
        let server = "127.0.0.1:8060".parse().unwrap();
        Identity::new("1001", server, "127.0.0.1:40000".parse().unwrap(), protocol)
    }

    fn parsed(draft: &Draft, identity: &Identity) -> Request {
        let bytes = draft.build(identity, &branch()).unwrap();
        match parse(bytes, Framing::Stream, &Limits::default()) {
            Parsed::Understood(Message::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_register_says_who_where_and_how_long() {
        let identity = identity(Protocol::Udp);
        let mut draft = Draft::new(Method::Register, identity.registrar(), &identity, "1001", "id", 7);
        draft.expires = Some(600);
        let request = parsed(&draft, &identity);
        assert_eq!(request.uri_text(), "sip:127.0.0.1:8060");
        assert_eq!(request.to().uri().as_str(), "sip:1001@127.0.0.1");
        assert_eq!(
            (request.to_tag(), request.cseq_number(), request.call_id()),
            (None, 7, "id")
        );
        assert_eq!(
            request.line(HeaderName::Contact),
            Some(&b"<sip:1001@127.0.0.1:40000>"[..])
        );
        assert_eq!(request.line_text(HeaderName::Expires), Some("600"));
        assert!(request.top_via().unique_branch().is_some() && request.top_via().has_rport());
    }

    #[test]
    fn over_tls_every_uri_says_so() {
        let identity = identity(Protocol::Tls);
        let draft = Draft::new(Method::Invite, identity.request_uri("2002"), &identity, "2002", "id", 1);
        let request = parsed(&draft, &identity);
        assert_eq!(request.uri_text(), "sip:2002@127.0.0.1:8060;transport=tls");
        assert_eq!(
            request.line(HeaderName::Contact),
            Some(&b"<sip:1001@127.0.0.1:40000;transport=tls>"[..])
        );
        assert_eq!(request.top_via().transport().as_str(), "TLS");
    }

    #[test]
    fn users_are_escaped_and_ipv6_is_bracketed() {
        let server = "[::1]:8060".parse().unwrap();
        let identity = Identity::new("a b", server, "[::1]:40000".parse().unwrap(), Protocol::Udp);
        assert_eq!(identity.address_of_record(identity.user()), "sip:a%20b@[::1]");
        assert_eq!(identity.request_uri("c"), "sip:c@[::1]:8060");
    }

    #[test]
    fn debug_shows_neither_credentials_nor_keys() {
        let identity = identity(Protocol::Udp);
        let mut draft = Draft::new(Method::Invite, identity.request_uri("1"), &identity, "1", "id", 1);
        draft.credentials = Some((HeaderName::Authorization, "Digest response=c0ffee".into()));
        draft.body = Some(Bytes::from_static(b"a=crypto:1 inline:c0ffee"));
        assert!(!format!("{draft:?}").contains("c0ffee"));
    }
}
