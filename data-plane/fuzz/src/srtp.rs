//! SRTP and SRTCP: forgeries are refused and leave the packet as it was, our own packets come back unchanged.

use trunkline_media::SrtpSuite;
use trunkline_media::packet::PacketBuf;
use trunkline_media::srtp::{Mki, Protect, SrtpError, SrtpKey, Unprotect};

/// The first octet chooses suite, MKI and the bit to flip; the rest is the packet.
pub fn run(data: &[u8]) {
    let Some((&choice, packet)) = data.split_first() else {
        return;
    };
    let suite = SrtpSuite::ALL[usize::from(choice) % SrtpSuite::ALL.len()];
    let salt: Vec<u8> = (1..).take(suite.key_salt_len()).collect();
    let mki = if choice & 0x80 == 0 { None } else { Mki::new(1, 4) };
    let key = SrtpKey::new(suite, &salt)
        .expect("as long as the suite wants")
        .with_mki(mki);
    refuses(&key, packet);
    for direction in [RTP, RTCP] {
        round_trip(&key, packet, usize::from(choice), direction);
    }
}

#[derive(Clone, Copy)]
struct Direction {
    protect: fn(&mut Protect, &mut PacketBuf<'_>) -> Result<(), SrtpError>,
    unprotect: fn(&mut Unprotect, &mut PacketBuf<'_>) -> Result<(), SrtpError>,
}

const RTP: Direction = Direction {
    protect: |state, packet| state.protect_rtp(packet).map(drop),
    unprotect: |state, packet| state.unprotect_rtp(packet).map(drop),
};
const RTCP: Direction = Direction {
    protect: |state, packet| state.protect_rtcp(packet).map(drop),
    unprotect: |state, packet| state.unprotect_rtcp(packet).map(drop),
};

/// Whoever lacks the key gets nothing in (the short 32-bit tags would let one of four milliards pass).
fn refuses(key: &SrtpKey, packet: &[u8]) {
    for direction in [RTP, RTCP] {
        let mut storage = packet.to_vec();
        let mut slot = PacketBuf::new(&mut storage, packet.len());
        assert!((direction.unprotect)(&mut Unprotect::new(key), &mut slot).is_err());
        assert_eq!(slot.as_slice(), packet, "a refused packet is not touched");
    }
}

fn round_trip(key: &SrtpKey, packet: &[u8], flip: usize, direction: Direction) {
    let mut storage = packet.to_vec();
    storage.resize(packet.len() + PacketBuf::HEADROOM, 0);
    let mut slot = PacketBuf::new(&mut storage, packet.len());
    if (direction.protect)(&mut Protect::new(key), &mut slot).is_err() {
        assert_eq!(slot.as_slice(), packet);
        return;
    }
    let wire = slot.as_slice().to_vec();
    assert!(wire.len() > packet.len());

    let mut receiver = Unprotect::new(key);
    let mut forged = wire.clone();
    let bit = flip * 7 % (forged.len() * 8);
    forged[bit / 8] ^= 1 << (bit % 8);
    let len = forged.len();
    assert!((direction.unprotect)(&mut receiver, &mut PacketBuf::new(&mut forged, len)).is_err());

    for expected in [Ok(()), Err(SrtpError::Replayed)] {
        let mut copy = wire.clone();
        let mut slot = PacketBuf::new(&mut copy, wire.len());
        assert_eq!((direction.unprotect)(&mut receiver, &mut slot), expected);
        if expected.is_ok() {
            assert_eq!(slot.as_slice(), packet);
        }
    }
}
