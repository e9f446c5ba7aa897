//! Digest authentication (RFC 7616, RFC 8760, RFC 3261 §22), both sides, without state but what replay protection needs.
//!
//! Decisions:
//!
//! - **Only `qop="auth"`** is offered and accepted; `auth-int` is refused, because peers give up on it.
//! - **A client without `qop`** (RFC 2069 style, RFC 3261 §22.4 item 8) is accepted, but its nonce then works once: without a
//!   nonce count there is no other way to tell a repetition from a request.
//! - **`userhash`** is not offered, and credentials that use it are refused as malformed.
//! - **The digest URI** must name the same scheme, user and host as the Request-URI. Parameters and port may differ: proxies and
//!   phones change them.
//! - **Nonces are signed, not stored** ([`NonceKey`]): every worker that holds the key accepts them.

use std::fmt;

use md5::Md5;
use sha2::digest::Digest;
use sha2::{Sha256, Sha512_256};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

mod client;
mod nonce;
mod replay;
mod server;
#[cfg(test)]
mod tests;

pub use client::{ChallengeError, ClientDigest};
pub use nonce::NonceKey;
pub use replay::ReplayGuard;
pub use server::{Authenticated, DigestServer, Outcome, Role};

/// A digest algorithm (RFC 7616 §6.1). Session variants (`-sess`) are not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// `MD5`
    Md5,
    /// `SHA-256`
    Sha256,
    /// `SHA-512-256`
    Sha512_256,
}

impl Algorithm {
    /// The token of the registry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
            Self::Sha512_256 => "SHA-512-256",
        }
    }

    /// Reads a token case-insensitively.
    pub fn parse(token: &str) -> Option<Self> {
        [Self::Md5, Self::Sha256, Self::Sha512_256]
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(token))
    }

    /// Digits of a hash in hexadecimal: 32 or 64.
    pub fn hex_len(self) -> usize {
        if self == Self::Md5 { 32 } else { 64 }
    }

    fn hash(self, parts: &[&[u8]]) -> Hex {
        fn run<D: Digest>(parts: &[&[u8]]) -> Hex {
            let mut hasher = D::new();
            for part in parts {
                hasher.update(part);
            }
            Hex::encode(&hasher.finalize())
        }
        match self {
            Self::Md5 => run::<Md5>(parts),
            Self::Sha256 => run::<Sha256>(parts),
            Self::Sha512_256 => run::<Sha512_256>(parts),
        }
    }
}

/// H(user ":" realm ":" password), what a server needs to check a password (RFC 7616 §3.4.2). As good as the password itself
/// within its realm: never logged, wiped when dropped.
#[derive(Clone)]
pub struct Ha1 {
    algorithm: Algorithm,
    hex: Hex,
}

impl Ha1 {
    /// Takes lower- or upper-case hexadecimal digits; `None` unless there are exactly [`Algorithm::hex_len`] of them.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Option<Self> {
        Some(Self {
            algorithm,
            hex: Hex::parse(hex).filter(|parsed| parsed.as_bytes().len() == algorithm.hex_len())?,
        })
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Lower-case hexadecimal digits. A secret.
    pub fn expose_hex(&self) -> &str {
        self.hex.as_str()
    }
}

impl Drop for Ha1 {
    fn drop(&mut self) {
        self.hex.digits.zeroize();
    }
}

impl fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ha1({}, redacted)", self.algorithm.as_str())
    }
}

/// Computes HA1.
pub fn ha1(algorithm: Algorithm, user: &str, realm: &str, password: &str) -> Ha1 {
    let hex = algorithm.hash(&[user.as_bytes(), b":", realm.as_bytes(), b":", password.as_bytes()]);
    Ha1 { algorithm, hex }
}

/// What goes into `response` besides HA1.
pub(crate) struct ResponseInput<'a> {
    pub(crate) nonce: &'a str,
    /// `nc` as eight digits and `cnonce`, with `qop=auth`; `None` without qop.
    pub(crate) count: Option<(&'a str, &'a str)>,
    pub(crate) method: &'a str,
    pub(crate) uri: &'a str,
}

/// RFC 7616 §3.4.1; without qop RFC 2617 §3.2.2.1.
pub(crate) fn response(ha1: &Ha1, input: &ResponseInput<'_>) -> Hex {
    let ha2 = ha1
        .algorithm
        .hash(&[input.method.as_bytes(), b":", input.uri.as_bytes()]);
    let (ha1_hex, ha2_hex, nonce) = (ha1.hex.as_bytes(), ha2.as_bytes(), input.nonce.as_bytes());
    match input.count {
        Some((nc, cnonce)) => ha1.algorithm.hash(&[
            ha1_hex,
            b":",
            nonce,
            b":",
            nc.as_bytes(),
            b":",
            cnonce.as_bytes(),
            b":auth:",
            ha2_hex,
        ]),
        None => ha1.algorithm.hash(&[ha1_hex, b":", nonce, b":", ha2_hex]),
    }
}

/// Up to 64 lower-case hexadecimal digits, kept in place.
#[derive(Clone)]
pub(crate) struct Hex {
    digits: [u8; 64],
    len: usize,
}

impl Hex {
    fn encode(bytes: &[u8]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; 64];
        let pairs = digits.chunks_exact_mut(2).zip(bytes);
        for (pair, byte) in pairs {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        Self {
            digits,
            len: (bytes.len() * 2).min(64),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text.len() > 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut digits = [0; 64];
        digits[..text.len()].copy_from_slice(text.as_bytes());
        digits.make_ascii_lowercase();
        Some(Self {
            digits,
            len: text.len(),
        })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.digits[..self.len]
    }

    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("hexadecimal digits are ASCII")
    }

    /// Compares in constant time; the length of a hash is no secret.
    pub(crate) fn matches(&self, other: &Hex) -> bool {
        self.as_bytes().ct_eq(other.as_bytes()).into()
    }
}
