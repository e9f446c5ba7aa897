//! Session key derivation (RFC 3711 §4.3, RFC 6188 §3, RFC 7714 §11), key derivation rate 0.

use super::counter::CounterMode;
use super::key::SrtpKey;

/// What a session key is for (RFC 3711 §4.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    RtpEncryption = 0,
    RtpAuthentication = 1,
    RtpSalt = 2,
    RtcpEncryption = 3,
    RtcpAuthentication = 4,
    RtcpSalt = 5,
}

/// Fills `out` with the session key for `label`. The PRF is AES in counter mode with the master key's length for every
/// suite (AES_CM_PRF, AES_192_CM_PRF, AES_256_CM_PRF); a 96-bit salt stands at the left of the 112-bit one (RFC 7714 §11).
pub(super) fn derive(key: &SrtpKey, label: Label, out: &mut [u8]) {
    let prf = CounterMode::new(key.master_key());
    let mut iv = [0; 16];
    iv[..key.master_salt().len()].copy_from_slice(key.master_salt());
    // key_id = label || index DIV rate, 56 bits, right-aligned with the salt's 112.
    iv[7] ^= label as u8;
    out.fill(0);
    prf.apply(&iv, out);
}

#[cfg(test)]
mod tests {
    use super::super::tests::unhex;
    use super::*;
    use crate::suite::SrtpSuite;

    fn check(suite: SrtpSuite, key_salt: &str, label: Label, expected: &str) {
        let expected = unhex(expected);
        let mut out = vec![0; expected.len()];
        derive(&SrtpKey::new(suite, &unhex(key_salt)).unwrap(), label, &mut out);
        assert_eq!(out, expected, "{suite} {label:?}");
    }

    /// RFC 3711 Appendix B.3, with the authentication key in its full printed length of 94 octets.
    #[test]
    fn vectors_of_rfc_3711_b_3() {
        let key = "E1F97A0D3E018BE0D64FA32C06DE41390EC675AD498AFEEBB6960B3AABE6";
        let suite = SrtpSuite::AesCm128HmacSha1_80;
        check(suite, key, Label::RtpEncryption, "C61E7A93744F39EE10734AFE3FF7A087");
        check(suite, key, Label::RtpSalt, "30CBBC08863D8C85D49DB34A9AE1");
        check(
            suite,
            key,
            Label::RtpAuthentication,
            "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF3C34E2359E6CDBCE\
             E049646C43D9327AD175578EF72270986371C10C9A369AC2F94A8C5FBCDDDC25\
             6D6E919A48B610EF17C2041E474035766B68642C59BBFC2F34DB60DBDFB2",
        );
    }

    /// RFC 6188 §7.2.
    #[test]
    fn vectors_of_rfc_6188_7_2() {
        let key = "f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b63b04803de51ee7c96423ab5b78d2";
        let suite = SrtpSuite::AesCm256HmacSha1_80;
        check(
            suite,
            key,
            Label::RtpEncryption,
            "5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4",
        );
        check(suite, key, Label::RtpSalt, "fa31791685ca444a9e07c6c64e93");
        check(
            suite,
            key,
            Label::RtpAuthentication,
            "fd9c32d39ed5fbb5a9dc96b30818454d1313dc05",
        );
    }

    /// RFC 6188 §7.4.
    #[test]
    fn vectors_of_rfc_6188_7_4() {
        let key = "73edc66c4fa15776fb57f9505c17136550ffda71f3e8e5f1c8522f3acd4ce86d5add78edbb11";
        let suite = SrtpSuite::AesCm192HmacSha1_80;
        check(
            suite,
            key,
            Label::RtpEncryption,
            "31874736a8f1143870c26e4857d8a5b2c4a354407faadabb",
        );
        check(suite, key, Label::RtpSalt, "2372b82d639b6d8503a47adc0a6c");
        check(
            suite,
            key,
            Label::RtpAuthentication,
            "355b10973cd95b9eacf4061c7e1a7151e7cfbfcb",
        );
    }
}
