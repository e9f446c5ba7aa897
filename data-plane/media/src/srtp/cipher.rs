//! The packet transforms of the suites: AES-GCM (RFC 7714) and everything of SRTCP; counter mode is in [`counter`].
//!
//! Knows one packet and its index at a time; which index that is, and whether it was seen before, is decided above.

use aes::{Aes128Enc, Aes256Enc};
use aes_gcm::AesGcm;
use aes_gcm::aead::AeadInOut;
use cipher::KeyInit;
use cipher::consts::U12;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::SrtpError;
use super::counter::{self, CounterCipher, CounterMode, Indexed};
use super::kdf::{Label, derive};
use super::key::SrtpKey;
use super::mac::HmacSha1;
use crate::packet::PacketBuf;
use crate::rtp::SeqNo;
use crate::suite::SrtpSuite;

/// Set in the index word of an encrypted SRTCP packet (RFC 3711 §3.4).
const E_FLAG: u32 = 1 << 31;

/// Octets of an SRTCP packet that stay in the clear: the first header and the sender's SSRC.
const RTCP_CLEAR: usize = 8;

/// Session keys of SRTP, expanded: used for every packet.
#[derive(Clone)]
pub(super) enum RtpCipher {
    Counter(CounterCipher),
    Gcm { aead: Gcm, salt: [u8; 12] },
}

/// AES-GCM with a 96-bit nonce and a 128-bit tag.
#[derive(Clone)]
pub(super) enum Gcm {
    Aes128(Box<AesGcm<Aes128Enc, U12>>),
    Aes256(Box<AesGcm<Aes256Enc, U12>>),
}

impl Gcm {
    fn new(key: &[u8]) -> Self {
        const LENGTH: &str = "AEAD suites have keys of 16 or 32 octets";
        match key.len() {
            16 => Self::Aes128(Box::new(AesGcm::new_from_slice(key).expect(LENGTH))),
            _ => Self::Aes256(Box::new(AesGcm::new_from_slice(key).expect(LENGTH))),
        }
    }

    /// Encrypts `data` in place. Fails only beyond 2^36 octets.
    fn seal(&self, nonce: &[u8; 12], aad: &[u8], data: &mut [u8]) -> Result<[u8; 16], SrtpError> {
        match self {
            Self::Aes128(aead) => aead.encrypt_inout_detached(nonce.into(), aad, data.into()),
            Self::Aes256(aead) => aead.encrypt_inout_detached(nonce.into(), aad, data.into()),
        }
        .map(Into::into)
        .map_err(|_| SrtpError::Malformed)
    }

    /// Checks the tag, in constant time, and only then decrypts `data` in place.
    fn open(&self, nonce: &[u8; 12], aad: &[u8], data: &mut [u8], tag: &[u8; 16]) -> Result<(), SrtpError> {
        match self {
            Self::Aes128(aead) => aead.decrypt_inout_detached(nonce.into(), aad, data.into(), tag.into()),
            Self::Aes256(aead) => aead.decrypt_inout_detached(nonce.into(), aad, data.into(), tag.into()),
        }
        .map_err(|_| SrtpError::Unauthentic)
    }
}

impl RtpCipher {
    pub(super) fn new(key: &SrtpKey) -> Self {
        let suite = key.suite();
        if suite.is_aead() {
            let mut enc = Zeroizing::new([0; 32]);
            let enc = &mut enc[..suite.key_len()];
            derive(key, Label::RtpEncryption, enc);
            let mut salt = [0; 12];
            derive(key, Label::RtpSalt, &mut salt);
            Self::Gcm {
                aead: Gcm::new(enc),
                salt,
            }
        } else {
            Self::Counter(CounterCipher::new(key))
        }
    }

    /// Encrypts the payload and appends tag and MKI (RFC 3711 §3.1, RFC 7714 §7.1).
    pub(super) fn protect(&self, packet: &mut PacketBuf<'_>, at: Indexed, mki: &[u8]) -> Result<(), SrtpError> {
        if !packet.fits(self.tag_len() + mki.len()) {
            return Err(SrtpError::NoRoom);
        }
        match self {
            Self::Counter(cipher) => cipher.protect(packet, at, mki),
            Self::Gcm { aead, salt } => {
                let (aad, payload) = packet.as_mut_slice().split_at_mut(at.header_len);
                let tag = aead.seal(&gcm_rtp_nonce(salt, at.ssrc, at.index), aad, payload)?;
                append(packet, &[&tag, mki])
            }
        }
    }

    /// The counter-mode suites' cipher, which also works on several packets at once.
    pub(super) fn counter(&self) -> Option<&CounterCipher> {
        match self {
            Self::Counter(cipher) => Some(cipher),
            Self::Gcm { .. } => None,
        }
    }

