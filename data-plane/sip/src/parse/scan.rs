//! Byte classes of RFC 3261 §25.1 and the cursor every header parser walks with. No recursion anywhere: nesting in the
//! input cannot deepen the stack.

use super::SyntaxError;

const TOKEN: u8 = 1;
const HOST: u8 = 2;
const LWS: u8 = 4;
const URI: u8 = 8;

const CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0u8; 256];
    let mut byte = 0usize;
    while byte < 256 {
        let b = byte as u8;
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.') {
            table[byte] |= TOKEN | HOST;
        }
        // Underscores are no part of a host name, but Windows machine names put them into Via every day.
        if b == b'_' {
            table[byte] |= TOKEN | HOST;
        }
        if matches!(b, b'!' | b'%' | b'*' | b'+' | b'`' | b'\'' | b'~') {
            table[byte] |= TOKEN;
        }
        if matches!(b, b' ' | b'\t' | b'\r' | b'\n') {
            table[byte] |= LWS;
        }
        if !(b <= b' ' || matches!(b, b'<' | b'>' | b'"' | 0x7f)) {
            table[byte] |= URI;
        }
        byte += 1;
    }
    table
}

/// token = 1*(alphanum / "-" / "." / "!" / "%" / "*" / "_" / "+" / "`" / "'" / "~")
#[inline]
pub(crate) fn is_token(byte: u8) -> bool {
    CLASS[byte as usize] & TOKEN != 0
}

#[inline]
pub(crate) fn is_host(byte: u8) -> bool {
    CLASS[byte as usize] & HOST != 0
}

/// Neither white space nor a control character, nor one of those that end a URI in a header field.
#[inline]
pub(crate) fn is_uri(byte: u8) -> bool {
    CLASS[byte as usize] & URI != 0
}

/// CR and LF count as white space inside a header value: the line splitter lets them in only as part of a fold.
#[inline]
pub(crate) fn is_lws(byte: u8) -> bool {
    CLASS[byte as usize] & LWS != 0
}

/// `text` as `&str` when it is a non-empty token.
pub(crate) fn token_str(text: &[u8]) -> Option<&str> {
    if text.is_empty() || !text.iter().copied().all(is_token) {
        return None;
    }
    std::str::from_utf8(text).ok()
}

#[inline]
pub(crate) fn trim_lws(mut text: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = text
        && is_lws(*first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && is_lws(*last)
    {
        text = rest;
    }
    text
}

pub(crate) fn trim_lws_str(text: &str) -> &str {
    let bytes = text.as_bytes();
    let Some(start) = bytes.iter().position(|byte| !is_lws(*byte)) else {
        return "";
    };
    let end = bytes
        .iter()
        .rposition(|byte| !is_lws(*byte))
        .map_or(start, |last| last + 1);
    &text[start..end]
}

/// Decimal digits only, no sign, no white space; `None` when empty or beyond `u32`.
pub(crate) fn decimal(text: &[u8]) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u32, |value, digit| {
        if !digit.is_ascii_digit() {
            return None;
        }
        value.checked_mul(10)?.checked_add(u32::from(digit - b'0'))
    })
}

