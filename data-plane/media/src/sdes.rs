//! SDP security descriptions: the value of an `a=crypto:` attribute (RFC 4568).
//!
//! One line offers one suite with one or more master keys. Lines this edge cannot honour are told apart
//! ([`CryptoLineError`]) so that an answerer can skip them and a log can say why.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};
use rand_core::CryptoRng;
use smallvec::SmallVec;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::srtp::{Mki, SrtpKey};
use crate::suite::{SrtpSuite, SuiteSpelling};

/// Longest attribute value read, in octets: room for [`MAX_KEYS`] AES-256 keys with parameters.
pub const MAX_LINE_LEN: usize = 1024;

/// Most `inline:` parameters read from one line.
pub const MAX_KEYS: usize = 4;

/// One `a=crypto:` line, understood and usable.
#[derive(Clone, PartialEq, Eq)]
pub struct CryptoLine {
    /// Decimal tag, unique in its media section; an answer repeats the accepted one (RFC 4568 §5.1.2).
    pub tag: u32,
    /// How the peer spelled the suite.
    pub spelling: SuiteSpelling,
    /// The keys, at least one, all of the same suite. The first is the one in use; further ones need an MKI.
    pub keys: SmallVec<[KeyParam; 1]>,
    /// Window size hint for replay protection (`WSH`, at least 64), if given; this crate always keeps 128.
    pub window_size_hint: Option<u32>,
}

/// One `inline:` key parameter (RFC 4568 §6.1).
#[derive(Clone, PartialEq, Eq)]
pub struct KeyParam {
    /// The key with its MKI.
    pub key: SrtpKey,
    /// Most packets the key may protect, SRTP and SRTCP each; `None` when the line does not say (then the suite's limit).
    pub lifetime: Option<Lifetime>,
}

/// A master key lifetime in packets; remembers its notation so that a line writes back as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// `2^n`, n in 0..=48.
    PowerOfTwo(u8),
    /// A decimal count, 1..=2^48.
    Packets(u64),
}

impl Lifetime {
    /// The number of packets.
    pub fn packets(self) -> u64 {
        match self {
            Self::PowerOfTwo(exponent) => 1 << exponent.min(48),
            Self::Packets(count) => count,
        }
    }
}

/// Why a line cannot be used. The stream may still be accepted through another line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CryptoLineError {
    /// The grammar of RFC 4568 §9.2 is not met.
    #[error("crypto line is malformed: {0}")]
    Malformed(&'static str),
    /// The suite is not one of [`SrtpSuite::ALL`].
    #[error("crypto suite of line {tag} is not supported")]
    UnknownSuite {
        /// Tag of the line.
        tag: u32,
    },
    /// The decoded `inline:` value is not key ‖ salt of the suite.
    #[error("key of crypto line {tag} does not have the length of its suite")]
    KeyLength {
        /// Tag of the line.
        tag: u32,
    },
    /// A session parameter that must be understood is not, so the line is invalid (RFC 4568 §6.3.7), or it is one
    /// this edge does not allow: no encryption, no authentication, key derivation rate, FEC.
    #[error("session parameter of crypto line {tag} is not supported")]
    SessionParameter {
        /// Tag of the line.
        tag: u32,
    },
}

impl CryptoLine {
    /// A line with one fresh key, no MKI and no parameters: what this edge offers and answers.
    ///
    /// `tag` is 1..=999,999,999 (RFC 4568 §9.2: at most nine digits).
    pub fn generate<R: CryptoRng + ?Sized>(tag: u32, suite: SrtpSuite, spelling: SuiteSpelling, rng: &mut R) -> Self {
        Self::with_key(tag, spelling, SrtpKey::generate(suite, rng))
    }

    /// A line with the given key and no parameters.
    pub fn with_key(tag: u32, spelling: SuiteSpelling, key: SrtpKey) -> Self {
        let keys = SmallVec::from_iter([KeyParam { key, lifetime: None }]);
        Self {
            tag,
            spelling,
            keys,
            window_size_hint: None,
        }
    }

    /// The suite of the line.
    pub fn suite(&self) -> SrtpSuite {
        self.key().suite()
    }

    /// The key in use: the first.
    pub fn key(&self) -> &SrtpKey {
        &self.keys.first().expect("a crypto line holds at least one key").key
    }

    /// Reads the attribute value, i.e. what follows `a=crypto:`.
    pub fn parse(value: &str) -> Result<Self, CryptoLineError> {
        use CryptoLineError::Malformed;
        if value.len() > MAX_LINE_LEN {
            return Err(Malformed("too long"));
        }
        let mut words = value.split([' ', '\t']).filter(|word| !word.is_empty());
        let tag = parse_tag(words.next().ok_or(Malformed("empty"))?)?;
        let suite_name = words.next().ok_or(Malformed("no suite"))?;
        let (suite, spelling) = SrtpSuite::parse(suite_name).ok_or(CryptoLineError::UnknownSuite { tag })?;
        let mut keys = SmallVec::new();
        for param in words.next().ok_or(Malformed("no key"))?.split(';') {
            if keys.len() == MAX_KEYS {
                return Err(Malformed("too many keys"));
            }
            keys.push(parse_key_param(tag, suite, param)?);
        }
        // RFC 4568 §6.1: with more than one key each needs an MKI, all of the same length.
        let mki_len = |param: &KeyParam| param.key.mki().map(|mki| mki.as_bytes().len());
        if keys.len() > 1 && (mki_len(&keys[0]).is_none() || keys.iter().any(|key| mki_len(key) != mki_len(&keys[0]))) {
            return Err(Malformed("several keys need MKIs of one length"));
        }
        let mut window_size_hint = None;
        for word in words {
            apply_session_parameter(tag, word, &mut window_size_hint)?;
        }
        Ok(Self {
            tag,
            spelling,
            keys,
            window_size_hint,
        })
    }
}

