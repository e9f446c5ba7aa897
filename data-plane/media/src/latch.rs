//! Where a leg's media is sent under far-end NAT traversal: symmetric latching (RFC 7362 §4) that an outsider cannot move
//! (the RTP Bleed family of attacks).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::srtp::Authenticated;

/// How long after a new offer/answer packets from the old address leave the free move unused: the peer's own packets
/// that were still on their way must not spend it.
const OLD_ADDRESS_GRACE: Duration = Duration::from_secs(5);

/// What speaks for a packet's source. Packets outside the source policy never get this far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// A valid SRTP tag.
    Authenticated(Authenticated),
    /// Plain RTP or RTCP.
    Plain {
        /// The packet's source identifier.
        ssrc: u32,
        /// Whether the sequence number continues the stream already latched.
        in_sequence: bool,
    },
}

impl Evidence {
    fn ssrc(self) -> u32 {
        match self {
            Self::Authenticated(proof) => proof.ssrc(),
            Self::Plain { ssrc, .. } => ssrc,
        }
    }
}

/// The latched address of one component of one leg.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latch {
    state: State,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum State {
    /// Nothing acceptable has arrived yet.
    #[default]
    Waiting,
    /// A new offer/answer allows one move away from the address of the last one.
    Reopened {
        address: SocketAddr,
        ssrc: u32,
        since: Instant,
    },
    /// Fixed until the next offer/answer.
    Latched { address: SocketAddr, ssrc: u32 },
}

impl Latch {
    /// A latch that was fixed by another worker.
    pub fn restored(address: SocketAddr, ssrc: u32) -> Self {
        Self {
            state: State::Latched { address, ssrc },
        }
    }

    /// The latched address.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.state {
            State::Waiting => None,
            State::Reopened { address, .. } | State::Latched { address, .. } => Some(address),
        }
    }

    /// Address and source identifier, for a snapshot.
    pub fn latched(&self) -> Option<(SocketAddr, u32)> {
        match self.state {
            State::Waiting => None,
            State::Reopened { address, ssrc, .. } | State::Latched { address, ssrc } => Some((address, ssrc)),
        }
    }

    /// A new offer/answer was completed: one move is free again. Media goes on to the old address meanwhile if
    /// `keep_address`, i.e. if the peer did not signal another one.
    pub fn reopen(&mut self, now: Instant, keep_address: bool) {
        self.state = match self.latched() {
            Some((address, ssrc)) if keep_address => State::Reopened {
                address,
                ssrc,
                since: now,
            },
            _ => State::Waiting,
        };
    }

    /// Whether a packet from `source` is believed; it may fix or move the address.
    pub fn admit(&mut self, now: Instant, source: SocketAddr, evidence: Evidence) -> bool {
        let latched = State::Latched {
            address: source,
            ssrc: evidence.ssrc(),
        };
        match (&mut self.state, evidence) {
            (State::Waiting, _) => self.state = latched,
            (State::Reopened { address, since, ssrc }, _) => {
                if *address == source && now.saturating_duration_since(*since) < OLD_ADDRESS_GRACE {
                    *ssrc = evidence.ssrc();
                } else {
                    self.state = latched;
                }
            }
            (State::Latched { address, ssrc }, _) if *address == source => *ssrc = evidence.ssrc(),
            // A late packet on the old path is valid but says nothing about where the peer is now.
            (State::Latched { .. }, Evidence::Authenticated(proof)) => {
                if proof.is_newest() {
                    self.state = latched;
                }
            }
            (State::Latched { ssrc: known, .. }, Evidence::Plain { ssrc, in_sequence }) => {
                if *known != ssrc || !in_sequence {
                    return false;
                }
                self.state = latched;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "any instant will do as the start of a test's clock"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    const FIRST: Evidence = Evidence::Plain {
        ssrc: 1,
        in_sequence: false,
    };

    #[test]
    fn the_first_packet_fixes_the_address_and_a_stranger_does_not_move_it() {
        let (mut latch, now) = (Latch::default(), start());
        assert_eq!(latch.address(), None);
        assert!(latch.admit(now, at(1), FIRST));
        assert!(!latch.admit(
            now,
            at(2),
            Evidence::Plain {
                ssrc: 2,
                in_sequence: true
            }
        ));
        assert!(!latch.admit(
            now,
            at(2),
            Evidence::Plain {
                ssrc: 1,
                in_sequence: false
            }
        ));
        assert_eq!(latch.address(), Some(at(1)));
    }

    #[test]
    fn the_same_source_in_sequence_moves_it() {
        let (mut latch, now) = (Latch::default(), start());
        latch.admit(now, at(1), FIRST);
        assert!(latch.admit(
            now,
            at(2),
            Evidence::Plain {
                ssrc: 1,
                in_sequence: true
            }
        ));
        assert_eq!(latch.address(), Some(at(2)));
    }

    #[test]
    fn packets_still_on_their_way_do_not_spend_the_free_move() {
        let (mut latch, now) = (Latch::default(), start());
        latch.admit(now, at(1), FIRST);
        latch.reopen(now, true);
        assert!(latch.admit(now + Duration::from_millis(40), at(1), FIRST));
        assert!(latch.admit(
            now + Duration::from_millis(60),
            at(2),
            Evidence::Plain {
                ssrc: 9,
                in_sequence: false
            }
        ));
        assert_eq!(latch.address(), Some(at(2)));
        assert!(!latch.admit(
            now + Duration::from_millis(80),
            at(3),
            Evidence::Plain {
                ssrc: 10,
                in_sequence: false
            }
        ));
    }

    #[test]
    fn the_free_move_ends_when_the_old_address_goes_on() {
        let (mut latch, now) = (Latch::default(), start());
        latch.admit(now, at(1), FIRST);
        latch.reopen(now, true);
        let later = now + OLD_ADDRESS_GRACE;
        assert!(latch.admit(later, at(1), FIRST));
        assert!(!latch.admit(
            later,
            at(2),
            Evidence::Plain {
                ssrc: 9,
                in_sequence: false
            }
        ));
    }

    #[test]
    fn a_newly_signalled_address_forgets_the_old_one() {
        let (mut latch, now) = (Latch::default(), start());
        latch.admit(now, at(1), FIRST);
        latch.reopen(now, false);
        assert_eq!(latch.address(), None);
    }
}
