//! Sequence numbers of one peer: as it counts, and as the other peer sees them once requests were put in between.
//!
//! ```text
//! peer sends        1   2           3   4          (seen)
//! we originate              3   4
//! other peer sees   1   2   3   4   5   6          (passed on)
//! ```
//!
//! From the first originated request on, later requests of the peer are passed on with a higher number, and responses
//! to them come back with the number the peer knows. Limits: requests numbered before the last [`STEPS`] gaps are mapped
//! as if those gaps were not there, which only matters to retransmissions older than that many originated requests;
//! numbers stop at 2^32-1 instead of wrapping (RFC 3261 §8.1.1.5 starts below 2^31).

use smallvec::SmallVec;

use crate::method::Method;

/// How a CSeq number stands to the ones before (RFC 3261 §12.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Higher than all before.
    New,
    /// The number of the last request: an ACK or a CANCEL for it, or the request itself again.
    Same,
    /// Lower than the last: an ACK of an earlier INVITE, or out of order. A UAS answers the latter with 500.
    Lower,
}

/// How many gaps are remembered.
const STEPS: usize = 8;

/// Maps the numbers of one peer.
#[derive(Debug, Default)]
pub(super) struct CSeqMap {
    last_seen: Option<u32>,
    /// Highest number the other peer has seen, passed on or originated.
    last_passed: Option<u32>,
    steps: SmallVec<[Step; 1]>,
}

/// Requests the peer numbers `from` or higher are passed on with `offset` added.
#[derive(Debug, Clone, Copy)]
struct Step {
    from: u32,
    offset: u32,
}

impl CSeqMap {
    /// A request of the peer arrived.
    pub(super) fn observe(&mut self, method: &Method, seen: u32) -> Order {
        let order = match self.last_seen {
            Some(last) if seen < last => Order::Lower,
            Some(last) if seen == last => Order::Same,
            _ => Order::New,
        };
        // ACK and CANCEL carry the number of their INVITE and open no new one.
        if order == Order::New && !matches!(method, Method::Ack | Method::Cancel) {
            self.last_seen = Some(seen);
            self.last_passed = self.last_passed.max(Some(self.forward(seen)));
        }
        order
    }

    /// The number for a request of our own in the name of the peer.
    pub(super) fn originate(&mut self) -> u32 {
        let number = self.last_passed.map_or(1, |last| last.saturating_add(1));
        self.last_passed = Some(number);
        // The next number of the peer has to come out one higher than ours.
        let from = self.last_seen.map_or(0, |last| last.saturating_add(1));
        let offset = number.saturating_add(1).saturating_sub(from);
        match self.steps.last_mut() {
            Some(step) if step.from == from => step.offset = offset,
            _ => {
                if self.steps.len() == STEPS {
                    self.steps.remove(0);
                }
                self.steps.push(Step { from, offset });
            }
        }
        number
    }

    /// The number the other peer knows a request by.
    pub(super) fn forward(&self, seen: u32) -> u32 {
        let step = self.steps.iter().rev().find(|step| step.from <= seen);
        seen.saturating_add(step.map_or(0, |step| step.offset))
    }

    /// The number the peer itself knows a request by; `None` for one that was originated here.
    pub(super) fn restore(&self, passed: u32) -> Option<u32> {
        let mut below = None;
        for step in self.steps.iter().rev() {
            if let Some(seen) = passed.checked_sub(step.offset).filter(|seen| *seen >= step.from) {
                return Some(seen).filter(|seen| is_below(*seen, below));
            }
            below = Some(step.from);
        }
        Some(passed).filter(|seen| is_below(*seen, below))
    }
}

fn is_below(seen: u32, limit: Option<u32>) -> bool {
    limit.is_none_or(|limit| seen < limit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn untouched_numbers_pass_unchanged() {
        let mut map = CSeqMap::default();
        assert_eq!(map.observe(&Method::Invite, 314_159), Order::New);
        assert_eq!(map.forward(314_159), 314_159);
        assert_eq!(map.restore(314_159), Some(314_159));
    }

    #[test]
    fn ack_and_cancel_are_no_new_request() {
        let mut map = CSeqMap::default();
        map.observe(&Method::Invite, 1);
        assert_eq!(map.observe(&Method::Ack, 1), Order::Same);
        assert_eq!(map.observe(&Method::Bye, 2), Order::New);
        assert_eq!(map.observe(&Method::Info, 1), Order::Lower);
        assert_eq!(map.observe(&Method::Ack, 9), Order::New);
        assert_eq!(map.observe(&Method::Info, 3), Order::New, "the stray ACK did not count");
    }

    #[test]
    fn later_requests_make_room_for_originated_ones() {
        let mut map = CSeqMap::default();
        map.observe(&Method::Invite, 1);
        map.observe(&Method::Info, 2);
        assert_eq!((map.originate(), map.originate()), (3, 4));
        map.observe(&Method::Info, 3);
        assert_eq!([1, 2, 3, 4].map(|seen| map.forward(seen)), [1, 2, 5, 6]);
        assert_eq!(
            [1, 2, 3, 4, 5, 6].map(|passed| map.restore(passed)),
            [Some(1), Some(2), None, None, Some(3), Some(4)]
        );
    }

    #[test]
    fn a_peer_that_never_sent_anything_starts_at_one() {
        let mut map = CSeqMap::default();
        assert_eq!(map.originate(), 1);
        map.observe(&Method::Bye, 0);
        assert_eq!(map.forward(0), 2, "zero is a legal first number");
        assert_eq!((map.restore(1), map.restore(2)), (None, Some(0)));
    }

    #[test]
    fn the_end_of_the_number_space_does_not_wrap() {
        let mut map = CSeqMap::default();
        map.observe(&Method::Invite, u32::MAX);
        assert_eq!(map.originate(), u32::MAX);
        assert_eq!(map.forward(u32::MAX), u32::MAX);
    }

    #[test]
    fn memory_stays_bounded() {
        let mut map = CSeqMap::default();
        for seen in 1..1000 {
            map.observe(&Method::Info, seen);
            assert_eq!(map.originate(), 2 * seen);
        }
        assert_eq!(map.steps.len(), STEPS);
        assert_eq!(map.forward(999), 1997);
        assert_eq!(map.restore(1997), Some(999), "recent numbers are still exact");
    }

    proptest! {
        #[test]
        fn numbers_grow_and_find_their_way_back(steps in prop::collection::vec((any::<bool>(), 1u32..4), 1..STEPS)) {
            let mut map = CSeqMap::default();
            let (mut seen, mut highest, mut passed) = (0u32, None, Vec::new());
            for (originate, gap) in steps {
                let number = if originate {
                    let number = map.originate();
                    prop_assert_eq!(map.restore(number), None);
                    number
                } else {
                    seen += gap;
                    map.observe(&Method::Info, seen);
                    passed.push((seen, map.forward(seen)));
                    map.forward(seen)
                };
                prop_assert!(highest < Some(number), "{:?} then {}", highest, number);
                highest = Some(number);
                for (seen, number) in &passed {
                    prop_assert_eq!(map.forward(*seen), *number);
                    prop_assert_eq!(map.restore(*number), Some(*seen));
                }
            }
        }
    }
}