impl FromStr for CryptoLine {
    type Err = CryptoLineError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Self::parse(value)
    }
}

/// Writes the attribute value **including the keys**: for the SDP body only. Logs use `Debug`.
impl fmt::Display for CryptoLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.tag, self.suite().spelled(self.spelling))?;
        for (position, param) in self.keys.iter().enumerate() {
            let inline = Zeroizing::new(general_purpose::STANDARD.encode(param.key.key_salt()));
            write!(f, "{}inline:{}", if position == 0 { "" } else { ";" }, *inline)?;
            match param.lifetime {
                Some(Lifetime::PowerOfTwo(exponent)) => write!(f, "|2^{exponent}")?,
                Some(Lifetime::Packets(count)) => write!(f, "|{count}")?,
                None => {}
            }
            if let Some(mki) = param.key.mki() {
                write!(f, "|{}:{}", mki.value(), mki.as_bytes().len())?;
            }
        }
        if let Some(hint) = self.window_size_hint {
            write!(f, " WSH={hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for CryptoLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CryptoLine")
            .field("tag", &self.tag)
            .field("suite", &self.suite())
            .field("spelling", &self.spelling)
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyParam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyParam")
            .field("key", &self.key)
            .field("lifetime", &self.lifetime)
            .finish()
    }
}

/// Peers pad 28- and 38-octet keys wrongly or not at all (two `=`, one, none), and some leave non-zero trailing bits.
const TOLERANT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

fn parse_tag(word: &str) -> Result<u32, CryptoLineError> {
    if word.is_empty() || word.len() > 9 || !word.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(CryptoLineError::Malformed("tag is not 1 to 9 digits"));
    }
    word.parse()
        .map_err(|_| CryptoLineError::Malformed("tag is not 1 to 9 digits"))
}

fn parse_key_param(tag: u32, suite: SrtpSuite, param: &str) -> Result<KeyParam, CryptoLineError> {
    use CryptoLineError::Malformed;
    let (method, info) = param.split_once(':').ok_or(Malformed("no key method"))?;
    if !method.eq_ignore_ascii_case("inline") {
        return Err(Malformed("key method is not inline"));
    }
    let mut fields = info.split('|');
    let encoded = fields.next().unwrap_or_default().trim_end_matches('=');
    let key_salt = Zeroizing::new(TOLERANT.decode(encoded).map_err(|_| Malformed("key is not base64"))?);
    let key = SrtpKey::new(suite, &key_salt).ok_or(CryptoLineError::KeyLength { tag })?;
    let (mut lifetime, mut mki) = (None, None);
    for field in fields {
        if let Some((value, len)) = field.split_once(':') {
            if mki.is_some() {
                return Err(Malformed("two MKIs"));
            }
            let value = value.parse().map_err(|_| Malformed("MKI is not a number"))?;
            let len = len.parse().map_err(|_| Malformed("MKI length is not a number"))?;
            mki = Some(Mki::new(value, len).ok_or(Malformed("MKI does not fit its length"))?);
        } else if lifetime.is_none() && mki.is_none() {
            lifetime = Some(parse_lifetime(field)?);
        } else {
            return Err(Malformed("unexpected key field"));
        }
    }
    Ok(KeyParam {
        key: key.with_mki(mki),
        lifetime,
    })
}

fn parse_lifetime(field: &str) -> Result<Lifetime, CryptoLineError> {
    let bad = CryptoLineError::Malformed("lifetime is not 2^n or a count");
    let lifetime = match field.strip_prefix("2^") {
        Some(exponent) => Lifetime::PowerOfTwo(exponent.parse().map_err(|_| bad)?),
        None => Lifetime::Packets(field.parse().map_err(|_| bad)?),
    };
    match lifetime {
        Lifetime::PowerOfTwo(0..=48) => Ok(lifetime),
        Lifetime::Packets(count) if (1..=1 << 48).contains(&count) => Ok(lifetime),
        _ => Err(bad),
    }
}

/// RFC 4568 §6.3. A parameter with a leading `-` may be ignored; every other unknown one makes the line invalid.
fn apply_session_parameter(tag: u32, word: &str, hint: &mut Option<u32>) -> Result<(), CryptoLineError> {
    if word.starts_with('-') {
        return Ok(());
    }
    match word.split_once('=') {
        // §6.3.6: a hint below 64 is raised to 64, the least a receiver may keep.
        Some(("WSH", size)) => {
            *hint = Some(
                size.parse::<u32>()
                    .map_err(|_| CryptoLineError::Malformed("WSH is not a number"))?
                    .max(64),
            );
            Ok(())
        }
        _ => Err(CryptoLineError::SessionParameter { tag }),
    }
}

#[cfg(test)]
mod tests;
