//! Master keys: what SDP security descriptions carry and what the key derivation starts from.

use std::fmt;
use std::sync::Arc;

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::ZeroizeOnDrop;

use crate::suite::SrtpSuite;

/// A master key identifier: its octets as they stand in every packet (RFC 3711 §3.1), 1 to 128 of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mki(Box<[u8]>);

impl Mki {
    /// Longest MKI an SDES line may announce (RFC 4568 §9.2: `mki-length` 1..128).
    pub const MAX_LEN: usize = 128;

    /// The MKI with numeric `value` written big-endian into `len` octets (RFC 4568 §6.1).
    /// `None` when `len` is not 1..=128 or `value` does not fit.
    pub fn new(value: u128, len: usize) -> Option<Self> {
        if len == 0 || len > Self::MAX_LEN {
            return None;
        }
        let digits = value.to_be_bytes();
        let needed = digits.len() - (value.leading_zeros() / 8) as usize;
        if needed > len {
            return None;
        }
        let mut octets = vec![0; len].into_boxed_slice();
        octets[len - needed..].copy_from_slice(&digits[digits.len() - needed..]);
        Some(Self(octets))
    }

    /// The octets as sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The numeric value, for the SDES line.
    pub fn value(&self) -> u128 {
        self.0.iter().fold(0, |value, &octet| (value << 8) | u128::from(octet))
    }
}

/// A master key and master salt for one direction, with the suite they are for and the MKI packets carry, if any.
///
/// Never printed, zeroized when dropped, compared in constant time. Copies share the material: a key is held by the
/// configuration that brought it as well as by the direction that uses it.
#[derive(Clone)]
pub struct SrtpKey(Arc<Material>);

#[derive(Clone, ZeroizeOnDrop)]
struct Material {
    #[zeroize(skip)]
    suite: SrtpSuite,
    octets: [u8; SrtpSuite::MAX_KEY_SALT_LEN],
    #[zeroize(skip)]
    mki: Option<Mki>,
}

impl SrtpKey {
    /// A key from `key ‖ salt` as an `inline:` parameter carries it. `None` unless the length is exactly
    /// [`SrtpSuite::key_salt_len`].
    pub fn new(suite: SrtpSuite, key_salt: &[u8]) -> Option<Self> {
        (key_salt.len() == suite.key_salt_len()).then(|| Self::fill(suite, |octets| octets.copy_from_slice(key_salt)))
    }

    /// A fresh random key without MKI.
    pub fn generate<R: CryptoRng + ?Sized>(suite: SrtpSuite, rng: &mut R) -> Self {
        Self::fill(suite, |octets| rng.fill_bytes(octets))
    }

    /// The material is written where it stays, so that no copy of it is left behind.
    fn fill(suite: SrtpSuite, write: impl FnOnce(&mut [u8])) -> Self {
        let mut material = Arc::new(Material {
            suite,
            octets: [0; SrtpSuite::MAX_KEY_SALT_LEN],
            mki: None,
        });
        write(&mut Arc::make_mut(&mut material).octets[..suite.key_salt_len()]);
        Self(material)
    }

    /// The same key, with packets carrying `mki`.
    #[must_use]
    pub fn with_mki(mut self, mki: Option<Mki>) -> Self {
        Arc::make_mut(&mut self.0).mki = mki;
        self
    }

    /// The suite the key is for.
    pub fn suite(&self) -> SrtpSuite {
        self.0.suite
    }

    /// The MKI packets carry, if the SDES line announced one.
    pub fn mki(&self) -> Option<&Mki> {
        self.0.mki.as_ref()
    }

    /// The master key.
    pub fn master_key(&self) -> &[u8] {
        &self.0.octets[..self.0.suite.key_len()]
    }

    /// The master salt.
    pub fn master_salt(&self) -> &[u8] {
        &self.0.octets[self.0.suite.key_len()..self.0.suite.key_salt_len()]
    }

    /// `key ‖ salt`, for writing an `inline:` parameter.
    pub fn key_salt(&self) -> &[u8] {
        &self.0.octets[..self.0.suite.key_salt_len()]
    }
}

impl PartialEq for SrtpKey {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&*self.0, &*other.0);
        Arc::ptr_eq(&self.0, &other.0) || a.suite == b.suite && a.mki == b.mki && bool::from(a.octets.ct_eq(&b.octets))
    }
}

impl Eq for SrtpKey {}

impl fmt::Debug for SrtpKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SrtpKey")
            .field("suite", &self.0.suite)
            .field("mki", &self.0.mki)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mki_is_big_endian_in_its_announced_length() {
        assert_eq!(Mki::new(1, 4).unwrap().as_bytes(), [0, 0, 0, 1]);
        assert_eq!(Mki::new(0x1234, 2).unwrap().as_bytes(), [0x12, 0x34]);
        assert_eq!(Mki::new(0x1234, 1), None);
        assert_eq!(Mki::new(1, 0), None);
        assert_eq!(Mki::new(1, 129), None);
        assert_eq!(Mki::new(7, 128).unwrap().value(), 7);
    }

    #[test]
    fn debug_output_holds_no_key_material() {
        let key = SrtpKey::new(SrtpSuite::AesCm128HmacSha1_80, &[0xAB; 30]).unwrap();
        let text = format!("{key:?}");
        assert!(!text.contains("171") && !text.to_lowercase().contains("ab, "), "{text}");
        assert!(text.contains("AesCm128HmacSha1_80"));
    }

    #[test]
    fn a_key_of_the_wrong_length_is_refused() {
        assert!(SrtpKey::new(SrtpSuite::AeadAes128Gcm, &[0; 30]).is_none());
        assert!(SrtpKey::new(SrtpSuite::AeadAes128Gcm, &[0; 28]).is_some());
    }
}
