//! The small typed values: numbers, a token with parameters, and what RFC 3326, 4028 and 6665 add.

use std::borrow::Cow;

use super::{HeaderName, Params, TypedHeader, unquote};
use crate::method::Method;
use crate::parse::SyntaxError;
use crate::parse::scan::{Scanner, trim_lws};

/// CSeq (RFC 3261 §20.16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CSeq {
    /// Sequence number; any 32-bit value is accepted, though a sender must stay below 2^31.
    pub number: u32,
    /// Method.
    pub method: Method,
}

impl TypedHeader<'_> for CSeq {
    const NAME: HeaderName = HeaderName::CSeq;

    fn parse(value: &[u8]) -> Result<Self, SyntaxError> {
        let mut scanner = Scanner::new(trim_lws(value));
        let number = scanner.number("32-bit sequence number")?;
        scanner.skip_lws();
        let method = method(&mut scanner)?;
        scanner.expect_end()?;
        Ok(Self { number, method })
    }
}

/// RAck (RFC 3262 §7.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RAck {
    /// RSeq of the provisional response.
    pub rseq: u32,
    /// CSeq number of the provisional response.
    pub cseq: u32,
    /// CSeq method of the provisional response.
    pub method: Method,
}

impl TypedHeader<'_> for RAck {
    const NAME: HeaderName = HeaderName::RAck;

    fn parse(value: &[u8]) -> Result<Self, SyntaxError> {
        let mut scanner = Scanner::new(trim_lws(value));
        let rseq = scanner.number("response number")?;
        scanner.skip_lws();
        let cseq = scanner.number("CSeq number")?;
        scanner.skip_lws();
        let method = method(&mut scanner)?;
        scanner.expect_end()?;
        Ok(Self { rseq, cseq, method })
    }
}

fn method(scanner: &mut Scanner<'_>) -> Result<Method, SyntaxError> {
    let token = scanner.token("method")?;
    Method::parse(token.as_bytes()).ok_or(scanner.error("method"))
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident($inner:ty), $header:ident, $expected:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub $inner);

        impl TypedHeader<'_> for $name {
            const NAME: HeaderName = HeaderName::$header;

            fn parse(value: &[u8]) -> Result<Self, SyntaxError> {
                let mut scanner = Scanner::new(trim_lws(value));
                let number = scanner.number($expected)?;
                scanner.expect_end()?;
                <$inner>::try_from(number).map(Self).map_err(|_| SyntaxError { expected: $expected, at: 0 })
            }
        }
    )*};
}

numbers! {
    /// Max-Forwards, 0..=255 (RFC 3261 §20.22).
    MaxForwards(u8), MaxForwards, "number of hops from 0 to 255";
    /// Expires in seconds (RFC 3261 §20.19).
    Expires(u32), Expires, "seconds below 2^32";
    /// Min-Expires in seconds (RFC 3261 §20.23).
    MinExpires(u32), MinExpires, "seconds below 2^32";
    /// RSeq (RFC 3262 §7.1).
    RSeq(u32), RSeq, "response number below 2^32";
}

/// Who refreshes the session (RFC 4028 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresher {
    /// `refresher=uac`
    Uac,
    /// `refresher=uas`
    Uas,
}

/// Session-Expires (RFC 4028 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionExpires {
    /// Session interval in seconds.
    pub seconds: u32,
    /// `refresher` parameter; `None` when absent or neither `uac` nor `uas`.
    pub refresher: Option<Refresher>,
}

impl TypedHeader<'_> for SessionExpires {
    const NAME: HeaderName = HeaderName::SessionExpires;

    fn parse(value: &[u8]) -> Result<Self, SyntaxError> {
        let (seconds, params) = seconds_with_params(value)?;
        let refresher = params.value("refresher").and_then(|role| {
            let named = |name: &str| role.eq_ignore_ascii_case(name);
            if named("uac") {
                Some(Refresher::Uac)
            } else {
                named("uas").then_some(Refresher::Uas)
            }
        });
        Ok(Self { seconds, refresher })
    }
}

/// Min-SE in seconds (RFC 4028 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinSe(pub u32);

impl TypedHeader<'_> for MinSe {
    const NAME: HeaderName = HeaderName::MinSe;

    fn parse(value: &[u8]) -> Result<Self, SyntaxError> {
        seconds_with_params(value).map(|(seconds, _)| Self(seconds))
    }
}

/// Retry-After (RFC 3261 §20.33). The comment is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter<'a> {
    /// Seconds to wait.
    pub seconds: u32,
    /// `duration` among them: how long the callee stays reachable from then on.
    pub params: Params<'a>,
}

impl<'a> TypedHeader<'a> for RetryAfter<'a> {
    const NAME: HeaderName = HeaderName::RetryAfter;

    fn parse(value: &'a [u8]) -> Result<Self, SyntaxError> {
        let mut scanner = Scanner::new(trim_lws(value));
        let seconds = scanner.number("seconds below 2^32")?;
        scanner.skip_lws();
        skip_comment(&mut scanner)?;
        Ok(Self {
            seconds,
            params: Params::parse_header(&mut scanner)?,
        })
    }
}

