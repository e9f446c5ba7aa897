//! Parsers take any text without panicking, and what they accept reads back as itself.

use std::fmt::Display;
use std::str::FromStr;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use trunkline_shared::acl::{Entry, via_address};
use trunkline_shared::codes::CodeList;
use trunkline_shared::host::Host;
use trunkline_shared::language::Language;
use trunkline_shared::name::{ConversationId, LineName, RegistrationName, TrunkId, percent_decode, percent_encode};
use trunkline_shared::property::{Decimal, PropertyType, PropertyValue};
use trunkline_shared::rate::{Rate, TokenBucket};
use trunkline_shared::route::UserRegex;
use trunkline_shared::tls::{CipherSuite, SubjectAltName};

/// What is accepted is shown in a form that reads back as the same value.
fn reads_back<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let shown = value.to_string();
        assert!(
            shown.parse::<T>().is_ok_and(|again| again == value),
            "{text:?} shown as {shown:?}"
        );
    }
}

/// Arbitrary text, and text made of the pieces the grammars know.
fn texts() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "0",
        "1",
        "40",
        "600",
        "9999999999",
        ".",
        "/",
        "-",
        ",",
        ";",
        ":",
        "s",
        "m",
        "h",
        "[",
        "]",
        "::1",
        "192.0.2.1",
        "24",
        "en",
        "US",
        "x",
        "latn",
        "1901",
        "DNS:",
        "URI:",
        "sip:",
        "@",
        "*",
        " ",
        "\"",
        "\\",
        "\u{201c}",
        "%",
        "%41",
        "%FF",
        "ü",
        "trunks/",
        "a",
        "/lines/",
        "/registrations/",
        "SIP/2.0/UDP",
        "received=",
        "(",
        ")",
        "|",
        "\\d",
        "+",
    ]);
    prop_oneof![
        any::<String>(),
        prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
    ]
}

proptest! {
    #[test]
    fn any_text_is_taken_without_panic(text in texts()) {
        reads_back::<Rate>(&text);
        reads_back::<Host>(&text);
        reads_back::<Language>(&text);
        reads_back::<SubjectAltName>(&text);
        reads_back::<CipherSuite>(&text);
        reads_back::<LineName>(&text);
        reads_back::<RegistrationName>(&text);
        reads_back::<ConversationId>(&text);
        for list in [CodeList::reasons(&text), CodeList::causes(&text)].into_iter().flatten() {
            prop_assert_eq!(list.as_str(), &text);
        }
        if let Ok(entry) = Entry::parse(&text) {
            prop_assert_eq!(Entry::parse(&entry.to_string()), Ok(entry));
        }
        let _ = via_address(&text);
        for data_type in [PropertyType::Bool, PropertyType::Text, PropertyType::Number, PropertyType::List] {
            let _ = PropertyValue::parse_text(data_type, &text);
        }
        let _ = Decimal::parse(&text).map(|number| number.thousandths());
        let _ = TrunkId::parse_name(&text);
        if let Ok(regex) = UserRegex::new(&text) {
            let _ = regex.matches(&text);
        }
    }

    #[test]
    fn user_parts_survive_a_resource_name(user in "\\PC{1,40}") {
        prop_assert_eq!(percent_decode(&percent_encode(&user)), Some(user.clone()));
        let name = RegistrationName { trunk: TrunkId::new("t").unwrap(), user: user.as_str().into() };
        prop_assert_eq!(name.to_string().parse::<RegistrationName>().unwrap(), name);
    }

    /// Over any time a bucket gives at most its capacity and what the time adds, and the wait it tells is exact.
    #[test]
    fn a_bucket_keeps_its_rate(amount in 1_u64..5000, thousandths in 0_u64..1000, seconds in 1_u64..300, gaps in prop::collection::vec(0_u64..5000, 1..200)) {
        let rate: Rate = format!("{amount}.{thousandths:03}/{seconds}s").parse().unwrap();
        let start = start();
        let mut bucket = TokenBucket::new(&rate, start);
        let (mut at, mut given) = (Duration::ZERO, 0_u128);
        for gap in gaps {
            at += Duration::from_millis(gap);
            match bucket.try_take(start + at) {
                Ok(()) => given += 1,
                Err(wait) => {
                    // The told time is exact: one nanosecond earlier there is none, and then there is.
                    prop_assert!(wait.0 > Duration::ZERO);
                    at += wait.0;
                    prop_assert!(bucket.clone().try_take(start + at - Duration::from_nanos(1)).is_err());
                    prop_assert!(bucket.try_take(start + at).is_ok());
                    given += 1;
                }
            }
        }
        let nanotokens = u128::from(rate.nanotokens());
        let added = at.as_nanos() * nanotokens / (u128::from(seconds) * 1_000_000_000);
        prop_assert!(given * 1_000_000_000 <= nanotokens.max(1_000_000_000) + added + 1, "{given} given");
    }
}

#[expect(clippy::disallowed_methods, reason = "a starting point; the tests move it by hand")]
fn start() -> Instant {
    Instant::now()
}
