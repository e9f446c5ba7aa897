//! A binary heap of deadlines, at most one per slot, that knows where each slot sits.
//!
//! A heap with lazy deletion would keep the 32 s deadline of every transaction that ended after milliseconds. Here a
//! deadline that is gone takes no room, so the queue is never longer than the table.

use std::time::Instant;

/// Deadlines by slot.
#[derive(Debug, Default)]
pub(super) struct TimerQueue {
    heap: Vec<(Instant, u32)>,
    /// Heap position of each slot, `ABSENT` when it is not queued.
    positions: Vec<u32>,
}

const ABSENT: u32 = u32::MAX;

impl TimerQueue {
    /// The earliest deadline and its slot.
    pub(super) fn next(&self) -> Option<(Instant, u32)> {
        self.heap.first().copied()
    }

    /// Sets, moves or removes the deadline of `slot`.
    pub(super) fn set(&mut self, slot: u32, deadline: Option<Instant>) {
        match (self.position(slot), deadline) {
            (None, None) => {}
            (None, Some(deadline)) => {
                if self.positions.len() <= slot as usize {
                    self.positions.resize(slot as usize + 1, ABSENT);
                }
                self.heap.push((deadline, slot));
                self.sift_up(self.heap.len() - 1);
            }
            (Some(position), Some(deadline)) => {
                self.heap[position].0 = deadline;
                let position = self.sift_up(position);
                self.sift_down(position);
            }
            (Some(position), None) => {
                self.positions[slot as usize] = ABSENT;
                self.heap.swap_remove(position);
                if position < self.heap.len() {
                    let position = self.sift_up(position);
                    self.sift_down(position);
                }
            }
        }
    }

    fn position(&self, slot: u32) -> Option<usize> {
        self.positions
            .get(slot as usize)
            .filter(|position| **position != ABSENT)
            .map(|position| *position as usize)
    }

    /// Moves the entry towards the root while it is earlier than its parent, and records where it stops.
    fn sift_up(&mut self, mut position: usize) -> usize {
        while position > 0 {
            let parent = (position - 1) / 2;
            if self.heap[parent].0 <= self.heap[position].0 {
                break;
            }
            self.swap(parent, position);
            position = parent;
        }
        self.record(position);
        position
    }

    /// Moves the entry away from the root while a child is earlier, and records where it stops.
    fn sift_down(&mut self, mut position: usize) {
        loop {
            let left = 2 * position + 1;
            let Some(earliest) = (left..(left + 2).min(self.heap.len())).min_by_key(|child| self.heap[*child].0) else {
                break;
            };
            if self.heap[position].0 <= self.heap[earliest].0 {
                break;
            }
            self.swap(position, earliest);
            position = earliest;
        }
        self.record(position);
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.record(a);
        self.record(b);
    }

    fn record(&mut self, position: usize) {
        let slot = self.heap[position].1 as usize;
        self.positions[slot] =
            u32::try_from(position).expect("the heap is no longer than the table, whose slots are u32");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::transaction::tests::epoch;

    proptest! {
        #[test]
        fn agrees_with_a_sorted_map(
            operations in prop::collection::vec((0u32..24, prop::option::of(0u64..1000)), 0..200)
        ) {
            let start = epoch();
            let mut queue = TimerQueue::default();
            let mut model: BTreeMap<u32, Instant> = BTreeMap::new();
            for (slot, offset) in operations {
                let deadline = offset.map(|offset| start + Duration::from_millis(offset));
                queue.set(slot, deadline);
                match deadline {
                    Some(deadline) => { model.insert(slot, deadline); }
                    None => { model.remove(&slot); }
                }
                prop_assert_eq!(queue.heap.len(), model.len());
                prop_assert_eq!(queue.next().map(|(deadline, _)| deadline), model.values().min().copied());
                for (position, (deadline, slot)) in queue.heap.iter().enumerate() {
                    prop_assert_eq!(model.get(slot), Some(deadline));
                    prop_assert_eq!(queue.positions[*slot as usize] as usize, position);
                }
            }
        }
    }
}