    /// Octets of the authentication tag.
    pub(super) fn tag_len(&self) -> usize {
        match self {
            Self::Counter(cipher) => cipher.tag_len(),
            Self::Gcm { .. } => 16,
        }
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
        let (aead, salt) = match self {
            Self::Counter(cipher) => return cipher.unprotect(packet, header_len, ssrc, candidates, mki),
            Self::Gcm { aead, salt } => (aead, salt),
        };
        let body_len = body_len(packet.len(), header_len, 16 + mki.len())?;
        let (body, trailer) = packet.as_mut_slice().split_at_mut(body_len);
        let (tag, packet_mki) = trailer.split_first_chunk::<16>().ok_or(SrtpError::Malformed)?;
        check_mki(packet_mki, mki)?;
        let (aad, payload) = body.split_at_mut(header_len);
        let index = candidates
            .find(|&index| aead.open(&gcm_rtp_nonce(salt, ssrc, index), aad, payload, tag).is_ok())
            .ok_or(SrtpError::Unauthentic)?;
        packet.truncate(body_len);
        Ok(index)
    }
}

/// Session keys of SRTCP, derived for the packet at hand: RTCP comes once in seconds, and keys kept for it would cost every
/// direction a third of its memory.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct RtcpCipher {
    #[zeroize(skip)]
    suite: SrtpSuite,
    key: [u8; 32],
    auth: [u8; 20],
    salt: [u8; 14],
}

impl RtcpCipher {
    pub(super) fn new(key: &SrtpKey) -> Self {
        let suite = key.suite();
        let mut cipher = Self {
            suite,
            key: [0; 32],
            auth: [0; 20],
            salt: [0; 14],
        };
        derive(key, Label::RtcpEncryption, &mut cipher.key[..suite.key_len()]);
        derive(key, Label::RtcpSalt, &mut cipher.salt[..suite.salt_len()]);
        if !suite.is_aead() {
            derive(key, Label::RtcpAuthentication, &mut cipher.auth);
        }
        cipher
    }

    /// Encrypts all but the first eight octets and appends tag, E flag with index, and MKI (RFC 3711 §3.4, RFC 7714 §9).
    pub(super) fn protect(&self, packet: &mut PacketBuf<'_>, index: u32, mki: &[u8]) -> Result<(), SrtpError> {
        let tag_len = self.suite.rtcp_tag_len();
        if !packet.fits(tag_len + 4 + mki.len()) {
            return Err(SrtpError::NoRoom);
        }
        let (clear, payload) = split_rtcp(packet.as_mut_slice())?;
        let ssrc = u32::from_be_bytes([clear[4], clear[5], clear[6], clear[7]]);
        let word = (index | E_FLAG).to_be_bytes();
        if self.suite.is_aead() {
            let tag = self
                .gcm()
                .seal(&self.gcm_nonce(ssrc, index), &gcm_rtcp_aad(clear, word), payload)?;
            append(packet, &[&tag, &word, mki])
        } else {
            self.counter_mode()
                .apply(&counter::iv(&self.salt, ssrc, u64::from(index)), payload);
            let mac = HmacSha1::new(&self.auth);
            let tag = mac.finish(&mac.prefix(packet.as_slice()), &word);
            append(packet, &[&word, mki, &tag[..tag_len]])
        }
    }

    /// Authenticates, decrypts if the E flag says so, cuts the trailer off and returns the 31-bit index.
    /// On failure the packet is unchanged.
    pub(super) fn unprotect(&self, packet: &mut PacketBuf<'_>, mki: &[u8]) -> Result<u32, SrtpError> {
        let tag_len = self.suite.rtcp_tag_len();
        let body_len = body_len(packet.len(), RTCP_CLEAR, tag_len + 4 + mki.len())?;
        let index = if self.suite.is_aead() {
            self.open_gcm(packet.as_mut_slice(), body_len, mki)?
        } else {
            self.open_counter_mode(packet.as_mut_slice(), body_len, mki)?
        };
        packet.truncate(body_len);
        Ok(index)
    }

    fn open_counter_mode(&self, packet: &mut [u8], body_len: usize, mki: &[u8]) -> Result<u32, SrtpError> {
        let (body, trailer) = packet.split_at_mut(body_len);
        let (word, trailer) = trailer.split_first_chunk::<4>().ok_or(SrtpError::Malformed)?;
        let (packet_mki, tag) = trailer.split_at(mki.len());
        check_mki(packet_mki, mki)?;
        let mac = HmacSha1::new(&self.auth);
        if !counter::tag_matches(&mac, &mac.prefix(body), word, tag, self.suite.rtcp_tag_len() as u8) {
            return Err(SrtpError::Unauthentic);
        }
        let word = u32::from_be_bytes(*word);
        let index = word & !E_FLAG;
        if word & E_FLAG != 0 {
            let (clear, payload) = split_rtcp(body)?;
            let ssrc = u32::from_be_bytes([clear[4], clear[5], clear[6], clear[7]]);
            self.counter_mode()
                .apply(&counter::iv(&self.salt, ssrc, u64::from(index)), payload);
        }
        Ok(index)
    }

