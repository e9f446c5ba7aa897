//! Tokens in the user part of our Record-Route URIs: they say where an in-dialog request goes next.
//!
//! A call is tracked, so its token only names it. Other dialogs (subscriptions) are not: their token carries the flow to
//! use, as an edge proxy does (RFC 5626 §5.2). Both are authenticated: nobody else can make us send to an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use trunkline_shared::name::TrunkId;

use crate::io::{ConnectionId, Flow, Transport};

/// What a token of ours says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// A call of this shard, by its serial number.
    Call(u64),
    /// The flow the next request goes over, within one dialog.
    Flow(Flow, DialogMark),
}

/// What is known of a dialog when its first request passes: Call-ID and tag of the one that sent it, as one number. A token
/// with another dialog's mark is worthless, so nobody can use the one of an old subscription to reach a phone with
/// whatever it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DialogMark(u64);

impl DialogMark {
    /// The mark of the dialog that `tag` began.
    pub(crate) fn new(call_id: &str, tag: &str) -> Self {
        let digest = Sha256::new()
            .chain_update((call_id.len() as u64).to_be_bytes())
            .chain_update(call_id)
            .chain_update(tag)
            .finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(first))
    }
}

/// Octets of the authentication code: 80 bits, guessed over the network or not at all.
const MAC_LEN: usize = 10;
/// Longest token read: the longest trunk name with two IPv6 addresses needs 163 characters.
const MAX_TEXT: usize = 192;

const KIND_CALL: u8 = 1;
const KIND_FLOW: u8 = 2;

/// Makes and reads tokens.
pub(crate) struct Tokens {
    mac: Hmac<Sha256>,
}

impl Tokens {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let mac = Hmac::new_from_slice(key).expect("HMAC takes a key of any length");
        Self { mac }
    }

    /// A key for another purpose, as secret as this one.
    pub(crate) fn derived_key(&self) -> [u8; 32] {
        self.mac
            .clone()
            .chain_update(b"digest nonces")
            .finalize()
            .into_bytes()
            .into()
    }

    pub(crate) fn write(&self, token: &Token) -> String {
        let mut out = Vec::with_capacity(64);
        match token {
            Token::Call(serial) => {
                out.push(KIND_CALL);
                out.extend_from_slice(&serial.to_be_bytes());
            }
            Token::Flow(flow, dialog) => {
                out.push(KIND_FLOW);
                out.extend_from_slice(&dialog.0.to_be_bytes());
                out.push(match flow.transport {
                    Transport::Udp => 0,
                    Transport::Tcp => 1,
                    Transport::Tls => 2,
                });
                write_address(&mut out, flow.local);
                write_address(&mut out, flow.remote);
                out.extend_from_slice(&flow.connection.map_or(0, |id| id.0.wrapping_add(1)).to_be_bytes());
                out.extend_from_slice(flow.trunk.as_str().as_bytes());
            }
        }
        let mac = self.mac.clone().chain_update(&out).finalize().into_bytes();
        out.extend_from_slice(&mac[..MAC_LEN]);
        URL_SAFE_NO_PAD.encode(out)
    }

    /// Reads a token; `None` for anything we did not write.
    pub(crate) fn read(&self, text: &str) -> Option<Token> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_LEN)?)?;
        self.mac.clone().chain_update(body).verify_truncated_left(mac).ok()?;
        let (kind, rest) = body.split_first()?;
        match *kind {
            KIND_CALL => Some(Token::Call(u64::from_be_bytes(rest.try_into().ok()?))),
            KIND_FLOW => {
                let (dialog, rest) = rest.split_first_chunk::<8>()?;
                read_flow(rest).map(|flow| Token::Flow(flow, DialogMark(u64::from_be_bytes(*dialog))))
            }
            _ => None,
        }
    }
}

fn read_flow(bytes: &[u8]) -> Option<Flow> {
    let (transport, rest) = bytes.split_first()?;
    let transport = match transport {
        0 => Transport::Udp,
        1 => Transport::Tcp,
        2 => Transport::Tls,
        _ => return None,
    };
    let (local, rest) = read_address(rest)?;
    let (remote, rest) = read_address(rest)?;
    let (connection, trunk) = rest.split_first_chunk::<8>()?;
    let connection = u64::from_be_bytes(*connection).checked_sub(1).map(ConnectionId);
    let trunk = TrunkId::new(std::str::from_utf8(trunk).ok()?).ok()?;
    Some(Flow {
        trunk,
        transport,
        local,
        remote,
        connection,
    })
}

fn write_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

fn read_address(bytes: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (family, rest) = bytes.split_first()?;
    let (ip, rest): (IpAddr, &[u8]) = match family {
        4 => rest
            .split_first_chunk::<4>()
            .map(|(octets, rest)| (Ipv4Addr::from(*octets).into(), rest))?,
        6 => rest
            .split_first_chunk::<16>()
            .map(|(octets, rest)| (Ipv6Addr::from(*octets).into(), rest))?,
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk::<2>()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(remote: &str, connection: Option<u64>) -> Flow {
        Flow {
            trunk: TrunkId::new("a-trunk").unwrap(),
            transport: Transport::Tls,
            local: "192.0.2.1:8061".parse().unwrap(),
            remote: remote.parse().unwrap(),
            connection: connection.map(ConnectionId),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let tokens = Tokens::new(&[7; 32]);
        for token in [
            Token::Call(0),
            Token::Call(u64::MAX),
            Token::Flow(flow("198.51.100.7:40000", Some(0)), DialogMark(0)),
            Token::Flow(flow("[2001:db8::7]:40000", None), DialogMark(u64::MAX)),
        ] {
            assert_eq!(tokens.read(&tokens.write(&token)), Some(token));
        }
    }

    #[test]
    fn a_changed_character_or_another_key_makes_it_worthless() {
        let tokens = Tokens::new(&[7; 32]);
        let text = tokens.write(&Token::Flow(flow("198.51.100.7:40000", Some(3)), DialogMark(1)));
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            // The last character of base64 may hold padding bits only.
            assert!(tokens.read(&forged).is_none() || at + 1 == text.len(), "position {at}");
        }
        assert_eq!(Tokens::new(&[8; 32]).read(&text), None);
    }

    #[test]
    fn the_longest_token_is_within_the_limit() {
        let mut longest = flow("[2001:db8::7]:40000", Some(u64::MAX - 1));
        longest.local = "[2001:db8::1]:8061".parse().unwrap();
        longest.trunk = TrunkId::new(&format!("a{}", "b".repeat(62))).unwrap();
        let text = Tokens::new(&[1; 32]).write(&Token::Flow(longest, DialogMark(u64::MAX)));
        assert!(text.len() <= MAX_TEXT, "{}", text.len());
    }

    #[test]
    fn garbage_is_nobody() {
        let tokens = Tokens::new(&[7; 32]);
        for text in ["", "alice", "AAAA", "%%%", "AQAAAAAAAAAA"] {
            assert_eq!(tokens.read(text), None, "{text}");
        }
    }
}
