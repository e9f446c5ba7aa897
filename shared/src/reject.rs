//! Every refusal, in one table: what the peer is told, what the record says, what the counter is called.

use std::fmt;
use std::time::Duration;

/// Why a request was refused, or an outbound attempt given up, by a decision of ours. [`Reject::facts`] is the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    /// The access list does not let the source in.
    AclDenied,
    /// The trunk is out of service.
    OutOfService,
    /// The worker is draining.
    Draining,
    /// More REGISTERs than Max Registration Rate allows.
    RegistrationRate,
    /// More INVITEs than Max Call Rate allows.
    CallRate,
    /// Max Calls are active.
    MaxCalls,
    /// No credentials, or none of our realm (RFC 3261 §22.2).
    AuthenticationRequired,
    /// The same, asked as a proxy (RFC 3261 §22.3).
    ProxyAuthenticationRequired,
    /// A nonce of ours that is too old: `stale=true` (RFC 7616 §3.3).
    StaleNonce,
    /// A wrong response, an unknown user or a disabled one, challenged anew.
    BadCredentials,
    /// Wrong too often in one chain of challenges.
    AuthenticationFailed,
    /// An authenticated user acts for an address of record that is not its own.
    ForeignAor,
    /// The leg shares no codec with the offer.
    NoCommonCodec,
    /// No offered SRTP suite is in the trunk's list.
    NoSrtpSuite,
    /// Plain RTP offered where SRTP is required.
    SrtpRequired,
    /// No media stream of the offer can be used.
    NoUsableMedia,
    /// No final response within Max Dial Timeout.
    DialTimeout,
    /// SIPS and SIP mixed in one request (RFC 5630 §5.3).
    SipsInconsistent,
    /// The target is bound with a sip: contact only (RFC 5630 §5.3).
    SipsNotAllowed,
    /// The target wants SIPS and TLS cannot be used (RFC 5630 §5.3).
    SipsRequired,
    /// The flow of the binding is gone (RFC 5626 §5.3).
    FlowFailed,
    /// A message over our limits.
    MessageTooLarge,
    /// A message that can be answered but not served.
    BadRequest,
    /// A body that is no SDP.
    BadSdp,
    /// No domain of the trunk and no route.
    NoRoute,
    /// No such user on the trunk.
    UnknownUser,
    /// A known user without a live binding.
    NotRegistered,
    /// The request came back to us (RFC 3261 §16.3).
    LoopDetected,
    /// Max-Forwards is used up (RFC 3261 §16.3).
    TooManyHops,
    /// Proxy-Require or Require names what we do not do (RFC 3261 §16.3, §8.2.2.3).
    BadExtension,
    /// A scheme we do not route (RFC 3261 §16.3).
    UnsupportedUriScheme,
    /// A body type we do not take.
    UnsupportedMediaType,
    /// A method we do not serve.
    MethodNotAllowed,
    /// A SIP version that is not 2.0.
    VersionNotSupported,
    /// An in-dialog request of no dialog.
    NoDialog,
    /// Another request of the same kind is still running (RFC 3261 §14.2).
    RequestPending,
    /// A registration shorter than the trunk's minimum (RFC 3261 §10.3).
    IntervalTooBrief,
    /// A session interval below the minimum (RFC 4028 §6).
    SessionIntervalTooSmall,
    /// More bindings than the trunk grants an address of record.
    TooManyBindings,
    /// No media ports left.
    PortsExhausted,
    /// The worker has more work than it can do.
    Overloaded,
    /// The next hop cannot be reached: connect, TLS or transport failure (RFC 3261 §8.1.3.1).
    TargetUnreachable,
    /// No final response to the INVITE: Timer B (RFC 3261 §17.1.1.2).
    TargetTimeout,
    /// A fault of ours.
    Internal,
}

/// What Retry-After says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryAfterRule {
    /// No header.
    None,
    /// Always this long.
    Fixed(Duration),
    /// When the next token is due, rounded up to seconds, plus a random 0-5 s so that phones do not return together.
    NextToken,
}