    fn open_gcm(&self, packet: &mut [u8], body_len: usize, mki: &[u8]) -> Result<u32, SrtpError> {
        let (body, trailer) = packet.split_at_mut(body_len);
        let (tag, trailer) = trailer.split_first_chunk_mut::<16>().ok_or(SrtpError::Malformed)?;
        let (word, packet_mki) = trailer.split_first_chunk::<4>().ok_or(SrtpError::Malformed)?;
        check_mki(packet_mki, mki)?;
        let (tag, word) = (*tag, *word);
        let index = u32::from_be_bytes(word) & !E_FLAG;
        let (clear, payload) = split_rtcp(body)?;
        let ssrc = u32::from_be_bytes([clear[4], clear[5], clear[6], clear[7]]);
        let nonce = self.gcm_nonce(ssrc, index);
        if u32::from_be_bytes(word) & E_FLAG != 0 {
            self.gcm().open(&nonce, &gcm_rtcp_aad(clear, word), payload, &tag)?;
            return Ok(index);
        }
        // Tagged only (RFC 7714 §9.3): the associated data is the whole packet and the index word, which stand apart in the
        // packet by the tag. They are put together over the tag, and the tag put back if it does not match.
        packet[body_len..body_len + 4].copy_from_slice(&word);
        let (aad, _) = packet.split_at(body_len + 4);
        let opened = self.gcm().open(&nonce, aad, &mut [], &tag);
        packet[body_len..body_len + 4].copy_from_slice(&tag[..4]);
        opened.map(|()| index)
    }

    fn counter_mode(&self) -> CounterMode {
        CounterMode::new(&self.key[..self.suite.key_len()])
    }

    fn gcm(&self) -> Gcm {
        Gcm::new(&self.key[..self.suite.key_len()])
    }

    /// RFC 7714 §9.1: two zero octets, SSRC, two zero octets, index; XOR salt.
    fn gcm_nonce(&self, ssrc: u32, index: u32) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&self.salt[..12]);
        xor(&mut nonce[2..6], &ssrc.to_be_bytes());
        xor(&mut nonce[8..12], &index.to_be_bytes());
        nonce
    }
}

/// RFC 7714 §8.1: two zero octets, SSRC, ROC, SEQ; XOR salt.
fn gcm_rtp_nonce(salt: &[u8; 12], ssrc: u32, index: SeqNo) -> [u8; 12] {
    let mut nonce = *salt;
    xor(&mut nonce[2..6], &ssrc.to_be_bytes());
    xor(&mut nonce[6..12], &index.as_u64().to_be_bytes()[2..]);
    nonce
}

/// RFC 7714 §9.2: the clear octets and the index word.
fn gcm_rtcp_aad(clear: &[u8; RTCP_CLEAR], word: [u8; 4]) -> [u8; RTCP_CLEAR + 4] {
    let mut aad = [0; RTCP_CLEAR + 4];
    aad[..RTCP_CLEAR].copy_from_slice(clear);
    aad[RTCP_CLEAR..].copy_from_slice(&word);
    aad
}

/// Octets before a trailer of `trailer_len`; the header must be among them.
pub(super) fn body_len(packet_len: usize, header_len: usize, trailer_len: usize) -> Result<usize, SrtpError> {
    packet_len
        .checked_sub(trailer_len)
        .filter(|&len| len >= header_len)
        .ok_or(SrtpError::Malformed)
}

fn split_rtcp(packet: &mut [u8]) -> Result<(&[u8; RTCP_CLEAR], &mut [u8]), SrtpError> {
    let (clear, payload) = packet
        .split_first_chunk_mut::<RTCP_CLEAR>()
        .ok_or(SrtpError::Malformed)?;
    Ok((clear, payload))
}

/// The MKI is not authenticated and no secret (RFC 3711 §3.1): a plain comparison will do.
pub(super) fn check_mki(packet_mki: &[u8], mki: &[u8]) -> Result<(), SrtpError> {
    if packet_mki == mki {
        Ok(())
    } else {
        Err(SrtpError::UnknownMki)
    }
}

pub(super) fn append(packet: &mut PacketBuf<'_>, parts: &[&[u8]]) -> Result<(), SrtpError> {
    parts
        .iter()
        .try_for_each(|part| packet.extend_from_slice(part))
        .map_err(|_| SrtpError::NoRoom)
}

pub(super) fn xor(target: &mut [u8], mask: &[u8]) {
    target.iter_mut().zip(mask).for_each(|(octet, mask)| *octet ^= mask);
}

#[cfg(test)]
impl RtpCipher {
    /// Session keys as RFC 7714 §16 gives them, without derivation.
    pub(super) fn gcm_from_session(key: &[u8], salt: [u8; 12]) -> Self {
        Self::Gcm {
            aead: Gcm::new(key),
            salt,
        }
    }
}

#[cfg(test)]
impl RtcpCipher {
    /// Session keys as RFC 7714 §17 gives them, without derivation.
    pub(super) fn gcm_from_session(suite: SrtpSuite, session_key: &[u8], session_salt: [u8; 12]) -> Self {
        let mut cipher = Self {
            suite,
            key: [0; 32],
            auth: [0; 20],
            salt: [0; 14],
        };
        cipher.key[..session_key.len()].copy_from_slice(session_key);
        cipher.salt[..12].copy_from_slice(&session_salt);
        cipher
    }
}
