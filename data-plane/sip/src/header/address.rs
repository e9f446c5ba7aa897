use std::borrow::Cow;
use std::fmt;

use super::{Params, unquote};
use crate::parse::SyntaxError;
use crate::parse::scan::{Scanner, decimal, is_lws, trim_lws};
use crate::uri::Uri;

/// `[display-name] <URI> ;params` or `addr-spec ;params`: From, To, Route, Record-Route, Path, Refer-To,
/// P-Asserted-Identity and one Contact (RFC 3261 §20.10, §25.1).
#[derive(Clone, Copy)]
pub struct NameAddr<'a> {
    display: Option<&'a [u8]>,
    uri: Uri<'a>,
    params: Params<'a>,
}

/// One Contact value (RFC 3261 §20.10).
#[derive(Clone, Copy, Debug)]
pub enum Contact<'a> {
    /// `*`: all bindings, only in a REGISTER with `Expires: 0` (RFC 3261 §10.2.2).
    Star,
    /// An address.
    Address(NameAddr<'a>),
}

impl<'a> NameAddr<'a> {
    /// Parses one value. Strict inside the URI; lenient in an unquoted display name, which may hold anything but
    /// `" , : ; < > \`, because phones put UTF-8, Latin-1 and parentheses there.
    pub fn parse(value: &'a [u8]) -> Result<Self, SyntaxError> {
        let mut scanner = Scanner::new(trim_lws(value));
        let display = Self::display_name(&mut scanner)?;
        let uri = if scanner.eat(b'<') {
            let uri = Uri::parse(scanner.take_while(|b| b != b'>'))?;
            scanner.expect(b'>', "'>'")?;
            uri
        } else if display.is_some() {
            return Err(scanner.error("'<' after a display name"));
        } else {
            // §20.10: a URI with a comma, question mark or semicolon must be in <>; here a semicolon ends it.
            let uri = scanner.take_while(|b| !is_lws(b) && !matches!(b, b';' | b','));
            if uri.contains(&b'?') {
                return Err(scanner.error("'<' around a URI with headers"));
            }
            Uri::parse(uri)?
        };
        let params = Params::parse_header(&mut scanner)?;
        Ok(Self { display, uri, params })
    }

    /// The display name in front of `<`, with its quotes if it has them. Leaves the scanner at the URI.
    fn display_name(scanner: &mut Scanner<'a>) -> Result<Option<&'a [u8]>, SyntaxError> {
        if scanner.peek() == Some(b'"') {
            let quoted = scanner.quoted()?;
            scanner.skip_lws();
            return Ok(Some(quoted));
        }
        let start = *scanner;
        let words = scanner.take_while(|b| !matches!(b, b'"' | b',' | b':' | b';' | b'<' | b'>' | b'\\' | 0));
        if scanner.peek() == Some(b'<') {
            let words = trim_lws(words);
            return Ok((!words.is_empty()).then_some(words));
        }
        *scanner = start;
        Ok(None)
    }

    /// Display name as received: quotes, escapes and any 8-bit text included.
    pub fn display(&self) -> Option<&'a [u8]> {
        self.display
    }

    /// Display name for people: unquoted, invalid UTF-8 replaced.
    pub fn display_text(&self) -> Option<Cow<'a, str>> {
        Some(match String::from_utf8_lossy(self.display?) {
            Cow::Borrowed(text) => unquote(text),
            Cow::Owned(text) => Cow::Owned(unquote(&text).into_owned()),
        })
    }

    /// The URI.
    pub fn uri(&self) -> Uri<'a> {
        self.uri
    }

    /// Header parameters (behind the `>`), not those of the URI.
    pub fn params(&self) -> Params<'a> {
        self.params
    }

    /// `tag` parameter (RFC 3261 §19.3).
    pub fn tag(&self) -> Option<&'a str> {
        self.params.value("tag")
    }

    /// `expires` parameter of a Contact in seconds. Too large a number is 2^32-1; a malformed one counts as absent, so
    /// that the Expires header or the default decides.
    pub fn expires(&self) -> Option<u32> {
        let value = self.params.value("expires")?.as_bytes();
        let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        is_number.then(|| decimal(value).unwrap_or(u32::MAX))
    }

    /// `q` parameter in thousandths, 0..=1000; `None` when absent or malformed (RFC 3261 §25.1 qvalue).
    pub fn q(&self) -> Option<u16> {
        let value = self.params.value("q")?;
        let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
        if fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let scale = [1000, 100, 10, 1][fraction.len()];
        let thousandths = if fraction.is_empty() {
            0
        } else {
            fraction.parse::<u16>().ok()? * scale
        };
        match whole {
            "0" => Some(thousandths),
            "1" if thousandths == 0 => Some(1000),
            _ => None,
        }
    }
}

