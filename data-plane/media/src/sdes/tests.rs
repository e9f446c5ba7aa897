use super::*;
use proptest::prelude::*;

/// The form of RFC 4568's examples: suite, key, lifetime and MKI.
const RFC_LINE: &str = "1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj|2^20|1:32";

fn inline(len: usize) -> String {
    general_purpose::STANDARD.encode(vec![0x5A; len])
}

#[test]
fn a_line_with_lifetime_and_mki_reads_and_writes_back() {
    let line = CryptoLine::parse(RFC_LINE).unwrap();
    assert_eq!((line.tag, line.suite()), (1, SrtpSuite::AesCm128HmacSha1_80));
    assert_eq!(line.keys[0].lifetime.unwrap().packets(), 1 << 20);
    let mki = line.key().mki().unwrap();
    assert_eq!((mki.value(), mki.as_bytes().len()), (1, 32));
    assert_eq!(line.to_string(), RFC_LINE);
}

#[test]
fn several_keys_need_mkis_of_one_length() {
    let key = inline(30);
    let good = format!("2 AES_CM_128_HMAC_SHA1_32 inline:{key}|2^20|1:4;inline:{key}|2^20|2:4");
    let line = CryptoLine::parse(&good).unwrap();
    assert_eq!(line.keys.len(), 2);
    assert_eq!(line.to_string(), good);
    for bad in ["|2^20|1:4;inline:KEY", ";inline:KEY", "|1:4;inline:KEY|2:3"] {
        let text = format!("2 AES_CM_128_HMAC_SHA1_32 inline:{key}{}", bad.replace("KEY", &key));
        assert!(
            matches!(CryptoLine::parse(&text), Err(CryptoLineError::Malformed(_))),
            "{text}"
        );
    }
}

#[test]
fn every_suite_round_trips_in_both_spellings() {
    let mut rng = rand::rng();
    for suite in SrtpSuite::ALL {
        for spelling in [SuiteSpelling::Iana, SuiteSpelling::Page] {
            let line = CryptoLine::generate(7, suite, spelling, &mut rng);
            let text = line.to_string();
            assert!(text.starts_with(&format!("7 {} inline:", suite.spelled(spelling))));
            let back = CryptoLine::parse(&text).unwrap();
            assert_eq!(back.key(), line.key());
        }
    }
}

#[test]
fn key_padding_may_be_missing_or_excessive() {
    // 28 octets need "==", 38 need "=": peers send fewer.
    for (suite, len) in [
        ("AEAD_AES_128_GCM", 28),
        ("AES_192_CM_HMAC_SHA1_80", 38),
        ("AES_CM_256_HMAC_SHA1_80", 46),
    ] {
        let padded = inline(len);
        let bare = padded.trim_end_matches('=');
        for key in [padded.as_str(), bare, &format!("{bare}="), &format!("{bare}==")] {
            let line = CryptoLine::parse(&format!("1 {suite} inline:{key}")).unwrap();
            assert_eq!(line.key().key_salt(), vec![0x5A; len]);
        }
    }
}

#[test]
fn a_key_of_another_length_is_told_apart() {
    // AEAD with a 112-bit salt is a common mistake.
    let text = format!("3 AEAD_AES_128_GCM inline:{}", inline(30));
    assert_eq!(CryptoLine::parse(&text), Err(CryptoLineError::KeyLength { tag: 3 }));
}

#[test]
fn unknown_suites_are_told_apart_from_malformed_lines() {
    let text = format!("4 F8_128_HMAC_SHA1_80 inline:{}", inline(30));
    assert_eq!(CryptoLine::parse(&text), Err(CryptoLineError::UnknownSuite { tag: 4 }));
    for bad in [
        "",
        "x",
        "1",
        "1 AES_CM_128_HMAC_SHA1_80",
        "-1 AES_CM_128_HMAC_SHA1_80 inline:",
        "1234567890 X Y",
    ] {
        assert!(
            matches!(CryptoLine::parse(bad), Err(CryptoLineError::Malformed(_))),
            "{bad}"
        );
    }
}

#[test]
fn session_parameters_that_weaken_or_are_unknown_invalidate_the_line() {
    let base = format!("1 AES_CM_128_HMAC_SHA1_80 inline:{}", inline(30));
    for parameter in [
        "UNENCRYPTED_SRTP",
        "UNENCRYPTED_SRTCP",
        "UNAUTHENTICATED_SRTP",
        "KDR=1",
        "FEC_ORDER=FEC_SRTP",
        "NEWTHING=1",
    ] {
        assert_eq!(
            CryptoLine::parse(&format!("{base} {parameter}")),
            Err(CryptoLineError::SessionParameter { tag: 1 }),
            "{parameter}"
        );
    }
    assert_eq!(
        CryptoLine::parse(&format!("{base} -OPTIONAL=1 WSH=32"))
            .unwrap()
            .window_size_hint,
        Some(64)
    );
}

#[test]
fn lifetimes_outside_the_packet_index_are_refused() {
    let base = format!("1 AES_CM_128_HMAC_SHA1_80 inline:{}", inline(30));
    for good in ["2^31", "2^48", "1", "281474976710656"] {
        assert!(CryptoLine::parse(&format!("{base}|{good}")).is_ok(), "{good}");
    }
    for bad in [
        "2^49",
        "0",
        "281474976710657",
        "2^",
        "2^-1",
        "2^20|2^20",
        "1:4|2^20",
        "1:4|2:4",
        "1:0",
        "256:1",
    ] {
        assert!(CryptoLine::parse(&format!("{base}|{bad}")).is_err(), "{bad}");
    }
}

#[test]
fn debug_output_holds_no_key() {
    let line = CryptoLine::parse(RFC_LINE).unwrap();
    assert!(!format!("{line:?} {:?}", line.keys).contains("d0Rmdm"));
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "\\PC{0,200}") {
        let _ = CryptoLine::parse(&text);
    }

    #[test]
    fn near_valid_lines_never_panic_and_round_trip(
        tag in 1u32..999_999_999,
        key in proptest::collection::vec(any::<u8>(), 0..60),
        suffix in "(\\|2\\^[0-9]{1,3})?(\\|[0-9]{1,45}:[0-9]{1,3})?( WSH=[0-9]{1,11})?",
        suite in 0usize..8,
    ) {
        let suite = SrtpSuite::ALL[suite];
        let text = format!("{tag} {suite} inline:{}{suffix}", general_purpose::STANDARD.encode(&key));
        if let Ok(line) = CryptoLine::parse(&text) {
            prop_assert_eq!(line.key().key_salt(), &key[..]);
            prop_assert_eq!(CryptoLine::parse(&line.to_string()), Ok(line));
        }
    }
}
