//! Matching: which transaction a message belongs to (RFC 3261 §17.1.3, §17.2.3).
//!
//! A key is turned into one canonical byte string. Every field carries its length, so that no two different sets of
//! fields make the same string, and fields that RFC 3261 §7.3.1 calls case-insensitive are folded.

use std::net::IpAddr;

use crate::header::{HeaderName, MAGIC_COOKIE, Via};
use crate::message::{Request, Response};
use crate::method::Method;
use crate::uri::Host;

/// What a received request is matched by. Everything borrows from the message.
#[derive(Debug, Clone, Copy)]
pub struct RequestKey<'a> {
    /// The method of the request line.
    pub method: &'a Method,
    /// The `branch` parameter of the top Via; empty when there is none.
    pub branch: &'a [u8],
    /// The host of the sent-by of the top Via.
    pub host: Host<'a>,
    /// The port of the sent-by of the top Via, when it has one.
    pub port: Option<u16>,
    /// The fields that stand in for a branch without the magic cookie.
    pub rfc2543: Rfc2543Key<'a>,
}

/// The fields RFC 3261 §17.2.3 falls back to when the branch does not start with [`MAGIC_COOKIE`].
///
/// The To tag is left out: an ACK would have to be compared with the tag of a response that only the transaction user
/// knows. Two requests that agree in everything else and differ in the To tag are taken for the same transaction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rfc2543Key<'a> {
    /// The Request-URI as written.
    pub request_uri: &'a [u8],
    /// The From tag; empty when there is none.
    pub from_tag: &'a [u8],
    /// The Call-ID.
    pub call_id: &'a [u8],
    /// The CSeq number.
    pub cseq: u32,
    /// The whole top Via value as written.
    pub top_via: &'a [u8],
}

/// What a received response is matched by (RFC 3261 §17.1.3).
#[derive(Debug, Clone, Copy)]
pub struct ResponseKey<'a> {
    /// The method of the CSeq header.
    pub method: &'a Method,
    /// The `branch` parameter of the top Via, which the caller has checked to be its own.
    pub branch: &'a [u8],
}

impl<'a> RequestKey<'a> {
    /// The key of a parsed request.
    #[must_use]
    pub fn of(request: &'a Request) -> Self {
        Self::with_via(request, &request.top_via())
    }

    /// The key of a parsed request whose top Via the caller has read already.
    #[must_use]
    pub fn with_via(request: &'a Request, via: &Via<'a>) -> Self {
        Self {
            method: request.method(),
            branch: request.branch().unwrap_or_default().as_bytes(),
            host: via.host(),
            port: via.port(),
            rfc2543: Rfc2543Key {
                request_uri: request.uri_text().as_bytes(),
                from_tag: request.from_tag().unwrap_or_default().as_bytes(),
                call_id: request.call_id().as_bytes(),
                cseq: request.cseq_number(),
                top_via: request.values(HeaderName::Via).next().unwrap_or_default(),
            },
        }
    }
}

impl<'a> ResponseKey<'a> {
    /// The key of a parsed response.
    #[must_use]
    pub fn of(response: &'a Response) -> Self {
        Self {
            method: response.cseq_method(),
            branch: response.branch().unwrap_or_default().as_bytes(),
        }
    }
}

/// Which table a key is for; also the first byte of the canonical string.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Side {
    Client = 1,
    Server = 2,
    ServerRfc2543 = 3,
}

/// Writes the client key into `out`, replacing its content.
pub(super) fn write_client(out: &mut Vec<u8>, method: &Method, branch: &[u8]) {
    start(out, Side::Client, method);
    push_folded(out, branch);
}

/// Writes the server key of `key` into `out`, as if its method were `method`: ACK and CANCEL look for their INVITE.
pub(super) fn write_server(out: &mut Vec<u8>, key: &RequestKey<'_>, method: &Method) {
    if has_magic_cookie(key.branch) {
        start(out, Side::Server, method);
        push_folded(out, key.branch);
        push_sent_by(out, key.host, key.port);
    } else {
        let fallback = &key.rfc2543;
        start(out, Side::ServerRfc2543, method);
        push_exact(out, fallback.request_uri);
        push_folded(out, fallback.from_tag);
        push_exact(out, fallback.call_id);
        push_folded(out, fallback.top_via);
        out.extend_from_slice(&fallback.cseq.to_be_bytes());
    }
}

