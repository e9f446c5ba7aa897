//! Room for the datagrams that are handled together.

use trunkline_media::packet::PacketBuf;

use super::wire::{Arrived, Leaving};

/// Datagrams of one burst: beyond 64 a system call's cost is spread thin enough, and the slots still fit a core's L2 cache.
pub(super) const BURST: usize = 64;
/// Largest datagram that is relayed; RTP stays below the MTU. A larger one arrives with length 0.
pub(super) const DATAGRAM: usize = 2048;
/// Free octets before each datagram: an Ethernet, an IPv6 and a UDP header can be written there.
pub(super) const HEAD: usize = 64;
/// One slot: head, datagram, room for an SRTP trailer; whole cache lines.
const SLOT: usize = (HEAD + DATAGRAM + PacketBuf::HEADROOM).next_multiple_of(64);

/// A burst: slots, what arrived in them, and what leaves from them.
pub(super) struct Burst {
    storage: Box<[u8]>,
    pub(super) arrived: Vec<Arrived>,
    pub(super) leaving: Vec<Leaving>,
}

impl Burst {
    pub(super) fn new() -> Burst {
        Burst {
            storage: vec![0; BURST * SLOT].into_boxed_slice(),
            arrived: Vec::with_capacity(BURST),
            leaving: Vec::with_capacity(BURST),
        }
    }

    pub(super) fn clear(&mut self) {
        self.arrived.clear();
        self.leaving.clear();
    }

    /// Where the datagram of a slot stands, with the room to grow behind it.
    pub(super) fn datagram(&mut self, slot: usize) -> &mut [u8] {
        &mut self.storage[slot * SLOT + HEAD..(slot + 1) * SLOT]
    }

    /// A whole slot; the datagram begins at [`HEAD`].
    pub(super) fn slot(&mut self, slot: usize) -> &mut [u8] {
        &mut self.storage[slot * SLOT..(slot + 1) * SLOT]
    }

    /// What arrived, in order, with its storage, and the list of what leaves.
    pub(super) fn split(&mut self) -> (impl Iterator<Item = (Arrived, &mut [u8])>, &mut Vec<Leaving>) {
        let mut arrived = self.arrived.iter().copied().peekable();
        let slots = self.storage.chunks_exact_mut(SLOT).enumerate();
        let packets = slots.filter_map(move |(slot, storage)| {
            let packet = arrived.next_if(|packet| packet.slot == slot)?;
            Some((packet, &mut storage[HEAD..]))
        });
        (packets, &mut self.leaving)
    }
}
