//! Vectors of RFC 3711 B.2, RFC 6188 §7.1 and §7.3, RFC 7714 §16 and §17, and of libsrtp's test driver
//! (whole packets from a master key). Key derivation vectors are beside the derivation.

use super::super::cipher::{RtcpCipher, RtpCipher};
use super::super::counter::{self, CounterMode};
use super::*;

/// Session salt of the keystream vectors; with SSRC 0 and index 0 the IV is salt * 2^16.
const STREAM_SALT: &str = "F0F1F2F3F4F5F6F7F8F9FAFBFCFD";

/// Checks the first three and the last three of 0xFF02 keystream blocks.
fn check_keystream(key: &str, first: &str, last: &str) {
    let salt = unhex(STREAM_SALT).try_into().unwrap();
    let mut stream = vec![0; 0xFF02 * 16];
    CounterMode::new(&unhex(key)).apply(&counter::iv(&salt, 0, 0), &mut stream);
    assert_eq!(stream[..48], unhex(first));
    assert_eq!(stream[0xFEFF * 16..], unhex(last));
}

#[test]
fn rfc_3711_b_2_aes_128_cm() {
    check_keystream(
        "2B7E151628AED2A6ABF7158809CF4F3C",
        "E03EAD0935C95E80E166B16DD92B4EB4 D23513162B02D0F72A43A2FE4A5F97AB 41E95B3BB0A2E8DD477901E4FCA894C0",
        "EC8CDF7398607CB0F2D21675EA9EA1E4 362B7C3C6773516318A077D7FC5073AE 6A2CC3787889374FBEB4C81B17BA6C44",
    );
}

#[test]
fn rfc_6188_7_1_aes_256_cm() {
    check_keystream(
        "57f82fe3613fd170a85ec93c40b1f0922ec4cb0dc025b58272147cc438944a98",
        "92bdd28a93c3f52511c677d08b5515a49da71b2378a854f67050756ded165bac63c4868b7096d88421b563b8c94c9a31",
        "cea518c90fd91ced9cbb18c078a547113dbc4814f4da5f00a08772b63c6a046d6eb246913062a16891433e97dd01a57f",
    );
}

#[test]
fn rfc_6188_7_3_aes_192_cm() {
    check_keystream(
        "eab234764e517b2d3d160d587d8c86219740f65f99b6bcf7",
        "35096cba4610028dc1b57503804ce37c5de986291dcce161d5165ec4568f5c9a474a40c77894bc17180202272a4c264d",
        "d108d1a31a00bad6367ec23eb044b415c8f57129fdeb970b59f917b257662d4ca5dab625811034e8cebdfeb6dc158dd3",
    );
}

const GCM_KEY_128: &str = "000102030405060708090a0b0c0d0e0f";
const GCM_KEY_256: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// "Quid pro quo"
const GCM_SALT: &str = "517569642070726f2071756f";
/// "Gallia est omnis divisa in partes tres", sequence 0xF17B, SSRC 0x5501A0B2.
const GCM_RTP: &str =
    "8040f17b8041f8d35501a0b247616c6c696120657374206f6d6e69732064697669736120696e207061727465732074726573";
const GCM_RTCP: &str = "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61\
                        deadbeefdeadbeefdeadbeefdeadbeefdeadbeef";

/// RFC 7714 §16.1.1, §16.1.2, §16.2.1, §16.2.2.
#[test]
fn rfc_7714_16_srtp() {
    for (key, protected) in [
        (
            GCM_KEY_128,
            "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833\
             899d7f27beb16a9152cf765ee4390cce",
        ),
        (
            GCM_KEY_256,
            "8040f17b8041f8d35501a0b232b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b\
             7aa3db36dfffd6b0f9bb7878d7a76c13",
        ),
    ] {
        let cipher = RtpCipher::gcm_from_session(&unhex(key), unhex(GCM_SALT).try_into().unwrap());
        let index = SeqNo::new(0, 0xF17B);
        let at = Indexed {
            header_len: 12,
            ssrc: 0x5501_A0B2,
            index,
        };
        let mut packet = unhex(GCM_RTP);
        edit(&mut packet, |packet| cipher.protect(packet, at, &[])).unwrap();
        assert_eq!(packet, unhex(protected));
        let opened = edit(&mut packet, |packet| {
            cipher.unprotect(packet, 12, 0x5501_A0B2, [index].into_iter(), &[])
        });
        assert_eq!(opened, Ok(index));
        assert_eq!(packet, unhex(GCM_RTP));
    }
}

/// RFC 7714 §17.1, §17.2, index 0x5D4.
#[test]
fn rfc_7714_17_srtcp() {
    for (suite, key, protected) in [
        (
            SrtpSuite::AeadAes128Gcm,
            GCM_KEY_128,
            "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b4686303ded\
             0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4",
        ),
        (
            SrtpSuite::AeadAes256Gcm,
            GCM_KEY_256,
            "81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be8415f658c61de047\
             6f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be800005d4",
        ),
    ] {
        let cipher = RtcpCipher::gcm_from_session(suite, &unhex(key), unhex(GCM_SALT).try_into().unwrap());
        let mut packet = unhex(GCM_RTCP);
        edit(&mut packet, |packet| cipher.protect(packet, 0x5D4, &[])).unwrap();
        assert_eq!(packet, unhex(protected));
        assert_eq!(edit(&mut packet, |packet| cipher.unprotect(packet, &[])), Ok(0x5D4));
        assert_eq!(packet, unhex(GCM_RTCP));
    }
}

