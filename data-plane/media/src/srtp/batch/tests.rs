//! The processor's instructions against the portable code.

use proptest::prelude::*;

use super::*;
use crate::rtp::SeqNo;
use crate::srtp::tests::key;
use crate::suite::SrtpSuite;

/// One packet of a batch: which direction it is of, how long, and under which index.
#[derive(Debug, Clone)]
struct Case {
    suite: usize,
    seed: u8,
    header_len: usize,
    payload: Vec<u8>,
    ssrc: u32,
    index: u64,
    /// An octet to change between sealing and opening, counted over the packet.
    damage: Option<usize>,
}

fn cases() -> impl Strategy<Value = Case> {
    let len = prop_oneof![2 => Just(160usize), 2 => 0usize..70, 1 => 0usize..400, 1 => 1000usize..1500];
    (
        0usize..6,
        any::<u8>(),
        (0usize..15).prop_map(|words| 12 + 4 * words),
        len.prop_flat_map(|len| proptest::collection::vec(any::<u8>(), len)),
        any::<u32>(),
        0u64..1 << 48,
        proptest::option::weighted(0.3, 0usize..2000),
    )
        .prop_map(|(suite, seed, header_len, payload, ssrc, index, damage)| Case {
            suite,
            seed,
            header_len,
            payload,
            ssrc,
            index,
            damage,
        })
}

/// Seals and opens the cases as one batch; what came out of each step.
fn run(ciphers: &[CounterCipher], cases: &[Case]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>, u64) {
    let mut slots: Vec<_> = cases
        .iter()
        .map(|case| {
            let mut slot = vec![0x80; case.header_len];
            slot.extend(&case.payload);
            slot.resize(slot.len() + PacketBuf::HEADROOM, 0xEE);
            slot
        })
        .collect();
    let mut packets: Vec<_> = slots
        .iter_mut()
        .zip(cases)
        .map(|(slot, case)| PacketBuf::new(slot, case.header_len + case.payload.len()))
        .collect();
    fn jobs<'a, 'p>(
        ciphers: &'a [CounterCipher],
        cases: &[Case],
        packets: &'a mut [PacketBuf<'p>],
    ) -> Vec<Job<'a, 'p>> {
        let parts = ciphers.iter().zip(cases).zip(packets);
        parts
            .map(|((cipher, case), packet)| Job {
                cipher,
                packet,
                at: Indexed {
                    header_len: case.header_len,
                    ssrc: case.ssrc,
                    index: SeqNo::from_u64(case.index).unwrap(),
                },
            })
            .collect()
    }
    fn octets(packets: &[PacketBuf<'_>]) -> Vec<Vec<u8>> {
        packets.iter().map(|packet| packet.as_slice().to_vec()).collect()
    }
    seal_batch(&mut jobs(ciphers, cases, &mut packets));
    let sealed = octets(&packets);
    for (packet, case) in packets.iter_mut().zip(cases) {
        if let Some(at) = case.damage {
            let at = at % packet.len();
            packet.as_mut_slice()[at] ^= 1;
        }
    }
    let passed = open_batch(&mut jobs(ciphers, cases, &mut packets));
    (sealed, octets(&packets), passed)
}

/// The same, one packet at a time and without the processor's instructions.
fn run_portable(ciphers: &[CounterCipher], cases: &[Case]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>, u64) {
    let (mut sealed, mut opened, mut passed) = (Vec::new(), Vec::new(), 0);
    for (bit, (cipher, case)) in ciphers.iter().zip(cases).enumerate() {
        let mut slot = vec![0x80; case.header_len];
        slot.extend(&case.payload);
        let len = slot.len();
        slot.resize(len + PacketBuf::HEADROOM, 0xEE);
        let mut packet = PacketBuf::new(&mut slot, len);
        let index = SeqNo::from_u64(case.index).unwrap();
        let at = Indexed {
            header_len: case.header_len,
            ssrc: case.ssrc,
            index,
        };
        cipher.protect(&mut packet, at, &[]).unwrap();
        sealed.push(packet.as_slice().to_vec());
        if let Some(at) = case.damage {
            let at = at % packet.len();
            packet.as_mut_slice()[at] ^= 1;
        }
        let result = cipher.unprotect(&mut packet, case.header_len, case.ssrc, [index].into_iter(), &[]);
        passed |= u64::from(result.is_ok()) << bit;
        opened.push(packet.as_slice().to_vec());
    }
    (sealed, opened, passed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_batch_of_any_size_and_mixture_agrees_with_the_portable_code(cases in proptest::collection::vec(cases(), 1..=9)) {
        let keys: Vec<_> = cases.iter().map(|case| key(SrtpSuite::ALL[case.suite], case.seed)).collect();
        let hardware: Vec<_> = keys.iter().map(CounterCipher::new).collect();
        let portable: Vec<_> = keys.iter().map(CounterCipher::portable).collect();
        let expected = run_portable(&portable, &cases);
        prop_assert_eq!(run(&hardware, &cases), expected.clone());
        prop_assert_eq!(run_portable(&hardware, &cases), expected.clone());
        for (bit, case) in cases.iter().enumerate() {
            prop_assert_eq!(expected.2 >> bit & 1 == 1, case.damage.is_none());
        }
    }
}

#[test]
fn a_full_batch_passes_as_a_whole() {
    let cases: Vec<_> = (0..MAX_BATCH)
        .map(|n| Case {
            suite: n % 6,
            seed: n as u8,
            header_len: 12,
            payload: vec![n as u8; 5 * n],
            ssrc: n as u32,
            index: 65_530 + n as u64,
            damage: None,
        })
        .collect();
    let ciphers: Vec<_> = cases
        .iter()
        .map(|case| CounterCipher::new(&key(SrtpSuite::ALL[case.suite], case.seed)))
        .collect();
    let (sealed, opened, passed) = run(&ciphers, &cases);
    assert_eq!(passed, u64::MAX);
    for (case, (sealed, opened)) in cases.iter().zip(sealed.iter().zip(&opened)) {
        assert_eq!(opened[12..], case.payload);
        assert!(sealed.len() > opened.len());
    }
}

/// What a direction holds for its packets besides the key and the indices.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_keys_of_a_direction_are_small() {
    let keys = size_of::<CounterCipher>() + size_of::<crate::srtp::x86::Schedule<11>>();
    assert!(keys <= 260, "{keys}");
}
