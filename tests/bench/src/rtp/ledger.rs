//! What is on its way: when each packet of a stream was sent, until it arrives.

/// Packets of a stream remembered: 1.28 s at 50 a second. One that takes longer counts as lost.
const REMEMBERED: usize = 64;

/// Packets of one sending end that have not arrived, by sequence number.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// Sequence number in the lower 16 bits, time of sending in nanoseconds above; 0 is nothing.
    open: [u64; REMEMBERED],
}

impl Default for Ledger {
    fn default() -> Self {
        Self { open: [0; REMEMBERED] }
    }
}

impl Ledger {
    /// Notes a packet sent `at` (nanoseconds, 1 to 2⁴⁸). Returns when the packet was sent that it pushes out: a lost one.
    pub fn sent(&mut self, sequence: u16, at: u64) -> Option<u64> {
        let place = &mut self.open[usize::from(sequence) % REMEMBERED];
        let lost = std::mem::replace(place, (at << 16) | u64::from(sequence));
        (lost != 0).then_some(lost >> 16)
    }

    /// Notes an arrival. Returns when the packet was sent; `None` for one that was not, or arrived before, or was given up.
    pub fn arrived(&mut self, sequence: u16) -> Option<u64> {
        let place = &mut self.open[usize::from(sequence) % REMEMBERED];
        if *place == 0 || *place as u16 != sequence {
            return None;
        }
        Some(std::mem::take(place) >> 16)
    }

    /// Times of sending of what has not arrived.
    pub fn missing(&self) -> impl Iterator<Item = u64> {
        self.open.iter().filter(|entry| **entry != 0).map(|entry| entry >> 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_arrives_once() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.sent(65_535, 1_000), None);
        assert_eq!(ledger.sent(0, 2_000), None);
        assert_eq!(ledger.arrived(65_535), Some(1_000));
        assert_eq!(ledger.arrived(65_535), None, "a duplicate");
        assert_eq!(ledger.arrived(7), None, "never sent");
        assert_eq!(ledger.arrived(64), None, "another one in the same place");
        assert_eq!(ledger.missing().collect::<Vec<_>>(), [2_000]);
    }

    #[test]
    fn what_is_pushed_out_is_lost() {
        let mut ledger = Ledger::default();
        ledger.sent(5, 1_000);
        assert_eq!(ledger.sent(5 + 64, 9_000), Some(1_000));
        assert_eq!(ledger.arrived(5), None);
        assert_eq!(ledger.arrived(5 + 64), Some(9_000));
    }
}
