//! AES counter mode with HMAC-SHA1 for SRTP (RFC 3711 §4.1.1, §4.2.1, RFC 6188), one packet at a time.

use aes::{Aes128Enc, Aes192Enc, Aes256Enc};
use cipher::consts::U16;
use cipher::{BlockCipherEncrypt, BlockSizeUser, InnerIvInit, KeyInit, StreamCipherCore};
use ctr::CtrCore;
use ctr::flavors::Ctr128BE;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::SrtpError;
use super::cipher::{append, body_len, check_mki, xor};
use super::kdf::{Label, derive};
use super::key::SrtpKey;
use super::mac::{HmacSha1, Prefix};
#[cfg(target_arch = "x86_64")]
use super::x86::{Hardware, Schedule};
use crate::packet::PacketBuf;
use crate::rtp::SeqNo;

/// An RTP packet under a packet index: all the transforms need to know besides its octets and the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Indexed {
    /// Octets in the clear.
    pub(crate) header_len: usize,
    pub(crate) ssrc: u32,
    pub(crate) index: SeqNo,
}

/// Session keys of a counter-mode suite, expanded.
#[derive(Clone)]
pub(crate) struct CounterCipher {
    aes: CounterMode,
    mac: HmacSha1,
    salt: [u8; 14],
    tag_len: u8,
}

impl CounterCipher {
    /// `key` is of a suite that is not AEAD.
    pub(super) fn new(key: &SrtpKey) -> Self {
        Self::with(key, CounterMode::new)
    }

    /// The same without the processor's own AES: what everything else is compared with.
    pub(super) fn portable(key: &SrtpKey) -> Self {
        Self::with(key, CounterMode::portable)
    }

    fn with(key: &SrtpKey, aes: impl FnOnce(&[u8]) -> CounterMode) -> Self {
        let suite = key.suite();
        let mut enc = Zeroizing::new([0; 32]);
        let enc = &mut enc[..suite.key_len()];
        derive(key, Label::RtpEncryption, enc);
        let mut salt = [0; 14];
        derive(key, Label::RtpSalt, &mut salt);
        let mut auth = Zeroizing::new([0; 20]);
        derive(key, Label::RtpAuthentication, auth.as_mut());
        Self {
            aes: aes(enc),
            mac: HmacSha1::new(auth.as_ref()),
            salt,
            tag_len: suite.rtp_tag_len() as u8,
        }
    }

    /// Octets of the authentication tag: 10 or 4.
    pub(super) fn tag_len(&self) -> usize {
        usize::from(self.tag_len)
    }

    /// The part of the cipher that authenticates.
    pub(super) fn mac(&self) -> &HmacSha1 {
        &self.mac
    }

    /// Encrypts or decrypts a payload.
    pub(super) fn crypt(&self, at: Indexed, payload: &mut [u8]) {
        self.aes.apply(&iv(&self.salt, at.ssrc, at.index.as_u64()), payload);
    }

    /// Encrypts the payload and appends MKI and tag (RFC 3711 §3.1). Fails only if they do not fit.
    pub(super) fn protect(&self, packet: &mut PacketBuf<'_>, at: Indexed, mki: &[u8]) -> Result<(), SrtpError> {
        self.crypt(at, &mut packet.as_mut_slice()[at.header_len..]);
        let prefix = self.mac.prefix(packet.as_slice());
        let tag = self.mac.finish(&prefix, &at.index.roc().to_be_bytes());
        append(packet, &[mki, &tag[..self.tag_len()]])
    }

    /// Finds the first of `candidates` under which the packet authenticates, decrypts it and cuts the trailer off.
    /// On failure the packet is unchanged.
    pub(super) fn unprotect(
        &self,
        packet: &mut PacketBuf<'_>,
        header_len: usize,
        ssrc: u32,
        mut candidates: impl Iterator<Item = SeqNo>,
        mki: &[u8],
    ) -> Result<SeqNo, SrtpError> {
        let body_len = body_len(packet.len(), header_len, self.tag_len() + mki.len())?;
        let (body, trailer) = packet.as_mut_slice().split_at_mut(body_len);
        let (packet_mki, tag) = trailer.split_at(mki.len());
        check_mki(packet_mki, mki)?;
        let prefix = self.mac.prefix(body);
        let authentic = |index: &SeqNo| tag_matches(&self.mac, &prefix, &index.roc().to_be_bytes(), tag, self.tag_len);
        let index = candidates.find(authentic).ok_or(SrtpError::Unauthentic)?;
        let at = Indexed {
            header_len,
            ssrc,
            index,
        };
        self.crypt(at, &mut body[header_len..]);
        packet.truncate(body_len);
        Ok(index)
    }
}

