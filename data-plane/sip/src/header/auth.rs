use std::borrow::Cow;
use std::fmt;

use smallvec::SmallVec;

use super::unquote;
use crate::parse::SyntaxError;
use crate::parse::scan::{CommaSplit, Scanner, is_token, trim_lws};

/// A value of Authorization, Proxy-Authorization, WWW-Authenticate or Proxy-Authenticate: a scheme and its parameters.
/// One field line holds exactly one (RFC 3261 §20.7, §7.3.1). `Debug` shows the scheme only.
#[derive(Clone)]
pub struct AuthScheme<'a> {
    scheme: &'a str,
    /// Split once: credentials are asked for ten of them, one after the other.
    params: SmallVec<[AuthParam<'a>; 12]>,
}

/// One `name=value` of an [`AuthScheme`].
#[derive(Clone, Copy)]
pub struct AuthParam<'a> {
    /// Compare with `eq_ignore_ascii_case`.
    pub name: &'a str,
    value: &'a str,
}

impl<'a> AuthScheme<'a> {
    /// Parses scheme and parameters. A scheme whose content is not a parameter list (Basic) is accepted with none.
    pub fn parse(value: &'a [u8]) -> Result<Self, SyntaxError> {
        let mut scanner = Scanner::new(trim_lws(value));
        let scheme = scanner.token("authentication scheme")?;
        scanner.skip_lws();
        let rest = std::str::from_utf8(scanner.rest()).map_err(|_| scanner.error("UTF-8 parameters"))?;
        let mut auth = Self {
            scheme,
            params: SmallVec::new(),
        };
        if auth.is_digest() {
            let mut scanner = Scanner::new(rest.as_bytes());
            while !scanner.is_done() {
                auth.params.push(AuthParam::take(rest, &mut scanner)?);
                if !scanner.is_done() {
                    scanner.expect(b',', "',' between parameters")?;
                    // What follows the comma is a parameter, not the end.
                    scanner.skip_lws();
                    if scanner.is_done() {
                        return Err(scanner.error("parameter name"));
                    }
                }
            }
        } else {
            auth.params = CommaSplit::new(rest.as_bytes()).filter_map(AuthParam::alone).collect();
        }
        Ok(auth)
    }

    /// The scheme, case as received.
    pub fn scheme(&self) -> &'a str {
        self.scheme
    }

    /// Whether the scheme is Digest.
    pub fn is_digest(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("Digest")
    }

    /// Parameters in order; none for a scheme other than Digest that does not use `name=value`.
    pub fn params(&self) -> impl Iterator<Item = AuthParam<'a>> {
        self.params.iter().copied()
    }

    /// First parameter of that name.
    pub fn param(&self, name: &str) -> Option<AuthParam<'a>> {
        self.params().find(|param| param.name.eq_ignore_ascii_case(name))
    }

    /// Unquoted value of the first parameter of that name.
    pub fn value(&self, name: &str) -> Option<Cow<'a, str>> {
        self.param(name).map(|param| param.unquoted())
    }
}

impl<'a> AuthParam<'a> {
    /// Takes one parameter of `text`, which `scanner` walks over, and the white space behind it.
    fn take(text: &'a str, scanner: &mut Scanner<'a>) -> Result<Self, SyntaxError> {
        let name = scanner.token("parameter name")?;
        scanner.skip_lws();
        scanner.expect(b'=', "'='")?;
        scanner.skip_lws();
        let start = scanner.at();
        if scanner.peek() == Some(b'"') {
            scanner.quoted()?;
        } else if scanner
            .take_while(|b| is_token(b) || matches!(b, b'=' | b'/' | b':' | b'@'))
            .is_empty()
        {
            return Err(scanner.error("parameter value"));
        }
        let value = &text[start..scanner.at()];
        scanner.skip_lws();
        Ok(Self { name, value })
    }

    /// The parameter an item of a list consists of, if it is one.
    fn alone(item: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(item).ok()?;
        let mut scanner = Scanner::new(item);
        let param = Self::take(text, &mut scanner).ok()?;
        scanner.is_done().then_some(param)
    }

    /// The value as it stands, quotes and escapes included: what RFC 7616 hashes is the text between the quotes.
    pub fn raw(&self) -> &'a str {
        self.value
    }

    /// The value without quotes and escapes.
    pub fn unquoted(&self) -> Cow<'a, str> {
        unquote(self.value)
    }
}

impl fmt::Debug for AuthScheme<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [redacted]", self.scheme)
    }
}

impl fmt::Debug for AuthParam<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=[redacted]", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_may_hold_commas_and_escapes_in_quotes() {
        let auth =
            AuthScheme::parse(b"Digest username=\"a,\\\"b\" , qop = \"auth,auth-int\",\r\n algorithm=SHA-256").unwrap();
        assert!(auth.is_digest());
        assert_eq!(auth.value("USERNAME").unwrap(), "a,\"b");
        assert_eq!(auth.param("username").unwrap().raw(), "\"a,\\\"b\"");
        assert_eq!(auth.value("qop").unwrap(), "auth,auth-int");
        assert_eq!(auth.params().count(), 3);
    }

    #[test]
    fn digest_needs_well_formed_parameters_and_other_schemes_do_not() {
        for bad in [
            "Digest username",
            "Digest a=\"b",
            "Digest a=b c",
            "Digest a=,b=c",
            "Digest =x",
            "",
            "Digest a=b,,c=d",
        ] {
            assert!(AuthScheme::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let basic = AuthScheme::parse(b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==").unwrap();
        assert!(!basic.is_digest());
    }

    #[test]
    fn debug_shows_no_credentials() {
        let auth = AuthScheme::parse(b"Digest response=\"c0ffee\"").unwrap();
        let shown = format!("{auth:?} {:?}", auth.param("response").unwrap());
        assert!(!shown.contains("c0ffee"), "{shown}");
    }
}
