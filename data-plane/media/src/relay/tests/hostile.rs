//! Whatever arrives, wherever from and in whatever order: no panic, no packet back to its own leg, no unbounded state.

use proptest::prelude::*;

use super::*;
use crate::srtp::{MAX_RECEIVE_SSRCS, MAX_SEND_SSRCS, SrtpKey};
use crate::suite::SrtpSuite;

#[derive(Debug, Clone)]
enum Step {
    Datagram {
        leg: LegId,
        component: Component,
        source: u8,
        datagram: Vec<u8>,
    },
    Voice {
        leg: LegId,
        ssrc: u32,
        sequence: u16,
        payload_type: u8,
    },
    Renegotiate {
        leg: LegId,
        key: Option<u8>,
        mux: bool,
        latch: bool,
        remote: Option<u8>,
        direction: u8,
    },
    Wait(u32),
    Handover,
}

fn legs() -> impl Strategy<Value = LegId> {
    prop_oneof![Just(LegId::A), Just(LegId::B)]
}

fn steps() -> impl Strategy<Value = Step> {
    let component = prop_oneof![Just(Component::Rtp), Just(Component::Rtcp)];
    let datagram = proptest::collection::vec(any::<u8>(), 0..80).prop_flat_map(|octets| {
        // Half of them with a version and packet type that get further.
        (Just(octets), any::<bool>(), 198u8..208).prop_map(|(mut octets, plausible, packet_type)| {
            if let (true, [first, second, ..]) = (plausible, &mut octets[..]) {
                *first = 0x80 | *first & 0x3F;
                *second = packet_type;
            }
            octets
        })
    });
    prop_oneof![
        (legs(), component, 0u8..4, datagram).prop_map(|(leg, component, source, datagram)| Step::Datagram {
            leg,
            component,
            source,
            datagram
        }),
        (legs(), any::<u32>(), any::<u16>(), 0u8..128).prop_map(|(leg, ssrc, sequence, payload_type)| Step::Voice {
            leg,
            ssrc,
            sequence,
            payload_type
        }),
        (
            legs(),
            any::<Option<u8>>(),
            any::<bool>(),
            any::<bool>(),
            proptest::option::of(0u8..4),
            0u8..4
        )
            .prop_map(|(leg, key, mux, latch, remote, direction)| Step::Renegotiate {
                leg,
                key,
                mux,
                latch,
                remote,
                direction
            }),
        (0u32..1_000_000).prop_map(Step::Wait),
        Just(Step::Handover),
    ]
}

fn source(number: u8) -> String {
    match number {
        0 => PHONE_A.into(),
        1 => PHONE_B.into(),
        2 => "[2001:db8::1]:9000".into(),
        _ => "203.0.113.5:61000".into(),
    }
}

fn renegotiate(bench: &mut Bench, leg: LegId, step: &Step) {
    let Step::Renegotiate {
        key,
        mux,
        latch,
        remote,
        direction,
        ..
    } = step
    else {
        return;
    };
    bench.renegotiate(leg, |config| {
        config.rtcp_mux = *mux;
        config.remote = remote.map(|number| RemoteMedia::with_next_port(address(&source(number))));
        config.source = if *latch {
            SourcePolicy::Latch {
                signalling_ip: ip("203.0.113.5"),
            }
        } else {
            SourcePolicy::Signalled
        };
        config.srtp = key.map(|seed| {
            let suite = SrtpSuite::ALL[usize::from(seed) % SrtpSuite::ALL.len()];
            let key = SrtpKey::new(suite, &vec![seed; suite.key_salt_len()]).unwrap();
            SrtpParams {
                rx: (seed % 3 != 0).then(|| key.clone()),
                tx: key,
            }
        });
        config.direction = [
            Direction::SendRecv,
            Direction::SendOnly,
            Direction::RecvOnly,
            Direction::Inactive,
        ][usize::from(*direction)];
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_sequence_of_events_keeps_the_invariants(steps in proptest::collection::vec(steps(), 1..60)) {
        let mut bench = Bench::new(config());
        for step in steps {
            let (leg, result) = match &step {
                Step::Datagram { leg, component, source: number, datagram } => {
                    (*leg, Some(bench.send(ports(*leg, *component), &source(*number), datagram)))
                }
                Step::Voice { leg, ssrc, sequence, payload_type } => {
                    let datagram = media(*ssrc, *sequence, *payload_type, 0, false, &[1; 20]);
                    (*leg, Some(bench.rtp(*leg, if *leg == LegId::A { PHONE_A } else { PHONE_B }, &datagram)))
                }
                Step::Renegotiate { leg, .. } => {
                    renegotiate(&mut bench, *leg, &step);
                    (*leg, None)
                }
                Step::Wait(milliseconds) => {
                    bench.advance(Duration::from_millis(u64::from(*milliseconds)));
                    (LegId::A, None)
                }
                Step::Handover => {
                    let snapshot = bench.session.snapshot();
                    bench.session = RelaySession::restore(bench.now, bench.config.clone(), &snapshot, 10);
                    (LegId::A, None)
                }
            };
            if let Some(Ok(sent)) = result {
                prop_assert_eq!(sent.from.pair, ports(leg.other(), Component::Rtp).pair);
            }
            for sides in &bench.session.snapshot().streams {
                for leg in LegId::BOTH {
                    prop_assert!(sides[leg].rx.ssrcs.len() <= MAX_RECEIVE_SSRCS);
                    prop_assert!(sides[leg].tx.ssrcs.len() <= MAX_SEND_SSRCS);
                }
            }
            let _ = (bench.session.check_idle(bench.now), bench.session.stats(LegId::A), bench.session.stats(LegId::B));
        }
    }
}