/// AES in counter mode, block counter in the lowest 16 bits of the IV. The schedules are boxed: their size depends on
/// the length, and the portable one is several times the hardware one.
#[derive(Clone)]
pub(super) enum CounterMode {
    Portable128(Box<Aes128Enc>),
    Portable192(Box<Aes192Enc>),
    Portable256(Box<Aes256Enc>),
    #[cfg(target_arch = "x86_64")]
    Hardware128(Box<Schedule<11>>),
    #[cfg(target_arch = "x86_64")]
    Hardware192(Box<Schedule<13>>),
    #[cfg(target_arch = "x86_64")]
    Hardware256(Box<Schedule<15>>),
}

impl CounterMode {
    /// `key` is 16, 24 or 32 octets: the lengths the suites have.
    pub(super) fn new(key: &[u8]) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(hardware) = Hardware::detect() {
            return match key.len() {
                16 => Self::Hardware128(Box::new(Schedule::new(hardware, key))),
                24 => Self::Hardware192(Box::new(Schedule::new(hardware, key))),
                _ => Self::Hardware256(Box::new(Schedule::new(hardware, key))),
            };
        }
        Self::portable(key)
    }

    /// What [`new`](Self::new) makes where the processor has no instructions for AES, or none known here.
    pub(super) fn portable(key: &[u8]) -> Self {
        const LENGTH: &str = "suites have keys of 16, 24 or 32 octets";
        match key.len() {
            16 => Self::Portable128(Box::new(Aes128Enc::new_from_slice(key).expect(LENGTH))),
            24 => Self::Portable192(Box::new(Aes192Enc::new_from_slice(key).expect(LENGTH))),
            _ => Self::Portable256(Box::new(Aes256Enc::new_from_slice(key).expect(LENGTH))),
        }
    }

    /// Adds the keystream that starts at `iv`, whose last two octets are zero, to `data`.
    pub(super) fn apply(&self, iv: &[u8; 16], data: &mut [u8]) {
        fn run<C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>>(aes: &C, iv: &[u8; 16], data: &mut [u8]) {
            CtrCore::<&C, Ctr128BE>::inner_iv_init(aes, iv.into()).apply_keystream_partial(data.into());
        }
        match self {
            Self::Portable128(aes) => run(aes.as_ref(), iv, data),
            Self::Portable192(aes) => run(aes.as_ref(), iv, data),
            Self::Portable256(aes) => run(aes.as_ref(), iv, data),
            #[cfg(target_arch = "x86_64")]
            Self::Hardware128(schedule) => schedule.apply(iv, data),
            #[cfg(target_arch = "x86_64")]
            Self::Hardware192(schedule) => schedule.apply(iv, data),
            #[cfg(target_arch = "x86_64")]
            Self::Hardware256(schedule) => schedule.apply(iv, data),
        }
    }
}

/// RFC 3711 §4.1.1: IV = (salt * 2^16) XOR (SSRC * 2^64) XOR (index * 2^16).
pub(super) fn iv(salt: &[u8; 14], ssrc: u32, index: u64) -> [u8; 16] {
    let mut iv = [0; 16];
    iv[..14].copy_from_slice(salt);
    xor(&mut iv[4..8], &ssrc.to_be_bytes());
    xor(&mut iv[8..14], &index.to_be_bytes()[2..]);
    iv
}

/// Compares in constant time, so that a forger learns nothing from how long a refusal takes.
pub(super) fn tag_matches(mac: &HmacSha1, prefix: &Prefix, trailer: &[u8; 4], tag: &[u8], tag_len: u8) -> bool {
    mac.finish(prefix, trailer)[..usize::from(tag_len)].ct_eq(tag).into()
}
