//! Language tags (RFC 5646), row 12.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The tags the settings page lists; others work but deserve a warning.
pub const LISTED: [&str; 11] = [
    "en-AU", "pt-BR", "fr-CA", "zh-CN", "de-DE", "en-GB", "it-IT", "ja-JP", "nl-NL", "en-US", "es-US",
];

/// Longest tag taken, in characters; RFC 5646 §4.4.1 asks for at least 35.
const MAX_LEN: usize = 64;

/// Why a text is no language tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a well-formed language tag (RFC 5646 §2.1)")]
pub struct LanguageError(String);

/// A well-formed language tag, with the letter case RFC 5646 §2.1.1 recommends.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Language(Arc<str>);

impl Language {
    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the settings page lists it.
    pub fn is_listed(&self) -> bool {
        LISTED.contains(&self.as_str())
    }
}

impl Default for Language {
    fn default() -> Self {
        Self("en-US".into())
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Language({})", self.0)
    }
}

impl FromStr for Language {
    type Err = LanguageError;

    fn from_str(text: &str) -> Result<Self, LanguageError> {
        if text.len() <= MAX_LEN && (is_langtag(text) || is_private_use(text) || is_grandfathered(text)) {
            Ok(Self(cased(text).into()))
        } else {
            Err(LanguageError(text.into()))
        }
    }
}

fn is_alpha(subtag: &str) -> bool {
    subtag.bytes().all(|b| b.is_ascii_alphabetic())
}

fn is_alphanumeric(subtag: &str) -> bool {
    !subtag.is_empty() && subtag.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// `langtag = language ["-" script] ["-" region] *("-" variant) *("-" extension) ["-" privateuse]`.
fn is_langtag(text: &str) -> bool {
    let subtags: Vec<&str> = text.split('-').collect();
    let mut at = 0;
    let language = subtags[0];
    if !is_alpha(language) || !(2..=8).contains(&language.len()) {
        return false;
    }
    at += 1;
    let next = |at: usize| subtags.get(at).copied();
    // Only a language of two or three letters may have extended subtags, at most three.
    if language.len() <= 3 {
        let extended = (0..3)
            .take_while(|i| next(at + i).is_some_and(|s| s.len() == 3 && is_alpha(s)))
            .count();
        at += extended;
    }
    if next(at).is_some_and(|s| s.len() == 4 && is_alpha(s)) {
        at += 1;
    }
    let is_region = |s: &str| (s.len() == 2 && is_alpha(s)) || (s.len() == 3 && s.bytes().all(|b| b.is_ascii_digit()));
    if next(at).is_some_and(is_region) {
        at += 1;
    }
    let mut variants: Vec<String> = Vec::new();
    while let Some(subtag) = next(at).filter(|s| is_variant(s)) {
        let variant = subtag.to_ascii_lowercase();
        if variants.contains(&variant) {
            return false;
        }
        variants.push(variant);
        at += 1;
    }
    let mut singletons: Vec<u8> = Vec::new();
    while let Some(singleton) = next(at).filter(|s| s.len() == 1 && is_alphanumeric(s) && !s.eq_ignore_ascii_case("x"))
    {
        let singleton = singleton.as_bytes()[0].to_ascii_lowercase();
        let content =
            (at + 1..).take_while(|i| next(*i).is_some_and(|s| (2..=8).contains(&s.len()) && is_alphanumeric(s)));
        let len = content.count();
        if len == 0 || singletons.contains(&singleton) {
            return false;
        }
        singletons.push(singleton);
        at += 1 + len;
    }
    at == subtags.len() || is_private_use(&subtags[at..].join("-"))
}

fn is_variant(subtag: &str) -> bool {
    is_alphanumeric(subtag)
        && ((5..=8).contains(&subtag.len()) || (subtag.len() == 4 && subtag.as_bytes()[0].is_ascii_digit()))
}

/// `privateuse = "x" 1*("-" (1*8alphanum))`.
fn is_private_use(text: &str) -> bool {
    text.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("x-"))
        && text[2..]
            .split('-')
            .all(|s| (1..=8).contains(&s.len()) && is_alphanumeric(s))
}

