//! The session timer (RFC 4028), observed: the peers refresh, the proxy watches whether they do.

use std::time::{Duration, Instant};

use super::Side;
use crate::header::{Refresher, SessionExpires};
use crate::message::Response;

/// What the peers agreed on in the last 2xx to INVITE or UPDATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTimer {
    interval: Duration,
    refresher: Side,
    agreed_at: Instant,
}

/// A session interval that is shorter is taken for this long: no smaller Min-SE is allowed (RFC 4028 §4), and a peer must
/// not be able to make us end its calls by a number.
const SHORTEST: u32 = 90;

impl SessionTimer {
    /// Reads the 2xx to a session refresh request of `requester`. `None` when it says that there is no session timer (any
    /// more) or says it malformed (RFC 4028 §8.2, §9).
    ///
    /// Without a refresher the requester is it: only a UAS that broke RFC 4028 §9 leaves it out.
    #[must_use]
    pub fn observe(now: Instant, requester: Side, response: &Response) -> Option<Self> {
        let expires = response.typed::<SessionExpires>().ok()??;
        let refresher = match expires.refresher {
            Some(Refresher::Uas) => requester.other(),
            Some(Refresher::Uac) | None => requester,
        };
        let interval = Duration::from_secs(expires.seconds.max(SHORTEST).into());
        Some(Self {
            interval,
            refresher,
            agreed_at: now,
        })
    }

    /// The session interval, at least 90 s.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Which peer has to refresh.
    #[must_use]
    pub fn refresher(&self) -> Side {
        self.refresher
    }

    /// When the refresher should refresh: half way (RFC 4028 §7.2, §10).
    #[must_use]
    pub fn refresh_at(&self) -> Instant {
        self.agreed_at + self.interval / 2
    }

    /// When the session is over for everyone (RFC 4028 §8.3). The peers themselves send BYE a little earlier, by
    /// min(32 s, a third of the interval) (§10), so whoever ends the call at this time does not race them.
    #[must_use]
    pub fn expires_at(&self) -> Instant {
        self.agreed_at + self.interval
    }
}
