//! What is counted: one enum, so that the worker resolves its handles once and no message looks a label up.

/// A monotonic counter of the signalling plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Counter {
    /// Messages that were parsed.
    MessagesReceived,
    /// Messages handed to the transport, retransmissions included.
    MessagesSent,
    /// Messages that could not be read at all.
    MessagesDropped,
    /// Messages that could be answered with 400 but not read.
    MessagesMalformed,
    /// Requests absorbed as retransmissions.
    RetransmissionsReceived,
    /// Messages we sent again.
    RetransmissionsSent,
    /// Responses that belong to nothing.
    StrayResponses,
    /// REGISTERs answered with 200.
    RegistrationsAccepted,
    /// Initial INVITEs.
    CallsReceived,
    /// Calls answered with 200.
    CallsAnswered,
    /// Answered calls that ended.
    CallsEnded,
    /// INVITEs sent to targets.
    AttemptsStarted,
    /// Attempts that were followed by another target.
    AttemptsRetried,
    /// Challenges sent.
    ChallengesSent,
    /// Digest failures.
    AuthenticationFailures,
    /// Requests proxied outside of calls.
    RequestsProxied,
}

impl Counter {
    /// All counters, in the order of their numbers: `Counter::ALL[c as usize] == c`.
    pub const ALL: [Self; 16] = [
        Self::MessagesReceived,
        Self::MessagesSent,
        Self::MessagesDropped,
        Self::MessagesMalformed,
        Self::RetransmissionsReceived,
        Self::RetransmissionsSent,
        Self::StrayResponses,
        Self::RegistrationsAccepted,
        Self::CallsReceived,
        Self::CallsAnswered,
        Self::CallsEnded,
        Self::AttemptsStarted,
        Self::AttemptsRetried,
        Self::ChallengesSent,
        Self::AuthenticationFailures,
        Self::RequestsProxied,
    ];

    /// Name of the metric, without prefix and `_total`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MessagesReceived => "sip_messages_received",
            Self::MessagesSent => "sip_messages_sent",
            Self::MessagesDropped => "sip_messages_dropped",
            Self::MessagesMalformed => "sip_messages_malformed",
            Self::RetransmissionsReceived => "sip_retransmissions_received",
            Self::RetransmissionsSent => "sip_retransmissions_sent",
            Self::StrayResponses => "sip_stray_responses",
            Self::RegistrationsAccepted => "registrations_accepted",
            Self::CallsReceived => "calls_received",
            Self::CallsAnswered => "calls_answered",
            Self::CallsEnded => "calls_ended",
            Self::AttemptsStarted => "call_attempts_started",
            Self::AttemptsRetried => "call_attempts_retried",
            Self::ChallengesSent => "digest_challenges_sent",
            Self::AuthenticationFailures => "digest_failures",
            Self::RequestsProxied => "requests_proxied",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_sits_at_its_own_number() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, index);
        }
    }
}
