use super::*;

fn text(value: &str) -> PropertyValue {
    PropertyValue::Text(value.into())
}

fn number(value: &str) -> PropertyValue {
    PropertyValue::Number(Decimal::parse(value).unwrap())
}

fn properties(list: &[(&str, PropertyValue)]) -> CustomProperties {
    CustomProperties::new(
        list.iter()
            .map(|(name, value)| CustomProperty::new(name, value.clone()).unwrap())
            .collect(),
    )
    .unwrap()
}

#[test]
fn defaults_stand_when_nothing_is_set() {
    let none = CustomProperties::default();
    assert_eq!(
        (none.rtp_idle_two_way().as_secs(), none.rtp_idle_one_way().as_secs()),
        (300, 43_200)
    );
    assert_eq!(
        (none.retry_match(), none.acl_deny_action()),
        (RetryMatch::Any, DenyAction::Reject)
    );
    assert_eq!(
        none.digest_algorithms(),
        [DigestAlgorithm::Sha256, DigestAlgorithm::Md5]
    );
}

#[test]
fn set_values_are_read() {
    let set = properties(&[
        ("rtp.idle_two_way", number("1.5")),
        ("rtp.idle_one_way", number("60")),
        ("retry.match", text("all")),
        ("acl.deny_action", text("drop")),
        ("digest.algorithms", text("md5")),
        ("site.floor", number("3")),
    ]);
    assert_eq!(
        (set.rtp_idle_two_way(), set.rtp_idle_one_way()),
        (Duration::from_millis(1500), Duration::from_secs(60))
    );
    assert_eq!(
        (set.retry_match(), set.acl_deny_action()),
        (RetryMatch::All, DenyAction::Drop)
    );
    assert_eq!(set.digest_algorithms(), [DigestAlgorithm::Md5]);
    assert_eq!(set.unrecognised().collect::<Vec<_>>(), ["site.floor"]);
}

#[test]
fn known_properties_have_a_type_and_a_range() {
    for (name, value) in [
        ("rtp.idle_two_way", text("300")),
        ("rtp.idle_two_way", number("0.0999")),
        ("rtp.idle_two_way", number("-300")),
        ("rtp.idle_one_way", number("604800.001")),
        ("retry.match", text("SOME")),
        ("acl.deny_action", PropertyValue::Bool(true)),
        ("digest.algorithms", text("MD5,SHA-256")),
    ] {
        assert!(
            matches!(CustomProperty::new(name, value), Err(PropertyError::WrongType { name: n, .. }) if n == name),
            "{name}"
        );
    }
}

#[test]
fn names_keep_their_rule_and_do_not_repeat() {
    for bad in ["", "1a", ".a", "a b", "ä", &"a".repeat(129)] {
        assert!(
            matches!(CustomProperty::new(bad, text("x")), Err(PropertyError::Name(_))),
            "{bad}"
        );
    }
    assert!(CustomProperty::new(&"a".repeat(128), text("x")).is_ok());
    let one = CustomProperty::new("a", text("x")).unwrap();
    let other = CustomProperty::new("b", text("x")).unwrap();
    assert_eq!(CustomProperties::new(vec![one.clone(), other, one]), Err(2));
}

#[test]
fn numbers_are_kept_exactly() {
    for (given, thousandths) in [
        ("0", Some(0)),
        ("-1.5", Some(-1500)),
        ("0.001", Some(1)),
        ("0.0010", Some(1)),
        ("0.0001", None),
        ("+7", Some(7000)),
        ("99999999999999999999", None),
    ] {
        let number = Decimal::parse(given).unwrap();
        assert_eq!((number.as_str(), number.thousandths()), (given, thousandths));
    }
    for bad in ["", "-", ".5", "5.", "1e3", "0x10", "1,5", &"1".repeat(65)] {
        assert!(Decimal::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn text_forms_are_imported() {
    use PropertyType::{Bool, List, Number, Text};
    let list = |items: &[&str]| PropertyValue::List(items.iter().map(|item| (*item).into()).collect());
    for (data_type, given, value) in [
        (Bool, " TRUE ", PropertyValue::Bool(true)),
        (Bool, "False", PropertyValue::Bool(false)),
        (Text, " a,b ", text(" a,b ")),
        (Number, " 42 ", number("42")),
        (List, "", list(&[])),
        (List, "1, 2.5 ,-3", list(&["1", "2.5", "-3"])),
        (List, r#""a","b c" , "d,e""#, list(&["a", "b c", "d,e"])),
        (List, "\u{201c}a\u{201d},\u{201c}b\u{201d}", list(&["a", "b"])),
        (List, r#""say ""hi""",7"#, list(&[r#"say "hi""#, "7"])),
        (List, r#""""#, list(&[""])),
    ] {
        assert_eq!(PropertyValue::parse_text(data_type, given), Ok(value), "{given}");
    }
    for (data_type, given, error) in [
        (Bool, "yes", PropertyError::Bool("yes".into())),
        (Number, "a", PropertyError::Number("a".into())),
        (List, "1,,2", PropertyError::EmptyItem(2)),
        (List, "1,", PropertyError::EmptyItem(2)),
        (List, "a", PropertyError::BareItem(0)),
        (List, r#""a" b"#, PropertyError::BareItem(4)),
        (List, r#"1,"a"#, PropertyError::Unterminated(2)),
    ] {
        assert_eq!(PropertyValue::parse_text(data_type, given), Err(error), "{given}");
    }
}
