//! When each stream sends: every end once in a packet time, at a phase of its own, evenly spread.

use std::ops::Range;
use std::time::Duration;

/// What packets hold: 20 ms of audio, so 50 packets a second.
pub const PACKET_TIME: Duration = Duration::from_millis(20);

/// Slots a packet time is cut into. In each, the ends whose phase it is send one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    ends: usize,
    slots: usize,
}

impl Pace {
    /// `ends` sending ends over slots of `slot`, at least one slot.
    pub fn new(ends: usize, slot: Duration) -> Self {
        let slots = PACKET_TIME.as_nanos() / slot.as_nanos().max(1);
        Self {
            ends,
            slots: (slots as usize).max(1),
        }
    }

    /// Length of a slot in nanoseconds.
    pub fn slot_nanos(&self) -> u64 {
        PACKET_TIME.as_nanos() as u64 / self.slots as u64
    }

    /// The ends that send in the `tick`th slot since the start.
    pub fn due(&self, tick: u64) -> Range<usize> {
        let slot = (tick % self.slots as u64) as usize;
        slot * self.ends / self.slots..(slot + 1) * self.ends / self.slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_sends_once_in_a_packet_time_and_slots_are_even() {
        for ends in [1, 7, 200, 2000] {
            let pace = Pace::new(ends, Duration::from_millis(1));
            let mut sent = vec![0; ends];
            for tick in 40..60 {
                let due = pace.due(tick);
                assert!(due.len() <= ends.div_ceil(20), "{ends}: {due:?}");
                due.for_each(|end| sent[end] += 1);
            }
            assert!(sent.iter().all(|count| *count == 1), "{ends}");
        }
        assert_eq!(Pace::new(3, Duration::from_millis(1)).slot_nanos(), 1_000_000);
    }
}