impl<'a> Contact<'a> {
    /// Parses one value of the list.
    pub fn parse(value: &'a [u8]) -> Result<Self, SyntaxError> {
        if trim_lws(value) == b"*" {
            Ok(Self::Star)
        } else {
            NameAddr::parse(value).map(Self::Address)
        }
    }

    /// The address, unless it is `*`.
    pub fn address(&self) -> Option<&NameAddr<'a>> {
        match self {
            Self::Star => None,
            Self::Address(address) => Some(address),
        }
    }
}

impl fmt::Debug for NameAddr<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(display) = self.display_text() {
            write!(f, "{display:?} ")?;
        }
        write!(f, "<{:?}>{}", self.uri, self.params.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> NameAddr<'_> {
        NameAddr::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn parameters_behind_the_bracket_belong_to_the_header() {
        let address = parse("\"J \\\"Joe\\\" R\"\r\n <sip:jdrosen@example.com;user=phone> ; tag = 98asjd8");
        assert_eq!(address.display_text().unwrap(), "J \"Joe\" R");
        assert_eq!(address.uri().params().value("user"), Some("phone"));
        assert_eq!(
            (address.tag(), address.params().contains("user")),
            (Some("98asjd8"), false)
        );
    }

    #[test]
    fn without_brackets_parameters_belong_to_the_header() {
        let address = parse("sip:alice@example.com;tag=1");
        assert_eq!((address.tag(), address.uri().params().as_str()), (Some("1"), ""));
    }

    #[test]
    fn display_names_may_touch_the_bracket_and_hold_eight_bit_text() {
        assert_eq!(
            parse("caller<sip:caller@example.com>;tag=323").display(),
            Some(&b"caller"[..])
        );
        assert_eq!(parse("<sip:a@b>").display(), None);
        let latin1 = b"J\xfcrgen (Home) <sip:j@x>".to_vec();
        assert_eq!(
            NameAddr::parse(&latin1).unwrap().display_text().unwrap(),
            "J\u{fffd}rgen (Home)"
        );
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for bad in [
            "",
            "\"Mr. J. User <sip:j.user@example.com>",
            "Bell, Alexander <sip:a@b>",
            "\"x\" sip:a@b",
            "< sip:a@b >",
            "<sip:a@b",
            "sip:a@b?Route=%3Csip:c%3E",
            "<sip:a@b>;;;;",
            "<sip:a@b> x",
            "x",
            "<sip:a@b>,<sip:c@d>",
        ] {
            assert!(NameAddr::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn contact_parameters_are_read_within_their_ranges() {
        for (text, expires, q) in [
            ("<sip:a@b>;expires=3600;q=0.5", Some(3600), Some(500)),
            ("<sip:a@b>;expires=280297596632815;q=1.000", Some(u32::MAX), Some(1000)),
            ("<sip:a@b>;expires=1h;q=1.1", None, None),
            ("<sip:a@b>;q=0.1234", None, None),
            ("<sip:a@b>;q=0", None, Some(0)),
            ("<sip:a@b>;q=0.05", None, Some(50)),
        ] {
            assert_eq!((parse(text).expires(), parse(text).q()), (expires, q), "{text}");
        }
        assert!(matches!(Contact::parse(b" * ").unwrap(), Contact::Star));
    }
}