/// Longest random addition to Retry-After under [`RetryAfterRule::NextToken`].
pub const RETRY_AFTER_JITTER: Duration = Duration::from_secs(5);

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// SIP status, 400-699.
    pub status: u16,
    /// Reason phrase.
    pub phrase: &'static str,
    /// Q.850 cause of the Reason header (RFC 6432); `None`: no header.
    pub cause: Option<u8>,
    /// Warning code and text (RFC 3261 §20.43).
    pub warning: Option<(u16, &'static str)>,
    /// Retry-After (RFC 3261 §20.33).
    pub retry_after: RetryAfterRule,
    /// Metric label and end reason of the call record: `[a-z_]+`, stable.
    pub token: &'static str,
}

const MINUTE: RetryAfterRule = RetryAfterRule::Fixed(Duration::from_secs(60));
const SHORT: RetryAfterRule = RetryAfterRule::Fixed(Duration::from_secs(5));

impl Reject {
    /// Every refusal, once.
    pub const ALL: [Self; 44] = [
        Self::AclDenied,
        Self::OutOfService,
        Self::Draining,
        Self::RegistrationRate,
        Self::CallRate,
        Self::MaxCalls,
        Self::AuthenticationRequired,
        Self::ProxyAuthenticationRequired,
        Self::StaleNonce,
        Self::BadCredentials,
        Self::AuthenticationFailed,
        Self::ForeignAor,
        Self::NoCommonCodec,
        Self::NoSrtpSuite,
        Self::SrtpRequired,
        Self::NoUsableMedia,
        Self::DialTimeout,
        Self::SipsInconsistent,
        Self::SipsNotAllowed,
        Self::SipsRequired,
        Self::FlowFailed,
        Self::MessageTooLarge,
        Self::BadRequest,
        Self::BadSdp,
        Self::NoRoute,
        Self::UnknownUser,
        Self::NotRegistered,
        Self::LoopDetected,
        Self::TooManyHops,
        Self::BadExtension,
        Self::UnsupportedUriScheme,
        Self::UnsupportedMediaType,
        Self::MethodNotAllowed,
        Self::VersionNotSupported,
        Self::NoDialog,
        Self::RequestPending,
        Self::IntervalTooBrief,
        Self::SessionIntervalTooSmall,
        Self::TooManyBindings,
        Self::PortsExhausted,
        Self::Overloaded,
        Self::TargetUnreachable,
        Self::TargetTimeout,
        Self::Internal,
    ];