/// Skips `( … )` with nested comments and escapes, counting depth instead of recursing.
fn skip_comment(scanner: &mut Scanner<'_>) -> Result<(), SyntaxError> {
    let mut depth = 0usize;
    loop {
        match scanner.peek() {
            Some(b'(') => depth += 1,
            _ if depth == 0 => return Ok(()),
            Some(b')') => depth -= 1,
            Some(b'\\') => scanner.advance(1),
            Some(_) => {}
            None => return Err(scanner.error("')'")),
        }
        scanner.advance(1);
    }
}

fn seconds_with_params(value: &[u8]) -> Result<(u32, Params<'_>), SyntaxError> {
    let mut scanner = Scanner::new(trim_lws(value));
    let seconds = scanner.number("seconds below 2^32")?;
    Ok((seconds, Params::parse_header(&mut scanner)?))
}

/// One Reason value (RFC 3326 §2, RFC 6432).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason<'a> {
    /// `SIP`, `Q.850` or another protocol token, case as received.
    pub protocol: &'a str,
    /// `cause`, `text` and others.
    pub params: Params<'a>,
}

impl<'a> Reason<'a> {
    /// `cause` as a number.
    pub fn cause(&self) -> Option<u32> {
        self.params
            .value("cause")
            .and_then(|cause| crate::parse::scan::decimal(cause.as_bytes()))
    }

    /// Unquoted `text`.
    pub fn text(&self) -> Option<Cow<'a, str>> {
        self.params.value("text").map(unquote)
    }

    /// The cause, 1..=127, if the protocol is Q.850.
    pub fn q850_cause(&self) -> Option<u8> {
        let cause = self.cause().filter(|_| self.protocol.eq_ignore_ascii_case("Q.850"))?;
        u8::try_from(cause).ok().filter(|cause| matches!(cause, 1..=127))
    }
}

impl<'a> TypedHeader<'a> for Reason<'a> {
    const NAME: HeaderName = HeaderName::Reason;

    fn parse(value: &'a [u8]) -> Result<Self, SyntaxError> {
        let (protocol, params) = token_with_params(value, "reason protocol")?;
        Ok(Self { protocol, params })
    }
}

/// Event (RFC 6665 §8.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Event package with its templates; compares case-sensitively.
    pub package: &'a str,
    /// `id` among them.
    pub params: Params<'a>,
}

impl<'a> TypedHeader<'a> for Event<'a> {
    const NAME: HeaderName = HeaderName::Event;

    fn parse(value: &'a [u8]) -> Result<Self, SyntaxError> {
        let (package, params) = token_with_params(value, "event package")?;
        Ok(Self { package, params })
    }
}

/// Subscription-State (RFC 6665 §8.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionState<'a> {
    /// `active`, `pending`, `terminated` or an extension; compares case-insensitively.
    pub state: &'a str,
    /// `expires`, `reason`, `retry-after`.
    pub params: Params<'a>,
}

impl<'a> TypedHeader<'a> for SubscriptionState<'a> {
    const NAME: HeaderName = HeaderName::SubscriptionState;

    fn parse(value: &'a [u8]) -> Result<Self, SyntaxError> {
        let (state, params) = token_with_params(value, "subscription state")?;
        Ok(Self { state, params })
    }
}

fn token_with_params<'a>(value: &'a [u8], expected: &'static str) -> Result<(&'a str, Params<'a>), SyntaxError> {
    let mut scanner = Scanner::new(trim_lws(value));
    let token = scanner.token(expected)?;
    Ok((token, Params::parse_header(&mut scanner)?))
}

/// Content-Type (RFC 3261 §20.15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentType<'a> {
    /// `application` of `application/sdp`, case as received.
    pub main: &'a str,
    /// `sdp` of `application/sdp`, case as received.
    pub sub: &'a str,
    /// `boundary` and others.
    pub params: Params<'a>,
}

impl ContentType<'_> {
    /// Compares type and subtype case-insensitively.
    pub fn is(&self, main: &str, sub: &str) -> bool {
        self.main.eq_ignore_ascii_case(main) && self.sub.eq_ignore_ascii_case(sub)
    }
}

impl<'a> TypedHeader<'a> for ContentType<'a> {
    const NAME: HeaderName = HeaderName::ContentType;

    fn parse(value: &'a [u8]) -> Result<Self, SyntaxError> {
        let mut scanner = Scanner::new(trim_lws(value));
        let main = scanner.token("media type")?;
        scanner.skip_lws();
        scanner.expect(b'/', "'/' in media type")?;
        scanner.skip_lws();
        let sub = scanner.token("media subtype")?;
        Ok(Self {
            main,
            sub,
            params: Params::parse_header(&mut scanner)?,
        })
    }
}