/// RFC 7714 §17.3: E flag clear, everything is associated data. A wrong tag leaves the packet as it was.
#[test]
fn rfc_7714_17_3_srtcp_tagged_only() {
    let cipher = RtcpCipher::gcm_from_session(
        SrtpSuite::AeadAes128Gcm,
        &unhex(GCM_KEY_128),
        unhex(GCM_SALT).try_into().unwrap(),
    );
    let tagged = [unhex(GCM_RTCP), unhex("841dd9683dd78ec92ae58790125f62b3000005d4")].concat();
    let mut packet = tagged.clone();
    assert_eq!(edit(&mut packet, |packet| cipher.unprotect(packet, &[])), Ok(0x5D4));
    assert_eq!(packet, unhex(GCM_RTCP));
    for at in 8..tagged.len() {
        let mut forged = tagged.clone();
        forged[at] ^= 1;
        let mut received = forged.clone();
        assert_eq!(
            edit(&mut received, |packet| cipher.unprotect(packet, &[])),
            Err(SrtpError::Unauthentic),
            "{at}"
        );
        assert_eq!(received, forged, "{at}");
    }
}

/// libsrtp `srtp_validate`, `_mki`, `_aes_192`, `_aes_256`, `_gcm`: master key, plain packet, protected packet.
#[test]
fn libsrtp_validate_srtp() {
    let key_128 = "e1f97a0d3e018be0d64fa32c06de41390ec675ad498afeebb6960b3aabe6";
    let plain = "800f1234decafbadcafebabeabababababababababababababababab";
    let cases = [
        (
            SrtpSuite::AesCm128HmacSha1_80,
            key_128,
            None,
            plain,
            "800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb",
        ),
        // The 32-bit tag is the first four octets of the 80-bit one (RFC 3711 §4.2).
        (
            SrtpSuite::AesCm128HmacSha1_32,
            key_128,
            None,
            plain,
            "800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc",
        ),
        (
            SrtpSuite::AesCm128HmacSha1_80,
            key_128,
            Mki::new(0xE1F9_7A0D, 4),
            plain,
            "800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402e1f97a0db78d6acc99ea179b8dbb",
        ),
        (
            SrtpSuite::AesCm192HmacSha1_80,
            "73edc66c4fa15776fb57f9505c17136550ffda71f3e8e5f1c8522f3acd4ce86d5add78edbb11",
            None,
            "800f0000decafbad00000000abababababababababababababababab",
            "800f0000decafbad00000000d98865552f2762c3ef37f837acfdb7122d6bc4dc84c76f74aea5",
        ),
        (
            SrtpSuite::AesCm256HmacSha1_80,
            "f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b63b04803de51ee7c96423ab5b78d2",
            None,
            plain,
            "800f1234decafbadcafebabef1d9de17ff251ff1aa007774b0b4b40da08d9d9a5b3a55d8873b",
        ),
        (
            SrtpSuite::AeadAes128Gcm,
            "000102030405060708090a0b0c0d0e0fa0a1a2a3a4a5a6a7a8a9aaab",
            None,
            plain,
            "800f1234decafbadcafebabec5002ede04cfdd2eb91159e0880aa06ed2976826f796b201df3131a127e8a392",
        ),
    ];
    for (suite, key, mki, plain, protected) in cases {
        let key = SrtpKey::new(suite, &unhex(key)).unwrap().with_mki(mki);
        assert_eq!(
            protect(&mut Protect::new(&key), &unhex(plain)),
            unhex(protected),
            "{suite}"
        );
        assert_eq!(
            unprotect(&mut Unprotect::new(&key), &unhex(protected)),
            Ok(unhex(plain)),
            "{suite}"
        );
    }
}

/// libsrtp `srtp_validate`, `_mki`, `_gcm`: the SRTCP packets.
#[test]
fn libsrtp_validate_srtcp() {
    let key_128 = "e1f97a0d3e018be0d64fa32c06de41390ec675ad498afeebb6960b3aabe6";
    let plain = "81c8000bcafebabeabababababababababababababababab";
    let counter_mode = "81c8000bcafebabe7128035be487b9bdbef89041f977a5a880000001993e08cd54d6c1230798";
    let cases = [
        (SrtpSuite::AesCm128HmacSha1_80, key_128, None, counter_mode),
        // RFC 4568 §6.2.2: SRTCP keeps the 80-bit tag with the 32-bit suite.
        (SrtpSuite::AesCm128HmacSha1_32, key_128, None, counter_mode),
        (
            SrtpSuite::AesCm128HmacSha1_80,
            key_128,
            Mki::new(0xE1F9_7A0D, 4),
            "81c8000bcafebabe7128035be487b9bdbef89041f977a5a880000001e1f97a0d993e08cd54d6c1230798",
        ),
        (
            SrtpSuite::AeadAes128Gcm,
            "000102030405060708090a0b0c0d0e0fa0a1a2a3a4a5a6a7a8a9aaab",
            None,
            "81c8000bcafebabec98b8b5df0392a55852b6c21ac8e7025c52c6fbea2b3b446ea31123ba88ce61e80000001",
        ),
    ];
    for (suite, key, mki, protected) in cases {
        let key = SrtpKey::new(suite, &unhex(key)).unwrap().with_mki(mki);
        let mut packet = unhex(plain);
        edit(&mut packet, |packet| Protect::new(&key).protect_rtcp(packet)).unwrap();
        assert_eq!(packet, unhex(protected), "{suite}");
        edit(&mut packet, |packet| Unprotect::new(&key).unprotect_rtcp(packet)).unwrap();
        assert_eq!(packet, unhex(plain), "{suite}");
    }
}