/// The irregular tags of RFC 5646 §2.1 that the grammar does not cover.
fn is_grandfathered(text: &str) -> bool {
    const IRREGULAR: [&str; 17] = [
        "en-GB-oed",
        "i-ami",
        "i-bnn",
        "i-default",
        "i-enochian",
        "i-hak",
        "i-klingon",
        "i-lux",
        "i-mingo",
        "i-navajo",
        "i-pwn",
        "i-tao",
        "i-tay",
        "i-tsu",
        "sgn-BE-FR",
        "sgn-BE-NL",
        "sgn-CH-DE",
    ];
    IRREGULAR.iter().any(|tag| tag.eq_ignore_ascii_case(text))
}

/// Lower case but for regions (upper case) and scripts (first letter upper) that do not start the tag or follow a singleton.
fn cased(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut after_singleton = false;
    for (i, subtag) in text.split('-').enumerate() {
        let lower = subtag.to_ascii_lowercase();
        if i > 0 {
            out.push('-');
        }
        match subtag.len() {
            2 if i > 0 && !after_singleton => out.push_str(&lower.to_ascii_uppercase()),
            4 if i > 0 && !after_singleton && is_alpha(subtag) => {
                out.push_str(&lower[..1].to_ascii_uppercase());
                out.push_str(&lower[1..]);
            }
            _ => out.push_str(&lower),
        }
        after_singleton |= subtag.len() == 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_tags_get_their_letter_case() {
        // Appendix A of RFC 5646.
        for tag in [
            "de",
            "fr",
            "ja",
            "i-enochian",
            "zh-Hant",
            "sr-Cyrl",
            "zh-cmn-Hans-CN",
            "cmn-Hans-CN",
            "yue-HK",
            "sr-Latn-RS",
            "sl-rozaj",
            "sl-rozaj-biske",
            "de-CH-1901",
            "sl-IT-nedis",
            "hy-Latn-IT-arevela",
            "de-DE",
            "en-US",
            "es-419",
            "de-CH-x-phonebk",
            "az-Arab-x-aze-derbend",
            "x-whatever",
            "qaa-Qaaa-QM-x-southern",
            "en-US-u-islamcal",
            "zh-CN-a-myext-x-private",
            "en-a-myext-b-another",
            "sgn-BE-FR",
        ] {
            let shown = tag
                .to_ascii_uppercase()
                .parse::<Language>()
                .unwrap_or_else(|e| panic!("{e}"))
                .to_string();
            assert!(shown.eq_ignore_ascii_case(tag), "{tag}");
        }
        for (given, cased) in [
            ("EN-us", "en-US"),
            ("ZH-hant-tw", "zh-Hant-TW"),
            ("de-ch-X-PHONEBK", "de-CH-x-phonebk"),
        ] {
            assert_eq!(given.parse::<Language>().unwrap().as_str(), cased);
        }
    }

    #[test]
    fn malformed_tags_are_refused() {
        for tag in [
            "",
            "-",
            "en-",
            "e",
            "en_US",
            "de-419-DE",
            "a-DE",
            "ar-a-aaa-b-bbb-a-ccc",
            "de-DE-1901-1901",
            "en-a",
            "x-",
            "englisch-x",
            "en US",
        ] {
            assert!(tag.parse::<Language>().is_err(), "{tag}");
        }
    }

    #[test]
    fn the_page_lists_its_default() {
        assert!(Language::default().is_listed());
        assert!(!"sv-SE".parse::<Language>().unwrap().is_listed());
        assert!(
            LISTED
                .iter()
                .all(|tag| tag.parse::<Language>().unwrap().as_str() == *tag)
        );
    }
}