    /// What is sent and recorded.
    pub const fn facts(self) -> Facts {
        match self {
            Self::AclDenied => row(403, "Forbidden", "acl_denied"),
            Self::OutOfService => row(503, "Service Unavailable", "out_of_service").retry(MINUTE),
            Self::Draining => row(503, "Service Unavailable", "draining").retry(SHORT),
            Self::RegistrationRate => {
                row(503, "Service Unavailable", "registration_rate").retry(RetryAfterRule::NextToken)
            }
            Self::CallRate => row(503, "Service Unavailable", "call_rate")
                .retry(RetryAfterRule::NextToken)
                .cause(42),
            Self::MaxCalls => row(503, "Service Unavailable", "max_calls").cause(34),
            Self::AuthenticationRequired => row(401, "Unauthorized", "authentication_required"),
            Self::ProxyAuthenticationRequired => {
                row(407, "Proxy Authentication Required", "proxy_authentication_required")
            }
            Self::StaleNonce => row(401, "Unauthorized", "stale_nonce"),
            Self::BadCredentials => row(401, "Unauthorized", "bad_credentials"),
            Self::AuthenticationFailed => row(403, "Forbidden", "authentication_failed"),
            Self::ForeignAor => row(403, "Forbidden", "foreign_aor"),
            Self::NoCommonCodec => row(488, "Not Acceptable Here", "no_common_codec")
                .warn(305, "Incompatible media format")
                .cause(65),
            Self::NoSrtpSuite => row(488, "Not Acceptable Here", "no_srtp_suite")
                .warn(306, "Attribute not understood")
                .cause(65),
            Self::SrtpRequired => row(488, "Not Acceptable Here", "srtp_required")
                .warn(304, "Media type not available")
                .cause(65),
            Self::NoUsableMedia => row(488, "Not Acceptable Here", "no_usable_media")
                .warn(304, "Media type not available")
                .cause(65),
            Self::DialTimeout => row(408, "Request Timeout", "dial_timeout").cause(102),
            Self::SipsInconsistent => row(400, "Bad Request", "sips_inconsistent"),
            Self::SipsNotAllowed => {
                row(480, "Temporarily Unavailable", "sips_not_allowed").warn(380, "SIPS Not Allowed")
            }
            Self::SipsRequired => row(480, "Temporarily Unavailable", "sips_required").warn(381, "SIPS Required"),
            Self::FlowFailed => row(430, "Flow Failed", "flow_failed"),
            Self::MessageTooLarge => row(513, "Message Too Large", "message_too_large"),
            Self::BadRequest => row(400, "Bad Request", "bad_request"),
            Self::BadSdp => row(400, "Bad Request", "bad_sdp").warn(399, "Body is not a session description"),
            Self::NoRoute => row(404, "Not Found", "no_route").cause(3),
            Self::UnknownUser => row(404, "Not Found", "unknown_user").cause(1),
            Self::NotRegistered => row(480, "Temporarily Unavailable", "not_registered").cause(20),
            Self::LoopDetected => row(482, "Loop Detected", "loop_detected").cause(25),
            Self::TooManyHops => row(483, "Too Many Hops", "too_many_hops").cause(25),
            Self::BadExtension => row(420, "Bad Extension", "bad_extension"),
            Self::UnsupportedUriScheme => row(416, "Unsupported URI Scheme", "unsupported_uri_scheme"),
            Self::UnsupportedMediaType => row(415, "Unsupported Media Type", "unsupported_media_type"),
            Self::MethodNotAllowed => row(405, "Method Not Allowed", "method_not_allowed"),
            Self::VersionNotSupported => row(505, "Version Not Supported", "version_not_supported"),
            Self::NoDialog => row(481, "Call/Transaction Does Not Exist", "no_dialog"),
            Self::RequestPending => row(491, "Request Pending", "request_pending"),
            Self::IntervalTooBrief => row(423, "Interval Too Brief", "interval_too_brief"),
            Self::SessionIntervalTooSmall => row(422, "Session Interval Too Small", "session_interval_too_small"),
            Self::TooManyBindings => row(403, "Forbidden", "too_many_bindings"),
            Self::PortsExhausted => row(503, "Service Unavailable", "ports_exhausted")
                .retry(SHORT)
                .cause(34),
            Self::Overloaded => row(503, "Service Unavailable", "overloaded").retry(SHORT).cause(42),
            Self::TargetUnreachable => row(503, "Service Unavailable", "target_unreachable").cause(38),
            Self::TargetTimeout => row(408, "Request Timeout", "target_timeout").cause(102),
            Self::Internal => row(500, "Server Internal Error", "internal").cause(41),
        }
    }

    /// SIP status.
    pub const fn status(self) -> u16 {
        self.facts().status
    }

