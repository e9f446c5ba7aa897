//! RFC 3261 §19.1.4.

use super::{SipUri, TelUri, Uri, hex_pair};
use crate::header::{Param, Params};

/// Present in one URI only, these make the two differ. The text of §19.1.4 names `user`, `ttl`, `method` and `maddr`;
/// its examples ("can resolve to different transports") add `transport`.
const NEVER_IGNORED: [&str; 5] = ["user", "ttl", "method", "maddr", "transport"];

pub(super) fn equivalent(a: &Uri<'_>, b: &Uri<'_>) -> bool {
    match (a, b) {
        (Uri::Sip(a), Uri::Sip(b)) => sip(a, b),
        (Uri::Tel(a), Uri::Tel(b)) => tel(a, b),
        (Uri::Other(a), Uri::Other(b)) => {
            let (rest_a, rest_b) = (&a.text[a.scheme.len()..], &b.text[b.scheme.len()..]);
            a.scheme.eq_ignore_ascii_case(b.scheme) && rest_a == rest_b
        }
        _ => false,
    }
}

fn sip(a: &SipUri<'_>, b: &SipUri<'_>) -> bool {
    a.secure == b.secure
        && text(a.user, b.user, false)
        && text(a.password, b.password, false)
        && a.host == b.host
        && a.port == b.port
        && params(a.params, b.params)
        && headers(a.headers.unwrap_or(""), b.headers.unwrap_or(""))
}

fn params(a: Params<'_>, b: Params<'_>) -> bool {
    let agrees = |param: Param<'_>, other: Params<'_>| match other.find(param.name) {
        Some(twin) => text(param.value, twin.value, true),
        None => !NEVER_IGNORED.iter().any(|name| param.name.eq_ignore_ascii_case(name)),
    };
    a.iter().all(|param| agrees(param, b)) && b.iter().all(|param| agrees(param, a))
}

/// Header components are never ignored, and their order does not matter.
fn headers(a: &str, b: &str) -> bool {
    let count = |list: &str| if list.is_empty() { 0 } else { list.split('&').count() };
    let contains = |list: &str, wanted: &str| list.split('&').any(|one| header(one, wanted));
    count(a) == count(b) && a.split('&').all(|one| contains(b, one)) && b.split('&').all(|one| contains(a, one))
}

fn header(a: &str, b: &str) -> bool {
    let (name_a, value_a) = a.split_once('=').unwrap_or((a, ""));
    let (name_b, value_b) = b.split_once('=').unwrap_or((b, ""));
    text(Some(name_a), Some(name_b), true) && text(Some(value_a), Some(value_b), false)
}

fn text(a: Option<&str>, b: Option<&str>, fold_case: bool) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => units(a, fold_case).eq(units(b, fold_case)),
        (None, None) => true,
        _ => false,
    }
}

/// Bytes with a mark for escaped reserved characters: "%41" equals "A", but "%40" does not equal "@".
fn units(text: &str, fold_case: bool) -> impl Iterator<Item = (u8, bool)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *bytes.get(at)?;
        let (value, escaped) = match hex_pair(bytes, at) {
            Some(value) => {
                at += 3;
                (value, b";/?:@&=+$,".contains(&value))
            }
            None => {
                at += 1;
                (byte, false)
            }
        };
        Some((if fold_case { value.to_ascii_lowercase() } else { value }, escaped))
    })
}

/// RFC 3966 §4: visual separators do not count, parameters are a set and compare case-insensitively.
fn tel(a: &TelUri<'_>, b: &TelUri<'_>) -> bool {
    fn plain(number: &str) -> impl Iterator<Item = u8> + '_ {
        number
            .bytes()
            .filter(|b| !matches!(b, b'-' | b'.' | b'(' | b')'))
            .map(|b| b.to_ascii_lowercase())
    }
    let within = |x: Params<'_>, y: Params<'_>| {
        x.iter().all(|param| {
            y.find(param.name)
                .is_some_and(|twin| text(param.value, twin.value, true))
        })
    };
    plain(a.number).eq(plain(b.number)) && within(a.params, b.params) && within(b.params, a.params)
}