/// Names are compared without case, addresses by value: `[2001:db8::1]` and `[2001:DB8:0::1]` are one sent-by.
fn push_sent_by(out: &mut Vec<u8>, host: Host<'_>, port: Option<u16>) {
    match host {
        Host::Name(name) => push_folded(out, name.as_bytes()),
        Host::Ip(IpAddr::V4(address)) => push_exact(out, &address.octets()),
        Host::Ip(IpAddr::V6(address)) => push_exact(out, &address.octets()),
    }
    out.push(u8::from(matches!(host, Host::Ip(_))));
    out.extend_from_slice(&port.unwrap_or(0).to_be_bytes());
}

/// A bare cookie names nothing, so it counts as absent: such a sender is matched by the RFC 2543 fields.
fn has_magic_cookie(branch: &[u8]) -> bool {
    let cookie = MAGIC_COOKIE.as_bytes();
    branch.len() > cookie.len() && branch[..cookie.len()].eq_ignore_ascii_case(cookie)
}

fn start(out: &mut Vec<u8>, side: Side, method: &Method) {
    out.clear();
    out.push(side as u8);
    push_exact(out, method.as_str().as_bytes());
}

fn push_exact(out: &mut Vec<u8>, field: &[u8]) {
    push_length(out, field);
    out.extend_from_slice(field);
}

fn push_folded(out: &mut Vec<u8>, field: &[u8]) {
    push_length(out, field);
    let start = out.len();
    out.extend_from_slice(field);
    out[start..].make_ascii_lowercase();
}

fn push_length(out: &mut Vec<u8>, field: &[u8]) {
    out.extend_from_slice(&(field.len() as u64).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(branch: &str, host: &str, method: &Method) -> Vec<u8> {
        with_port(branch, host, None, method)
    }

    fn with_port(branch: &str, host: &str, port: Option<u16>, method: &Method) -> Vec<u8> {
        let key = RequestKey {
            method,
            branch: branch.as_bytes(),
            host: Host::parse(host).unwrap(),
            port,
            rfc2543: Rfc2543Key {
                request_uri: b"sip:a@b",
                call_id: b"c",
                cseq: 1,
                ..Rfc2543Key::default()
            },
        };
        let mut out = Vec::new();
        write_server(&mut out, &key, method);
        out
    }

    #[test]
    fn branch_and_sent_by_are_compared_without_case() {
        assert_eq!(
            server("z9hG4bKabc", "Host.example", &Method::Invite),
            server("Z9HG4BKABC", "host.example", &Method::Invite)
        );
    }

    #[test]
    fn sent_by_separates_equal_branches() {
        let ports = [None, Some(5060), Some(5061)].map(|port| with_port("z9hG4bKabc", "a", port, &Method::Invite));
        assert_ne!(ports[0], ports[1]);
        assert_ne!(ports[1], ports[2]);
        assert_ne!(
            server("z9hG4bKabc", "a", &Method::Invite),
            server("z9hG4bKabc", "b", &Method::Invite)
        );
        assert_eq!(
            server("z9hG4bKabc", "[2001:db8::1]", &Method::Invite),
            server("z9hG4bKabc", "[2001:DB8:0::1]", &Method::Invite)
        );
    }

    #[test]
    fn method_separates_equal_branches() {
        assert_ne!(
            server("z9hG4bKabc", "a", &Method::Invite),
            server("z9hG4bKabc", "a", &Method::Cancel)
        );
    }

    #[test]
    fn fields_cannot_flow_into_each_other() {
        assert_ne!(
            server("z9hG4bKab", "c", &Method::Invite),
            server("z9hG4bKa", "bc", &Method::Invite)
        );
    }

    #[test]
    fn a_branch_without_the_cookie_is_matched_by_the_rfc_2543_fields() {
        assert_eq!(
            server("1", "a", &Method::Invite),
            server("2", "b", &Method::Invite),
            "branch and sent-by ignored"
        );
        assert_eq!(
            server("z9hG4bK", "a", &Method::Invite),
            server("", "a", &Method::Invite),
            "a bare cookie is none"
        );
        assert_ne!(
            server("", "a", &Method::Invite),
            server("z9hG4bK1", "a", &Method::Invite)
        );
    }
}
