//! Time to seal or open one SRTP packet: `cargo bench -p trunkline-media --bench srtp`, then part of a name for some of them.
//!
//! 2048 directions in turn, each with its own key and packet, so that neither is always in the innermost cache. Opening
//! starts with a copy of the sealed packet.

mod harness;

use harness::{Harness, time};
use trunkline_media::SrtpSuite;
use trunkline_media::packet::PacketBuf;
use trunkline_media::rtp::RtpHeader;
use trunkline_media::srtp::bench::{Code, Directions};
use trunkline_media::srtp::{Protect, SrtpKey};

const DIRECTIONS: u16 = 2048;

fn main() {
    let harness = Harness::from_args();
    for suite in SrtpSuite::ALL {
        single(&harness, suite);
    }
    for suite in SrtpSuite::ALL.into_iter().filter(|suite| !suite.is_aead()) {
        for payload in [20, 160] {
            batches(&harness, suite, payload);
        }
    }
}

fn keys(suite: SrtpSuite) -> Vec<SrtpKey> {
    (0..DIRECTIONS)
        .map(|number| {
            let mut material = vec![0x5A; suite.key_salt_len()];
            material[..2].copy_from_slice(&number.to_be_bytes());
            SrtpKey::new(suite, &material).expect("the material has the suite's length")
        })
        .collect()
}

/// The ciphers alone: portable one at a time, and as the relay uses them.
fn batches(harness: &Harness, suite: SrtpSuite, payload: usize) {
    for (code, label, sizes) in [
        (Code::Portable, "portable", &[1][..]),
        (Code::Best, "batch of", &[1, 2, 4, 16, 64][..]),
    ] {
        let mut directions = Directions::new(code, &keys(suite), payload);
        for &size in sizes {
            let rounds = usize::from(DIRECTIONS) / size;
            harness.measure(&format!("{suite} {payload} seal {label} {size}"), rounds * size, || {
                time(|| (0..rounds).for_each(|_| directions.seal(size)))
            });
            harness.measure(&format!("{suite} {payload} open {label} {size}"), rounds * size, || {
                time(|| (0..rounds).for_each(|_| directions.open(size)))
            });
        }
    }
}

/// The whole of [`Protect`], indices included: what a packet that comes by itself costs.
fn single(harness: &Harness, suite: SrtpSuite) {
    let mut senders: Vec<_> = keys(suite).iter().map(Protect::new).collect();
    let mut slot = vec![0; 12 + 160 + PacketBuf::HEADROOM];
    let mut sequence = 0u16;
    harness.measure(&format!("{suite} 160 protect_rtp"), senders.len(), || {
        sequence = sequence.wrapping_add(1);
        let header = RtpHeader {
            marker: false,
            payload_type: 0,
            sequence,
            timestamp: 0,
            ssrc: 7,
            header_len: 12,
            padded: false,
        };
        time(|| {
            for sender in &mut senders {
                slot[..12].copy_from_slice(&header.to_bytes());
                sender
                    .protect_rtp(&mut PacketBuf::new(&mut slot, 172))
                    .expect("sequence numbers go up");
            }
        })
    });
}
