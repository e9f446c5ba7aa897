//! Status codes, their default reason phrases, and the mapping to and from Q.850 causes (RFC 3398).

use std::fmt;

/// A response status code, 100 to 699 (RFC 3261 §7.2, §21).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusCode(u16);

macro_rules! codes {
    ($($name:ident = $code:literal $phrase:literal;)*) => {
        impl StatusCode {
            $(#[doc = concat!($code, " ", $phrase)] pub const $name: Self = Self($code);)*

            /// The reason phrase of the RFC that defines the code; for an unknown code the phrase of its class
            /// (RFC 3261 §8.1.3.2: an unknown code is treated as x00).
            pub const fn phrase(self) -> &'static str {
                match self.0 {
                    $($code => $phrase,)*
                    100..=199 => "Session Progress",
                    200..=299 => "OK",
                    300..=399 => "Multiple Choices",
                    400..=499 => "Bad Request",
                    500..=599 => "Server Internal Error",
                    _ => "Busy Everywhere",
                }
            }
        }
    };
}

codes! {
    TRYING = 100 "Trying";
    RINGING = 180 "Ringing";
    CALL_IS_BEING_FORWARDED = 181 "Call Is Being Forwarded";
    QUEUED = 182 "Queued";
    SESSION_PROGRESS = 183 "Session Progress";
    EARLY_DIALOG_TERMINATED = 199 "Early Dialog Terminated";
    OK = 200 "OK";
    ACCEPTED = 202 "Accepted";
    NO_NOTIFICATION = 204 "No Notification";
    MULTIPLE_CHOICES = 300 "Multiple Choices";
    MOVED_PERMANENTLY = 301 "Moved Permanently";
    MOVED_TEMPORARILY = 302 "Moved Temporarily";
    USE_PROXY = 305 "Use Proxy";
    ALTERNATIVE_SERVICE = 380 "Alternative Service";
    BAD_REQUEST = 400 "Bad Request";
    UNAUTHORIZED = 401 "Unauthorized";
    PAYMENT_REQUIRED = 402 "Payment Required";
    FORBIDDEN = 403 "Forbidden";
    NOT_FOUND = 404 "Not Found";
    METHOD_NOT_ALLOWED = 405 "Method Not Allowed";
    NOT_ACCEPTABLE = 406 "Not Acceptable";
    PROXY_AUTHENTICATION_REQUIRED = 407 "Proxy Authentication Required";
    REQUEST_TIMEOUT = 408 "Request Timeout";
    GONE = 410 "Gone";
    CONDITIONAL_REQUEST_FAILED = 412 "Conditional Request Failed";
    REQUEST_ENTITY_TOO_LARGE = 413 "Request Entity Too Large";
    REQUEST_URI_TOO_LONG = 414 "Request-URI Too Long";
    UNSUPPORTED_MEDIA_TYPE = 415 "Unsupported Media Type";
    UNSUPPORTED_URI_SCHEME = 416 "Unsupported URI Scheme";
    UNKNOWN_RESOURCE_PRIORITY = 417 "Unknown Resource-Priority";
    BAD_EXTENSION = 420 "Bad Extension";
    EXTENSION_REQUIRED = 421 "Extension Required";
    SESSION_INTERVAL_TOO_SMALL = 422 "Session Interval Too Small";
    INTERVAL_TOO_BRIEF = 423 "Interval Too Brief";
    BAD_LOCATION_INFORMATION = 424 "Bad Location Information";
    USE_IDENTITY_HEADER = 428 "Use Identity Header";
    PROVIDE_REFERRER_IDENTITY = 429 "Provide Referrer Identity";
    FLOW_FAILED = 430 "Flow Failed";
    ANONYMITY_DISALLOWED = 433 "Anonymity Disallowed";
    BAD_IDENTITY_INFO = 436 "Bad Identity Info";
    UNSUPPORTED_CREDENTIAL = 437 "Unsupported Credential";
    INVALID_IDENTITY_HEADER = 438 "Invalid Identity Header";
    FIRST_HOP_LACKS_OUTBOUND_SUPPORT = 439 "First Hop Lacks Outbound Support";
    MAX_BREADTH_EXCEEDED = 440 "Max-Breadth Exceeded";
    BAD_INFO_PACKAGE = 469 "Bad Info Package";
    CONSENT_NEEDED = 470 "Consent Needed";
    TEMPORARILY_UNAVAILABLE = 480 "Temporarily Unavailable";
    CALL_DOES_NOT_EXIST = 481 "Call/Transaction Does Not Exist";
    LOOP_DETECTED = 482 "Loop Detected";
    TOO_MANY_HOPS = 483 "Too Many Hops";
    ADDRESS_INCOMPLETE = 484 "Address Incomplete";
    AMBIGUOUS = 485 "Ambiguous";
    BUSY_HERE = 486 "Busy Here";
    REQUEST_TERMINATED = 487 "Request Terminated";
    NOT_ACCEPTABLE_HERE = 488 "Not Acceptable Here";
    BAD_EVENT = 489 "Bad Event";
    REQUEST_PENDING = 491 "Request Pending";
    UNDECIPHERABLE = 493 "Undecipherable";
    SECURITY_AGREEMENT_REQUIRED = 494 "Security Agreement Required";
    SERVER_INTERNAL_ERROR = 500 "Server Internal Error";
    NOT_IMPLEMENTED = 501 "Not Implemented";
    BAD_GATEWAY = 502 "Bad Gateway";
    SERVICE_UNAVAILABLE = 503 "Service Unavailable";
    SERVER_TIME_OUT = 504 "Server Time-out";
    VERSION_NOT_SUPPORTED = 505 "Version Not Supported";
    MESSAGE_TOO_LARGE = 513 "Message Too Large";
    PRECONDITION_FAILURE = 580 "Precondition Failure";
    BUSY_EVERYWHERE = 600 "Busy Everywhere";
    DECLINE = 603 "Decline";
    DOES_NOT_EXIST_ANYWHERE = 604 "Does Not Exist Anywhere";
    NOT_ACCEPTABLE_ANYWHERE = 606 "Not Acceptable";
    UNWANTED = 607 "Unwanted";
    REJECTED = 608 "Rejected";
}

