//! Packet indices and replay windows per synchronization source (RFC 3711 §3.3.1, §3.3.2).

use smallvec::SmallVec;

use crate::rtp::SeqNo;

/// Width of the replay window in packets; the RFC asks for at least 64.
pub(crate) const WINDOW: u64 = 128;

/// Which of the last [`WINDOW`] indices were seen. Bit 0 is the highest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplayWindow {
    highest: u64,
    /// In halves, the lower first: a `u128` would align everything that holds a window to sixteen octets.
    seen: [u64; 2],
}

/// Where an index stands relative to a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Above everything seen.
    Newest,
    /// Inside the window, not seen.
    Late,
    /// Seen, or below the window.
    Refused,
}

impl ReplayWindow {
    /// A window whose only seen index is `first`.
    pub(crate) fn starting_at(first: u64) -> Self {
        Self {
            highest: first,
            seen: [1, 0],
        }
    }

    /// A window that refuses everything up to and including `highest`: what is known after a restore.
    pub(crate) fn closed_at(highest: u64) -> Self {
        Self {
            highest,
            seen: [u64::MAX; 2],
        }
    }

    pub(crate) fn highest(&self) -> u64 {
        self.highest
    }

    pub(crate) fn standing(&self, index: u64) -> Standing {
        if index > self.highest {
            return Standing::Newest;
        }
        let age = self.highest - index;
        if age >= WINDOW || self.seen() & (1 << age) != 0 {
            Standing::Refused
        } else {
            Standing::Late
        }
    }

    /// Marks an index whose [`standing`](Self::standing) is not `Refused`.
    pub(crate) fn mark(&mut self, index: u64) {
        if index > self.highest {
            let ahead = index - self.highest;
            self.set_seen(if ahead < WINDOW { (self.seen() << ahead) | 1 } else { 1 });
            self.highest = index;
        } else if self.highest - index < WINDOW {
            self.set_seen(self.seen() | 1 << (self.highest - index));
        }
    }

    fn seen(&self) -> u128 {
        u128::from(self.seen[1]) << 64 | u128::from(self.seen[0])
    }

    fn set_seen(&mut self, seen: u128) {
        self.seen = [seen as u64, (seen >> 64) as u64];
    }
}

/// A small table keyed by SSRC. Linear: a stream has one source, two around a change.
#[derive(Debug, Clone)]
pub(super) struct SsrcTable<T> {
    entries: SmallVec<[(u32, T); 1]>,
}

impl<T> Default for SsrcTable<T> {
    fn default() -> Self {
        Self {
            entries: SmallVec::new(),
        }
    }
}

impl<T> SsrcTable<T> {
    pub(super) fn find(&self, ssrc: u32) -> Option<&T> {
        self.entries
            .iter()
            .find(|(key, _)| *key == ssrc)
            .map(|(_, value)| value)
    }

    pub(super) fn find_mut(&mut self, ssrc: u32) -> Option<&mut T> {
        self.entries
            .iter_mut()
            .find(|(key, _)| *key == ssrc)
            .map(|(_, value)| value)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.entries.iter().map(|(ssrc, value)| (*ssrc, value))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().map(|(_, value)| value)
    }

    pub(super) fn insert(&mut self, ssrc: u32, value: T) -> &mut T {
        self.entries.push((ssrc, value));
        &mut self.entries.last_mut().expect("an entry was just pushed").1
    }

    /// Removes the entry with the smallest `stamp`.
    pub(super) fn evict_oldest(&mut self, stamp: impl Fn(&T) -> u32) {
        if let Some((oldest, _)) = self
            .entries
            .iter()
            .enumerate()
            .min_by_key(|(_, (_, value))| stamp(value))
        {
            self.entries.swap_remove(oldest);
        }
    }
}

/// Indices of one direction, for another worker to go on from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SrtpSnapshot {
    /// One entry per synchronization source.
    pub ssrcs: Vec<SsrcSnapshot>,
}

/// Indices of one synchronization source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SsrcSnapshot {
    /// The source.
    pub ssrc: u32,
    /// Highest SRTP packet index, if any packet was handled.
    pub rtp: Option<SeqNo>,
    /// Highest SRTCP index, if any packet was handled.
    pub rtcp: Option<u32>,
    /// What a sender adds to the sequence numbers of its source (modulo 2^16); 0 for a receiver.
    pub sequence_offset: u16,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set(indices in proptest::collection::vec(1000u64..1600, 1..300)) {
            let mut window = ReplayWindow::starting_at(1000);
            let mut seen = BTreeSet::from([1000]);
            for index in indices {
                let highest = *seen.last().unwrap();
                let expected = if index > highest {
                    Standing::Newest
                } else if seen.contains(&index) || highest - index >= WINDOW {
                    Standing::Refused
                } else {
                    Standing::Late
                };
                prop_assert_eq!(window.standing(index), expected);
                if expected != Standing::Refused {
                    window.mark(index);
                    seen.insert(index);
                }
                prop_assert_eq!(window.highest(), *seen.last().unwrap());
            }
        }
    }

    #[test]
    fn a_restored_window_refuses_the_past() {
        let window = ReplayWindow::closed_at(500);
        assert_eq!(window.standing(500), Standing::Refused);
        assert_eq!(window.standing(400), Standing::Refused);
        assert_eq!(window.standing(501), Standing::Newest);
    }
}
