//! A datagram in a slot of fixed size: rewritten in place, never reallocated.

use thiserror::Error;

/// The packet would outgrow its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("packet does not fit its buffer")]
pub struct NoRoom;

/// A datagram at the start of a caller-owned slot, with room behind it to grow (SRTP trailers need up to
/// [`PacketBuf::HEADROOM`] octets). Works over a stack array, a `Vec` or a slice of a receive ring alike.
#[derive(Debug)]
pub struct PacketBuf<'a> {
    storage: &'a mut [u8],
    len: usize,
}

impl<'a> PacketBuf<'a> {
    /// Octets to leave free behind a received datagram so that every suite with the longest MKI fits.
    pub const HEADROOM: usize = 16 + 4 + 128;

    /// A slot whose first `len` octets are a datagram; `len` beyond the slot is cut to it.
    pub fn new(storage: &'a mut [u8], len: usize) -> Self {
        let len = len.min(storage.len());
        Self { storage, len }
    }

    /// Length of the datagram in octets.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the datagram is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The datagram.
    pub fn as_slice(&self) -> &[u8] {
        &self.storage[..self.len]
    }

    /// The datagram, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.storage[..self.len]
    }

    /// Shortens the datagram to `len`; longer is no change.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Whether `additional` more octets fit.
    pub fn fits(&self, additional: usize) -> bool {
        self.storage.len() - self.len >= additional
    }

    /// Appends octets; [`NoRoom`] leaves the datagram as it was.
    pub fn extend_from_slice(&mut self, octets: &[u8]) -> Result<(), NoRoom> {
        let end = self.len + octets.len();
        self.storage
            .get_mut(self.len..end)
            .ok_or(NoRoom)?
            .copy_from_slice(octets);
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_beyond_the_slot_is_refused_and_changes_nothing() {
        let mut slot = [1, 2, 3, 4];
        let mut packet = PacketBuf::new(&mut slot, 2);
        assert_eq!(packet.extend_from_slice(&[9, 9, 9]), Err(NoRoom));
        assert_eq!(packet.as_slice(), [1, 2]);
        packet.extend_from_slice(&[7, 8]).unwrap();
        assert_eq!(packet.as_slice(), [1, 2, 7, 8]);
        packet.truncate(1);
        assert_eq!(packet.as_slice(), [1]);
    }

    #[test]
    fn a_length_beyond_the_slot_is_cut() {
        assert_eq!(PacketBuf::new(&mut [0; 3], 9).len(), 3);
    }
}
