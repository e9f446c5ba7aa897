//! HA1 = H(username ":" realm ":" password) for each algorithm (RFC 7616 §3.4.2; RFC 8760 §2.2 for the SHA-2 family).

use md5::{Digest, Md5};
use ring::digest::{Algorithm, SHA256, SHA512_256};
use zeroize::Zeroizing;

use crate::store::credential::Ha1;

/// The three hashes workers check answers with.
pub(super) fn compute(username: &str, realm: &str, password: &str) -> Ha1 {
    let text = Zeroizing::new(format!("{username}:{realm}:{password}"));
    Ha1 {
        md5: Md5::digest(text.as_bytes()).into(),
        sha256: hash(&SHA256, text.as_bytes()),
        sha512_256: hash(&SHA512_256, text.as_bytes()),
    }
}

fn hash(algorithm: &'static Algorithm, text: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(algorithm, text);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(octets: &[u8]) -> String {
        octets.iter().map(|octet| format!("{octet:02x}")).collect()
    }

    /// User, realm and password of RFC 7616 §3.9.1 and, for MD5, of RFC 2617 §3.5.
    #[test]
    fn the_hashes_are_those_of_the_specifications() {
        let ha1 = compute("Mufasa", "http-auth@example.org", "Circle of Life");
        assert_eq!(hex(&ha1.md5), "3d78807defe7de2157e2b0b6573a855f");
        assert_eq!(
            hex(&ha1.sha256),
            "7987c64c30e25f1b74be53f966b49b90f2808aa92faf9a00262392d7b4794232"
        );
        let ha1 = compute("Mufasa", "testrealm@host.com", "Circle Of Life");
        assert_eq!(hex(&ha1.md5), "939e7578ed9e3c518a452acee763bce9");
    }

    #[test]
    fn sha_512_256_has_its_own_initial_value() {
        // The algorithm of FIPS 180-4 §5.3.6, not SHA-512 cut short: its hash of "abc".
        assert_eq!(
            hex(&hash(&SHA512_256, b"abc")),
            "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"
        );
    }
}
