use std::borrow::Cow;
use std::fmt;

use crate::parse::SyntaxError;
use crate::parse::scan::{Scanner, is_lws, is_token, trim_lws_str};

/// `;name=value` parameters of a header field or a URI, checked once and then read in place.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Params<'a> {
    /// Empty, or starts with `;` (after white space in a header field).
    text: &'a str,
}

/// One parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param<'a> {
    /// Compare with `eq_ignore_ascii_case`.
    pub name: &'a str,
    /// As it stands, quotes and escapes included; see [`Param::unquoted`].
    pub value: Option<&'a str>,
}

impl<'a> Params<'a> {
    /// Checks `*( SEMI generic-param )` over all that is left of `scanner` (RFC 3261 §25.1). Values may hold any visible
    /// byte but `;`, `,` and quotes: phones put more into them than the grammar allows, and nothing here depends on it.
    pub(crate) fn parse_header(scanner: &mut Scanner<'a>) -> Result<Self, SyntaxError> {
        let start = scanner.at();
        loop {
            scanner.skip_lws();
            if scanner.is_done() {
                break;
            }
            scanner.expect(b';', "';' before a parameter")?;
            scanner.skip_lws();
            scanner.token("parameter name")?;
            scanner.skip_lws();
            if scanner.eat(b'=') {
                scanner.skip_lws();
                if scanner.peek() == Some(b'"') {
                    scanner.quoted()?;
                } else if scanner
                    .take_while(|b| b > b' ' && !matches!(b, b';' | b',' | b'"' | 0x7f))
                    .is_empty()
                {
                    return Err(scanner.error("parameter value"));
                }
            }
        }
        let text = std::str::from_utf8(scanner.since(start));
        Ok(Self {
            text: text.map_err(|_| SyntaxError {
                expected: "UTF-8 parameters",
                at: start,
            })?,
        })
    }

    /// `text` is empty or starts with `;`, holds no white space, and its escapes are checked by the URI parser.
    pub(crate) fn parse_uri(text: &'a str) -> Result<Self, SyntaxError> {
        let named = |param: &str| {
            let name = param.split('=').next().unwrap_or("");
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| is_token(b) || matches!(b, b'[' | b']' | b'/' | b':' | b'&' | b'$' | b'(' | b')'))
        };
        if text.is_empty() || text.strip_prefix(';').is_some_and(|list| list.split(';').all(named)) {
            Ok(Self { text })
        } else {
            Err(SyntaxError {
                expected: "URI parameter name",
                at: 0,
            })
        }
    }

    /// The parameters in order. Bounded by the header line.
    pub fn iter(self) -> impl Iterator<Item = Param<'a>> + use<'a> {
        let mut rest = self.text;
        std::iter::from_fn(move || {
            let skipped = rest.bytes().position(|byte| !is_lws(byte))?;
            let body = rest[skipped..].strip_prefix(';')?;
            let end = semicolon(body);
            rest = &body[end..];
            let (name, value) = match memchr::memchr(b'=', &body.as_bytes()[..end]) {
                Some(equals) => (&body[..equals], Some(trim_lws_str(&body[equals + 1..end]))),
                None => (&body[..end], None),
            };
            Some(Param {
                name: trim_lws_str(name),
                value,
            })
        })
    }

    /// First parameter of that name, case-insensitively.
    pub fn find(self, name: &str) -> Option<Param<'a>> {
        self.iter().find(|param| param.name.eq_ignore_ascii_case(name))
    }

    /// Value of the first parameter of that name; `None` also when the parameter has no value.
    pub fn value(self, name: &str) -> Option<&'a str> {
        self.find(name)?.value
    }

    /// Whether a parameter of that name is there, with or without a value.
    pub fn contains(self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The text, starting with `;` unless empty.
    pub fn as_str(self) -> &'a str {
        self.text
    }
}

/// Offset of the next `;` outside quotes, or the end.
fn semicolon(text: &str) -> usize {
    // Most often there is no quote before it.
    match memchr::memchr2(b';', b'"', text.as_bytes()) {
        Some(at) if text.as_bytes()[at] == b';' => return at,
        Some(_) => {}
        None => return text.len(),
    }
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b';' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

impl<'a> Param<'a> {
    /// The value without quotes and escapes (RFC 3261 §25.1 quoted-pair).
    pub fn unquoted(&self) -> Option<Cow<'a, str>> {
        self.value.map(unquote)
    }
}

/// Removes the quotes and escapes of a quoted-string; text without quotes stays as it is.
pub(crate) fn unquote(text: &str) -> Cow<'_, str> {
    let Some(inner) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return Cow::Borrowed(text);
    };
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    let mut plain = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        plain.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    Cow::Owned(plain)
}

impl fmt::Debug for Params<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Params<'_>, SyntaxError> {
        Params::parse_header(&mut Scanner::new(text.as_bytes()))
    }

    #[test]
    fn white_space_quotes_and_case_are_read_through() {
        let params = parse(" ; Tag = 1918 ;\r\n text=\"a;\\\"b\";lr ;host=[2001:db8::1]").unwrap();
        assert_eq!(params.value("tag"), Some("1918"));
        assert_eq!(params.find("TEXT").unwrap().unquoted().unwrap(), "a;\"b");
        assert!(params.contains("lr") && params.value("lr").is_none());
        assert_eq!(params.value("host"), Some("[2001:db8::1]"));
        assert_eq!(params.iter().count(), 4);
    }

    #[test]
    fn malformed_lists_are_refused() {
        for bad in [";", ";;", ";a;", "a=b", ";a=", ";a=\"b", ";=b", ";a=b c", ";a,b"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