impl StatusCode {
    /// `None` outside 100..=699.
    pub const fn new(code: u16) -> Option<Self> {
        if matches!(code, 100..=699) {
            Some(Self(code))
        } else {
            None
        }
    }

    /// The number, 100..=699.
    pub const fn as_u16(self) -> u16 {
        self.0
    }

    /// First digit, 1..=6.
    pub const fn class(self) -> u8 {
        (self.0 / 100) as u8
    }

    /// 1xx.
    pub const fn is_provisional(self) -> bool {
        self.class() == 1
    }

    /// 2xx.
    pub const fn is_success(self) -> bool {
        self.class() == 2
    }

    /// 3xx.
    pub const fn is_redirect(self) -> bool {
        self.class() == 3
    }

    /// 2xx to 6xx.
    pub const fn is_final(self) -> bool {
        self.0 >= 200
    }

    /// The Q.850 cause a gateway would send for this failure (RFC 3398 §8.2.6.1); `None` for 1xx, 2xx, 3xx, and for
    /// 487, 488 and 606, which carry no cause of their own (487 follows our CANCEL, the others go by `Warning`).
    pub fn q850_cause(self) -> Option<u8> {
        if self.0 < 400 || matches!(self.0, 487 | 488 | 606) {
            return None;
        }
        let known = SIP_TO_Q850.binary_search_by_key(&self.0, |row| row.0);
        // "31 Normal, unspecified" is the RFC's answer for a code its table does not list.
        Some(known.map_or(31, |row| SIP_TO_Q850[row].1))
    }

    /// The status for a Q.850 cause (RFC 3398 §7.2.4.1); a cause outside the table gives 500 (ibid., "default").
    pub fn from_q850_cause(cause: u8) -> Self {
        let known = Q850_TO_SIP.binary_search_by_key(&cause, |row| row.0);
        known.map_or(Self::SERVER_INTERNAL_ERROR, |row| Self(Q850_TO_SIP[row].1))
    }
}

/// RFC 3398 §8.2.6.1, sorted by status. 505 stands in the RFC as a second "504 Version not supported".
const SIP_TO_Q850: &[(u16, u8)] = &[
    (400, 41),
    (401, 21),
    (402, 21),
    (403, 21),
    (404, 1),
    (405, 63),
    (406, 79),
    (407, 21),
    (408, 102),
    (410, 22),
    (413, 127),
    (414, 127),
    (415, 79),
    (416, 127),
    (420, 127),
    (421, 127),
    (423, 127),
    (480, 18),
    (481, 41),
    (482, 25),
    (483, 25),
    (484, 28),
    (485, 1),
    (486, 17),
    (500, 41),
    (501, 79),
    (502, 38),
    (503, 41),
    (504, 102),
    (505, 127),
    (513, 127),
    (600, 17),
    (603, 21),
    (604, 1),
];

/// RFC 3398 §7.2.4.1, sorted by cause. 21 becomes 603 and 22 becomes 301 only with location or diagnostics that a
/// `Reason` header does not carry.
const Q850_TO_SIP: &[(u8, u16)] = &[
    (1, 404),
    (2, 404),
    (3, 404),
    (17, 486),
    (18, 408),
    (19, 480),
    (20, 480),
    (21, 403),
    (22, 410),
    (23, 410),
    (26, 404),
    (27, 502),
    (28, 484),
    (29, 501),
    (31, 480),
    (34, 503),
    (38, 503),
    (41, 503),
    (42, 503),
    (47, 503),
    (55, 403),
    (57, 403),
    (58, 503),
    (65, 488),
    (70, 488),
    (79, 501),
    (87, 403),
    (88, 503),
    (102, 504),
    (111, 500),
    (127, 500),
];

impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.phrase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_six_classes_exist() {
        assert_eq!(StatusCode::new(99), None);
        assert_eq!(StatusCode::new(700), None);
        assert_eq!(StatusCode::new(699).unwrap().class(), 6);
        assert!(StatusCode::RINGING.is_provisional() && !StatusCode::RINGING.is_final());
        assert_eq!(StatusCode::new(599).unwrap().phrase(), "Server Internal Error");
        assert_eq!(StatusCode::BUSY_HERE.phrase(), "Busy Here");
    }

    #[test]
    fn cause_tables_are_sorted_for_binary_search() {
        assert!(SIP_TO_Q850.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(Q850_TO_SIP.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn statuses_map_to_the_causes_of_rfc_3398() {
        for (status, cause) in [
            (404, Some(1)),
            (486, Some(17)),
            (487, None),
            (488, None),
            (505, Some(127)),
            (499, Some(31)),
            (200, None),
            (302, None),
        ] {
            assert_eq!(StatusCode::new(status).unwrap().q850_cause(), cause, "{status}");
        }
    }

    #[test]
    fn causes_map_to_the_statuses_of_rfc_3398() {
        for (cause, status) in [
            (1, 404),
            (16, 500),
            (17, 486),
            (34, 503),
            (65, 488),
            (127, 500),
            (200, 500),
        ] {
            assert_eq!(StatusCode::from_q850_cause(cause).as_u16(), status, "{cause}");
        }
    }
}