/// One Warning value (RFC 3261 §20.43).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warning<'a> {
    /// Three digits.
    pub code: u16,
    /// Host or pseudonym of the server that adds the warning.
    pub agent: &'a str,
    /// Text as received, with its quotes; may be 8-bit.
    pub text: &'a [u8],
}

impl<'a> TypedHeader<'a> for Warning<'a> {
    const NAME: HeaderName = HeaderName::Warning;

    fn parse(value: &'a [u8]) -> Result<Self, SyntaxError> {
        let mut scanner = Scanner::new(trim_lws(value));
        let code = scanner.number("warn-code")?;
        let code = u16::try_from(code).ok().filter(|code| matches!(code, 100..=999));
        let code = code.ok_or(SyntaxError {
            expected: "three-digit warn-code",
            at: 0,
        })?;
        scanner.skip_lws();
        let agent = scanner.take_while(|b| b > b' ' && b < 0x7f && b != b'"');
        let agent = std::str::from_utf8(agent).ok().filter(|agent| !agent.is_empty());
        let agent = agent.ok_or(scanner.error("warn-agent"))?;
        scanner.skip_lws();
        let text = scanner.quoted()?;
        scanner.expect_end()?;
        Ok(Self { code, agent, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cseq_takes_zeros_folds_and_extension_methods() {
        let cseq = CSeq::parse(b" 0009\r\n  INVITE").unwrap();
        assert_eq!(
            cseq,
            CSeq {
                number: 9,
                method: Method::Invite
            }
        );
        assert_eq!(CSeq::parse(b"1 NEWMETHOD").unwrap().method.as_str(), "NEWMETHOD");
        for bad in [
            &b"36893488147419103232 REGISTER"[..],
            b"INVITE",
            b"1",
            b"1 INVITE x",
            b"-1 INVITE",
            b"",
        ] {
            assert!(CSeq::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            RAck::parse(b"776656 1 INVITE").unwrap(),
            RAck {
                rseq: 776_656,
                cseq: 1,
                method: Method::Invite
            }
        );
    }

    #[test]
    fn numbers_stay_in_their_ranges() {
        assert_eq!(MaxForwards::parse(b" 0068 ").unwrap().0, 68);
        for bad in [&b"256"[..], b"300", b"-1", b"", b"7 7"] {
            assert!(MaxForwards::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Expires::parse(b"4294967295").unwrap().0, u32::MAX);
        assert!(Expires::parse(b"4294967296").is_err());
        assert_eq!(RSeq::parse(b"1").unwrap().0, 1);
        assert_eq!(MinExpires::parse(b"60").unwrap().0, 60);
    }

    #[test]
    fn session_timers_name_the_refresher() {
        let timer = SessionExpires::parse(b"1800 ;Refresher=UAS").unwrap();
        assert_eq!(
            timer,
            SessionExpires {
                seconds: 1800,
                refresher: Some(Refresher::Uas)
            }
        );
        assert_eq!(SessionExpires::parse(b"90;refresher=x").unwrap().refresher, None);
        assert_eq!(MinSe::parse(b"90;lr").unwrap().0, 90);
    }

    #[test]
    fn retry_after_skips_nested_comments() {
        let retry = RetryAfter::parse(b"18000 (in a (long \\) ) meeting);duration=3600").unwrap();
        assert_eq!((retry.seconds, retry.params.value("duration")), (18000, Some("3600")));
        assert!(RetryAfter::parse(b"1 (open").is_err());
        let deep = [b"1 ".to_vec(), vec![b'('; 60_000]].concat();
        assert!(RetryAfter::parse(&deep).is_err());
    }

    #[test]
    fn a_reason_gives_its_q850_cause_only_for_q850() {
        let reason = Reason::parse(b"Q.850 ;cause=16 ;text=\"Terminated\"").unwrap();
        assert_eq!(
            (reason.q850_cause(), &*reason.text().unwrap()),
            (Some(16), "Terminated")
        );
        assert_eq!(Reason::parse(b"SIP;cause=600").unwrap().q850_cause(), None);
        assert_eq!(Reason::parse(b"q.850;cause=128").unwrap().q850_cause(), None);
    }

    #[test]
    fn content_type_warning_and_events_are_read() {
        let kind = ContentType::parse(b"Multipart / Mixed;boundary=\"7a9c;b\"").unwrap();
        assert!(kind.is("multipart", "mixed"));
        assert_eq!(kind.params.find("boundary").unwrap().unquoted().unwrap(), "7a9c;b");
        let warning = Warning::parse(b"301 isi.edu:5060 \"Incompatible\"").unwrap();
        assert_eq!(
            (warning.code, warning.agent, warning.text),
            (301, "isi.edu:5060", &b"\"Incompatible\""[..])
        );
        assert!(Warning::parse(b"1812 overture \"In Progress\"").is_err());
        assert_eq!(Event::parse(b"presence.winfo;id=1").unwrap().package, "presence.winfo");
        assert_eq!(
            SubscriptionState::parse(b"active;expires=60")
                .unwrap()
                .params
                .value("expires"),
            Some("60")
        );
    }
}
