use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use rand_core::Rng;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Bytes of time, of salt and of the truncated HMAC in a nonce.
const TIME: usize = 8;
const SALT: usize = 8;
const TAG: usize = 16;
const RAW: usize = TIME + SALT + TAG;

/// Nonces from the future are accepted this far: workers share the key, not the clock.
const CLOCK_SKEW: Duration = Duration::from_secs(30);

/// Key that signs nonces. Workers that share it accept each other's nonces. Wiped when dropped.
///
/// It is kept as the state of the HMAC behind its pads: half of what a nonce costs, once instead of every time.
#[derive(Clone)]
pub struct NonceKey(Hmac<Sha256>);

/// A nonce whose signature holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nonce {
    /// Names the nonce; unique but for chance.
    pub(crate) id: u128,
    /// Milliseconds since the Unix epoch.
    pub(crate) issued: u64,
}

impl NonceKey {
    /// Takes 32 secret random bytes.
    pub fn new(key: [u8; 32]) -> Self {
        Self(Hmac::new_from_slice(&Zeroizing::new(key)[..]).expect("HMAC takes a key of any length"))
    }

    /// A fresh nonce for `realm`, 43 characters: base64url(time, salt, HMAC-SHA256 over both and the realm, truncated to 128 bits).
    pub fn issue(&self, realm: &str, wall: SystemTime, rng: &mut impl Rng) -> String {
        let mut raw = [0; RAW];
        raw[..TIME].copy_from_slice(&millis(wall).to_be_bytes());
        rng.fill_bytes(&mut raw[TIME..TIME + SALT]);
        let tag = self.mac(&raw[..TIME + SALT], realm).finalize().into_bytes();
        raw[TIME + SALT..].copy_from_slice(&tag[..TAG]);
        URL_SAFE_NO_PAD.encode(raw)
    }

    /// The nonce if this key signed it for `realm` no longer than `lifetime` ago.
    pub(crate) fn check(&self, nonce: &str, realm: &str, wall: SystemTime, lifetime: Duration) -> Option<Nonce> {
        let mut raw = [0; RAW];
        if nonce.len() != RAW.div_ceil(3) * 4 - 1 || URL_SAFE_NO_PAD.decode_slice(nonce, &mut raw).ok()? != RAW {
            return None;
        }
        self.mac(&raw[..TIME + SALT], realm)
            .verify_truncated_left(&raw[TIME + SALT..])
            .ok()?;
        let issued = u64::from_be_bytes(raw[..TIME].try_into().ok()?);
        let now = millis(wall);
        let age = now.saturating_sub(issued);
        let ahead = issued.saturating_sub(now);
        let is_fresh = u128::from(age) <= lifetime.as_millis() && u128::from(ahead) <= CLOCK_SKEW.as_millis();
        let id = u128::from_be_bytes(raw[TIME + SALT..].try_into().ok()?);
        is_fresh.then_some(Nonce { id, issued })
    }

    fn mac(&self, signed: &[u8], realm: &str) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(signed);
        mac.update(realm.as_bytes());
        mac
    }
}

/// Milliseconds since the Unix epoch; 0 before it.
pub(crate) fn millis(wall: SystemTime) -> u64 {
    wall.duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NonceKey(redacted)")
    }
}
