//! Refusals on the wire: the one table of rejects becomes status, Reason, Warning and Retry-After here.

use std::time::Duration;

use trunkline_shared::call::DecidedBy;
use trunkline_shared::reject::Reject;
use trunkline_sip::header::HeaderName;
use trunkline_sip::message::Request;
use trunkline_sip::status::StatusCode;
use trunkline_sip::write::ResponseBuilder;

/// Warn-agent of our warnings (RFC 3261 §20.43): a pseudonym, so that no address shows.
const WARN_AGENT: &str = "trunkline";

/// A refusal with its circumstances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub reject: Reject,
    /// The setting behind it.
    pub decided_by: Option<DecidedBy>,
    /// Time to the next token, for Retry-After.
    pub wait: Duration,
    /// Status in place of the table's: a challenge of a proxy is a 407 whatever its reason (RFC 3261 §22.3).
    pub status: Option<StatusCode>,
    /// Further header fields: challenges, Unsupported, Allow, Min-Expires …
    pub headers: Vec<(HeaderName, String)>,
}

impl Refusal {
    pub(crate) fn new(reject: Reject) -> Self {
        Self {
            reject,
            decided_by: None,
            wait: Duration::ZERO,
            status: None,
            headers: Vec::new(),
        }
    }

    pub(crate) fn by(mut self, decided_by: DecidedBy) -> Self {
        self.decided_by = Some(decided_by);
        self
    }

    pub(crate) fn after(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        let of_table = || StatusCode::new(self.reject.status()).unwrap_or(StatusCode::SERVER_INTERNAL_ERROR);
        self.status.unwrap_or_else(of_table)
    }

    pub(crate) fn cause(&self) -> Option<u8> {
        self.reject.facts().cause
    }

    /// The response but for Via stamp and To tag.
    pub(crate) fn builder<'a>(&self, request: &'a Request, jitter: u32) -> ResponseBuilder<'a> {
        let facts = self.reject.facts();
        let mut builder = ResponseBuilder::new(request, self.status());
        if self.status.is_none() {
            builder = builder.reason(facts.phrase);
        }
        if let Some(cause) = facts.cause {
            builder = builder.header(HeaderName::Reason, q850_reason(cause));
        }
        if let Some((code, text)) = facts.warning {
            builder = builder.header(HeaderName::Warning, format_args!("{code} {WARN_AGENT} \"{text}\""));
        }
        if let Some(seconds) = self.reject.retry_after_seconds(self.wait, jitter) {
            builder = builder.header(HeaderName::RetryAfter, seconds);
        }
        for (name, value) in &self.headers {
            builder = builder.header(*name, value);
        }
        builder
    }
}

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        Self::new(reject)
    }
}

/// A Reason value with a Q.850 cause (RFC 3326 §2, RFC 6432).
pub(crate) fn q850_reason(cause: u8) -> String {
    format!("Q.850;cause={cause}")
}