/// A cursor over one header value.
#[derive(Clone, Copy)]
pub(crate) struct Scanner<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0 }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.input[self.at..]
    }

    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        &self.input[start..self.at]
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at == self.input.len()
    }

    pub(crate) fn advance(&mut self, count: usize) {
        self.at = (self.at + count).min(self.input.len());
    }

    pub(crate) fn error(&self, expected: &'static str) -> SyntaxError {
        SyntaxError { expected, at: self.at }
    }

    #[inline]
    pub(crate) fn skip_lws(&mut self) {
        self.take_while(is_lws);
    }

    #[inline]
    pub(crate) fn take_while(&mut self, keep: impl Fn(u8) -> bool) -> &'a [u8] {
        let rest = self.rest();
        let length = rest.iter().position(|byte| !keep(*byte)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    pub(crate) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
        }
        found
    }

    pub(crate) fn expect(&mut self, byte: u8, expected: &'static str) -> Result<(), SyntaxError> {
        if self.eat(byte) {
            Ok(())
        } else {
            Err(self.error(expected))
        }
    }

    pub(crate) fn expect_end(&mut self) -> Result<(), SyntaxError> {
        self.skip_lws();
        if self.is_done() {
            Ok(())
        } else {
            Err(self.error("end of value"))
        }
    }

    pub(crate) fn token(&mut self, expected: &'static str) -> Result<&'a str, SyntaxError> {
        let start = self.at;
        let token = self.take_while(is_token);
        if token.is_empty() {
            return Err(SyntaxError { expected, at: start });
        }
        std::str::from_utf8(token).map_err(|_| SyntaxError { expected, at: start })
    }

    pub(crate) fn number(&mut self, expected: &'static str) -> Result<u32, SyntaxError> {
        let start = self.at;
        decimal(self.take_while(|b| b.is_ascii_digit())).ok_or(SyntaxError { expected, at: start })
    }

    /// A quoted-string with its quotes and escapes, as it stands.
    pub(crate) fn quoted(&mut self) -> Result<&'a [u8], SyntaxError> {
        let start = self.at;
        self.expect(b'"', "quoted string")?;
        loop {
            let Some(stop) = memchr::memchr2(b'"', b'\\', self.rest()) else {
                return Err(SyntaxError {
                    expected: "closing quote",
                    at: start,
                });
            };
            self.at += stop + 1;
            if self.input[self.at - 1] == b'"' {
                return Ok(self.since(start));
            }
            self.advance(1);
        }
    }
}

/// Splits a list at the commas that stand outside quoted strings and angle brackets (RFC 3261 §7.3.1). Items are
/// trimmed; an empty list gives no item, but an empty item in a list is given, so that its parser can refuse it.
#[derive(Clone)]
pub(crate) struct CommaSplit<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> CommaSplit<'a> {
    pub(crate) fn new(list: &'a [u8]) -> Self {
        let list = trim_lws(list);
        Self {
            rest: (!list.is_empty()).then_some(list),
        }
    }
}

impl<'a> Iterator for CommaSplit<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let end = next_comma(rest);
        self.rest = end.map(|comma| &rest[comma + 1..]);
        Some(trim_lws(&rest[..end.unwrap_or(rest.len())]))
    }
}

/// Offset of the first separating comma.
pub(crate) fn next_comma(list: &[u8]) -> Option<usize> {
    // Most values hold no comma at all; the search for one is a few vector instructions, the walk is one byte at a time.
    memchr::memchr(b',', list)?;
    find_outside_quotes(list, |byte| byte == b',')
}

/// Offset of the first byte `wanted` accepts that is neither quoted nor inside `<>`.
pub(crate) fn find_outside_quotes(text: &[u8], wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let mut at = 0;
    let (mut quoted, mut bracketed) = (false, false);
    while let Some(&byte) = text.get(at) {
        match byte {
            b'\\' if quoted => at += 1,
            b'"' if !bracketed => quoted = !quoted,
            _ if quoted => {}
            b'<' => bracketed = true,
            b'>' => bracketed = false,
            _ if !bracketed && wanted(byte) => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_quotes_and_brackets_do_not_split() {
        let list = br#" "Bell, \"A\"" <sip:a,b@x>;p="1,2" , <sip:c@d> ,, sip:e@f "#;
        let items: Vec<&[u8]> = CommaSplit::new(list).collect();
        assert_eq!(
            items,
            [
                &br#""Bell, \"A\"" <sip:a,b@x>;p="1,2""#[..],
                b"<sip:c@d>",
                b"",
                b"sip:e@f"
            ]
        );
        assert_eq!(CommaSplit::new(b" \r\n ").count(), 0);
    }

    #[test]
    fn decimals_refuse_signs_and_overflow() {
        assert_eq!(decimal(b"4294967295"), Some(u32::MAX));
        for bad in [&b""[..], b"4294967296", b"+1", b"-1", b" 1", b"1a"] {
            assert_eq!(decimal(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_unclosed_quote_is_an_error_even_after_a_trailing_backslash() {
        assert!(Scanner::new(b"\"abc\\").quoted().is_err());
        assert!(Scanner::new(b"\"abc\\\"").quoted().is_err());
        assert_eq!(Scanner::new(b"\"a\\\"c\" x").quoted().unwrap(), b"\"a\\\"c\"");
    }
}
