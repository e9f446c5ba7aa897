//! Digest users of a trunk (rows 37 and 38): as operators write them, and as workers need them.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::name::CredentialName;
use crate::secret::Secret;

/// A digest user as written: the password is there only on its way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestUser {
    /// Its name.
    pub name: CredentialName,
    /// Row 37: 1-128 characters, no quote or control character; compared exactly.
    pub username: Arc<str>,
    /// Row 38: 1-128 characters, or empty when the write does not change it.
    pub password: Secret,
    /// Whether a password is stored.
    pub has_password: bool,
    /// Whether it may be used.
    pub enabled: bool,
    /// User part of the only address of record it may use; empty: the user name.
    pub aor_user: Arc<str>,
}

impl DigestUser {
    /// User part of the address of record it may use.
    pub fn aor_user(&self) -> &str {
        if self.aor_user.is_empty() {
            &self.username
        } else {
            &self.aor_user
        }
    }
}

/// A digest user as workers need it: hashes instead of the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Its name.
    pub name: CredentialName,
    /// Compared exactly with the `username` of the request (RFC 7616 §3.4).
    pub username: Arc<str>,
    /// Whether it may be used.
    pub enabled: bool,
    /// User part of the only address of record it may register and call as; never empty.
    pub aor_user: Arc<str>,
    /// Realm the hashes were computed for.
    pub realm: Arc<str>,
    /// HA1 by algorithm.
    pub ha1: Ha1Set,
}

/// Digest algorithms (RFC 7616, RFC 8760).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DigestAlgorithm {
    /// `MD5`.
    Md5,
    /// `SHA-256`.
    Sha256,
    /// `SHA-512-256`.
    Sha512_256,
}

impl DigestAlgorithm {
    /// Token of the `algorithm` parameter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
            Self::Sha512_256 => "SHA-512-256",
        }
    }
}

impl fmt::Display for DigestAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why texts are no HA1 set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {0} hash is not lower-case hex of the right length")]
pub struct Ha1Error(pub DigestAlgorithm);

/// H(username:realm:password) in lower-case hex for each algorithm (RFC 7616 §3.4.2). As good as the password: never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Ha1Set {
    md5: Zeroizing<String>,
    sha256: Zeroizing<String>,
    sha512_256: Zeroizing<String>,
}

impl Ha1Set {
    /// Checks the form of the three hashes: 32, 64 and 64 lower-case hex digits.
    pub fn new(md5: String, sha256: String, sha512_256: String) -> Result<Self, Ha1Error> {
        let set = Self {
            md5: Zeroizing::new(md5),
            sha256: Zeroizing::new(sha256),
            sha512_256: Zeroizing::new(sha512_256),
        };
        for (algorithm, len) in [
            (DigestAlgorithm::Md5, 32),
            (DigestAlgorithm::Sha256, 64),
            (DigestAlgorithm::Sha512_256, 64),
        ] {
            let hash = set.hash(algorithm);
            if hash.len() != len || !hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(Ha1Error(algorithm));
            }
        }
        Ok(set)
    }

    /// The hash of one algorithm, in lower-case hex.
    pub fn hash(&self, algorithm: DigestAlgorithm) -> &str {
        match algorithm {
            DigestAlgorithm::Md5 => &self.md5,
            DigestAlgorithm::Sha256 => &self.sha256,
            DigestAlgorithm::Sha512_256 => &self.sha512_256,
        }
    }
}

impl fmt::Debug for Ha1Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<set>")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn credential(name: &str, username: &str, realm: &str) -> Credential {
        Credential {
            name: name.parse().unwrap(),
            username: username.into(),
            enabled: true,
            aor_user: username.into(),
            realm: realm.into(),
            ha1: Ha1Set::new("a".repeat(32), "b".repeat(64), "c".repeat(64)).unwrap(),
        }
    }

    #[test]
    fn hashes_are_checked_and_never_shown() {
        let credential = credential("trunks/t/credentials/c", "alice", "example.com");
        assert_eq!(credential.ha1.hash(DigestAlgorithm::Sha512_256), "c".repeat(64));
        let shown = format!("{credential:?}");
        assert!(
            shown.contains("alice") && !shown.contains("aaaa") && !shown.contains("bbbb"),
            "{shown}"
        );
        assert_eq!(
            Ha1Set::new("a".repeat(31), "b".repeat(64), "c".repeat(64)).unwrap_err(),
            Ha1Error(DigestAlgorithm::Md5)
        );
        assert_eq!(
            Ha1Set::new("a".repeat(32), "B".repeat(64), "c".repeat(64)).unwrap_err(),
            Ha1Error(DigestAlgorithm::Sha256)
        );
    }
}
