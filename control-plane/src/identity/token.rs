//! Bearer secrets: 256 random bits, kept only as their SHA-256. A token reads `{kind}.{id}.{64 hex digits}`; the id
//! finds the row, the secret is compared in constant time.

use rand::RngExt as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// What a token is for; a token of one kind is never taken for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Opens the API.
    Api,
    /// Enrolls workers.
    Join,
}

impl TokenKind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Api => "trunkline",
            Self::Join => "join",
        }
    }
}

/// A token just made. Its text is shown once; the hash is what is stored.
pub struct MintedToken {
    /// What the bearer sends.
    pub text: Zeroizing<String>,
    /// SHA-256 of its secret part.
    pub hash: [u8; 32],
}

impl std::fmt::Debug for MintedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MintedToken(<redacted>)")
    }
}

/// Makes a token for the row called `id`, which holds no dot.
pub fn mint(kind: TokenKind, id: &str) -> MintedToken {
    let mut secret = Zeroizing::new([0_u8; 32]);
    rand::rng().fill(&mut secret[..]);
    let mut text = Zeroizing::new(format!("{}.{id}.", kind.prefix()));
    for octet in secret.iter() {
        for nibble in [octet >> 4, octet & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
    let hash = hash(&text[text.len() - 64..]);
    MintedToken { text, hash }
}

/// A random id for a token or an enrollment: a letter and 15 hex digits.
pub fn random_id() -> String {
    let random: u64 = rand::rng().random();
    format!("t{:015x}", random >> 4)
}

/// A token as presented: which row, and the hash to compare with it.
pub struct PresentedToken<'a> {
    /// Id of the row.
    pub id: &'a str,
    hash: [u8; 32],
}

impl<'a> PresentedToken<'a> {
    /// Reads what a bearer sent; `None` when it is no token of this kind.
    pub fn parse(kind: TokenKind, text: &'a str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(kind.prefix())?.strip_prefix('.')?.split_once('.')?;
        (!id.is_empty() && secret.len() == 64).then(|| Self { id, hash: hash(secret) })
    }

    /// Whether the stored hash is that of this token; takes the same time wherever they differ.
    pub fn matches(&self, stored: &[u8]) -> bool {
        self.hash.as_slice().ct_eq(stored).into()
    }
}

/// The text is hashed as sent: comparing hex digits needs no decoding that could fail or leak.
fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_token_matches_its_hash_and_no_other() {
        let token = mint(TokenKind::Api, "admin");
        let other = mint(TokenKind::Api, "admin");
        let presented = PresentedToken::parse(TokenKind::Api, &token.text).unwrap();
        assert_eq!(presented.id, "admin");
        assert!(presented.matches(&token.hash));
        assert!(!presented.matches(&other.hash));
        assert!(!presented.matches(&[]));
    }

    #[test]
    fn a_token_of_one_kind_is_not_read_as_the_other() {
        let token = mint(TokenKind::Join, "t1");
        assert!(PresentedToken::parse(TokenKind::Api, &token.text).is_none());
        for text in [
            "",
            "trunkline",
            "trunkline.",
            "trunkline..",
            "trunkline.a.b",
            "trunkline.a.b.c",
        ] {
            assert!(PresentedToken::parse(TokenKind::Api, text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_secret_is_not_in_debug_text() {
        assert_eq!(format!("{:?}", mint(TokenKind::Api, "a")), "MintedToken(<redacted>)");
    }

    #[test]
    fn random_ids_follow_the_id_rule_and_differ() {
        let (first, second) = (random_id(), random_id());
        assert_ne!(first, second);
        assert!(
            first.len() == 16
                && first
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        );
    }
}