    /// Metric label and end reason.
    pub const fn token(self) -> &'static str {
        self.facts().token
    }

    /// By its token.
    pub fn from_token(token: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reject| reject.token() == token)
    }

    /// Seconds of Retry-After, or no header. `wait` is the time to the next token, `jitter` a random number of which
    /// the part below 6 is used.
    pub fn retry_after_seconds(self, wait: Duration, jitter: u32) -> Option<u64> {
        match self.facts().retry_after {
            RetryAfterRule::None => None,
            RetryAfterRule::Fixed(fixed) => Some(fixed.as_secs()),
            RetryAfterRule::NextToken => {
                let spread = u64::from(jitter) % (RETRY_AFTER_JITTER.as_secs() + 1);
                Some(crate::rate::RetryAfter(wait).seconds() + spread)
            }
        }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

const fn row(status: u16, phrase: &'static str, token: &'static str) -> Facts {
    Facts {
        status,
        phrase,
        cause: None,
        warning: None,
        retry_after: RetryAfterRule::None,
        token,
    }
}

impl Facts {
    const fn retry(mut self, rule: RetryAfterRule) -> Self {
        self.retry_after = rule;
        self
    }

    const fn cause(mut self, cause: u8) -> Self {
        self.cause = Some(cause);
        self
    }

    const fn warn(mut self, code: u16, text: &'static str) -> Self {
        self.warning = Some((code, text));
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_table_of_the_settings_page() {
        let minute = RetryAfterRule::Fixed(Duration::from_secs(60));
        for (reject, status, cause, warning, retry) in [
            (Reject::AclDenied, 403, None, None, RetryAfterRule::None),
            (Reject::OutOfService, 503, None, None, minute),
            (Reject::RegistrationRate, 503, None, None, RetryAfterRule::NextToken),
            (Reject::CallRate, 503, Some(42), None, RetryAfterRule::NextToken),
            (Reject::MaxCalls, 503, Some(34), None, RetryAfterRule::None),
            (Reject::AuthenticationRequired, 401, None, None, RetryAfterRule::None),
            (
                Reject::ProxyAuthenticationRequired,
                407,
                None,
                None,
                RetryAfterRule::None,
            ),
            (Reject::StaleNonce, 401, None, None, RetryAfterRule::None),
            (Reject::AuthenticationFailed, 403, None, None, RetryAfterRule::None),
            (Reject::NoCommonCodec, 488, Some(65), Some(305), RetryAfterRule::None),
            (Reject::NoSrtpSuite, 488, Some(65), Some(306), RetryAfterRule::None),
            (Reject::SrtpRequired, 488, Some(65), Some(304), RetryAfterRule::None),
            (Reject::DialTimeout, 408, Some(102), None, RetryAfterRule::None),
            (Reject::SipsInconsistent, 400, None, None, RetryAfterRule::None),
            (Reject::SipsNotAllowed, 480, None, Some(380), RetryAfterRule::None),
            (Reject::SipsRequired, 480, None, Some(381), RetryAfterRule::None),
            (Reject::FlowFailed, 430, None, None, RetryAfterRule::None),
            (Reject::MessageTooLarge, 513, None, None, RetryAfterRule::None),
            (Reject::NoRoute, 404, Some(3), None, RetryAfterRule::None),
            (Reject::NotRegistered, 480, Some(20), None, RetryAfterRule::None),
            (Reject::LoopDetected, 482, Some(25), None, RetryAfterRule::None),
            (Reject::TooManyHops, 483, Some(25), None, RetryAfterRule::None),
            (Reject::BadExtension, 420, None, None, RetryAfterRule::None),
        ] {
            let facts = reject.facts();
            let found = (
                facts.status,
                facts.cause,
                facts.warning.map(|(code, _)| code),
                facts.retry_after,
            );
            assert_eq!(found, (status, cause, warning, retry), "{reject}");
        }
    }

    #[test]
    fn every_row_is_whole_and_every_token_its_own() {
        let mut tokens = HashSet::new();
        for reject in Reject::ALL {
            let facts = reject.facts();
            assert!(
                (400..700).contains(&facts.status) && !facts.phrase.is_empty(),
                "{reject}"
            );
            assert!(
                facts.token.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{reject}"
            );
            assert!(facts.cause.is_none_or(|cause| (1..=127).contains(&cause)), "{reject}");
            assert!(tokens.insert(facts.token), "{reject} twice");
            assert_eq!(Reject::from_token(facts.token), Some(reject));
        }
        assert_eq!(tokens.len(), Reject::ALL.len());
    }

    #[test]
    fn retry_after_is_rounded_up_and_spread() {
        let wait = Duration::from_millis(1001);
        assert_eq!(Reject::CallRate.retry_after_seconds(wait, 0), Some(2));
        assert_eq!(Reject::CallRate.retry_after_seconds(wait, 5), Some(7));
        assert_eq!(Reject::CallRate.retry_after_seconds(wait, 6), Some(2));
        assert_eq!(Reject::OutOfService.retry_after_seconds(wait, 9), Some(60));
        assert_eq!(Reject::MaxCalls.retry_after_seconds(wait, 0), None);
    }
}
