use std::collections::VecDeque;

use hashbrown::HashMap;

use super::nonce::Nonce;

/// Remembers which nonce counts were used (RFC 7616 §3.4, `nc`).
///
/// Per nonce a window of 64 counts below the highest seen, so that datagrams may overtake each other. Memory is bounded by
/// `capacity` nonces (about 80 bytes each): when it is full the oldest is forgotten, and from then on every nonce issued no
/// later than the forgotten one is treated as stale. Forgetting costs a client one more round trip, never opens a replay.
///
/// A guard sees only what it is asked about: requests that reach another shard or worker are counted there. With one guard per
/// shard a captured request can be repeated on each other shard once, unless shards share a guard.
#[derive(Debug)]
pub struct ReplayGuard {
    seen: HashMap<u128, Window>,
    order: VecDeque<Nonce>,
    capacity: usize,
    /// Nonces issued up to this time that are not in `seen` may have been forgotten.
    floor: Option<u64>,
}

#[derive(Debug)]
struct Window {
    highest: u32,
    /// Bit n: the count `highest - n` was used.
    used: u64,
}

/// Answer of the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fresh,
    Replayed,
    Forgotten,
}

impl ReplayGuard {
    /// Remembers up to `capacity` nonces, at least one.
    pub fn new(capacity: usize) -> Self {
        Self {
            seen: HashMap::new(),
            order: VecDeque::new(),
            capacity: capacity.max(1),
            floor: None,
        }
    }

    /// Nonces remembered now.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether no nonce is remembered.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Marks `count` as used. Nonces issued before `oldest` (milliseconds since the Unix epoch) have expired and are dropped.
    pub(crate) fn mark(&mut self, nonce: Nonce, count: u32, oldest: u64) -> Verdict {
        while self.order.front().is_some_and(|first| first.issued < oldest) {
            self.forget_first();
        }
        if let Some(window) = self.seen.get_mut(&nonce.id) {
            return window.mark(count);
        }
        if self.floor.is_some_and(|floor| nonce.issued <= floor) {
            return Verdict::Forgotten;
        }
        while self.seen.len() >= self.capacity {
            self.forget_first();
        }
        self.order.push_back(nonce);
        self.seen.insert(
            nonce.id,
            Window {
                highest: count,
                used: 1,
            },
        );
        Verdict::Fresh
    }

    /// The floor rises for expired nonces as well: it is never above the issue time of a nonce that was used.
    fn forget_first(&mut self) {
        if let Some(first) = self.order.pop_front() {
            self.seen.remove(&first.id);
            self.floor = self.floor.max(Some(first.issued));
        }
    }
}

impl Window {
    fn mark(&mut self, count: u32) -> Verdict {
        if count > self.highest {
            let shift = count - self.highest;
            self.used = self.used.checked_shl(shift).unwrap_or(0) | 1;
            self.highest = count;
            return Verdict::Fresh;
        }
        let bit = 1u64.checked_shl(self.highest - count).unwrap_or(0);
        if bit == 0 || self.used & bit != 0 {
            return Verdict::Replayed;
        }
        self.used |= bit;
        Verdict::Fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(id: u128, issued: u64) -> Nonce {
        Nonce { id, issued }
    }

    #[test]
    fn every_count_passes_once_in_any_order_within_the_window() {
        let mut guard = ReplayGuard::new(8);
        for count in [3, 1, 2, 70, 7] {
            assert_eq!(guard.mark(nonce(1, 10), count, 0), Verdict::Fresh, "{count}");
            assert_eq!(guard.mark(nonce(1, 10), count, 0), Verdict::Replayed, "{count}");
        }
        assert_eq!(
            guard.mark(nonce(1, 10), 6, 0),
            Verdict::Replayed,
            "64 below the highest is out of the window"
        );
        assert_eq!(guard.mark(nonce(1, 10), u32::MAX, 0), Verdict::Fresh);
        assert_eq!(guard.mark(nonce(2, 10), 1, 0), Verdict::Fresh);
    }

    #[test]
    fn a_full_guard_forgets_without_opening_a_replay() {
        let mut guard = ReplayGuard::new(2);
        for id in 1..=3 {
            assert_eq!(guard.mark(nonce(id, id as u64 * 10), 1, 0), Verdict::Fresh);
        }
        assert_eq!(guard.len(), 2);
        assert_eq!(guard.mark(nonce(1, 10), 1, 0), Verdict::Forgotten);
        assert_eq!(guard.mark(nonce(2, 20), 1, 0), Verdict::Replayed);
        assert_eq!(guard.mark(nonce(4, 40), 1, 0), Verdict::Fresh);
    }

    #[test]
    fn expired_nonces_make_room() {
        let mut guard = ReplayGuard::new(100);
        for id in 0..50 {
            guard.mark(nonce(id, 10), 1, 0);
        }
        guard.mark(nonce(99, 500), 1, 400);
        assert_eq!(guard.len(), 1);
    }
}
