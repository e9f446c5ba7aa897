//! What is off about a call, from what its two ends saw.

use std::time::Duration;

use super::{End, Observation};
use crate::phone::{AudioReport, Heard};

/// Largest share of packets lost on one machine.
const MAX_LOSS: f64 = 0.01;
/// Packets at the edges of a call that one side sends before the other listens, or after.
const EDGE_PACKETS: u64 = 10;
/// Largest interarrival jitter: a de-jitter buffer of an ordinary phone.
const MAX_JITTER: Duration = Duration::from_millis(60);
/// Smallest share of 100 ms blocks with the right tone.
const MIN_TONE: f64 = 0.9;
/// Level of the phones' tone in dBov: a peak of 8000.
const LEVEL: f64 = -15.26;
/// G.711 passes a relay bit for bit; what is left is quantisation and the edges of lost packets.
const LEVEL_TOLERANCE: f64 = 1.0;

/// Everything that is off, in words; nothing when the call was as it should be.
pub fn faults(call: &Observation) -> Vec<String> {
    let (caller, callee) = (&call.caller, &call.callee);
    let mut faults = Vec::new();
    if caller.report.call_id != callee.report.call_id {
        faults.push("the two ends have different Call-IDs".to_owned());
    }
    if caller.report.audio.codec != callee.report.audio.codec {
        faults.push(format!(
            "the two ends have different codecs, {} and {}",
            caller.report.audio.codec, callee.report.audio.codec
        ));
    }
    for (end, peer) in [(caller, callee), (callee, caller)] {
        faults.extend(
            of_end(end, peer.report.audio.sent)
                .into_iter()
                .map(|fault| format!("{}: {fault}", end.user)),
        );
    }
    let name = format!("call {} to {}", caller.user, callee.user);
    faults.into_iter().map(|fault| format!("{name}: {fault}")).collect()
}

fn of_end(end: &End, sent_by_peer: u64) -> Vec<String> {
    let audio: &AudioReport = &end.report.audio;
    let mut faults = Vec::new();
    match (end.secure, audio.suite) {
        (true, None) => faults.push("RTP in clear on a trunk that requires SRTP".to_owned()),
        (false, Some(_)) => faults.push("SRTP on a trunk without it".to_owned()),
        _ => {}
    }
    let needed = sent_by_peer - (sent_by_peer as f64 * MAX_LOSS) as u64;
    if audio.received + EDGE_PACKETS < needed {
        faults.push(format!("{} packets received of {sent_by_peer} sent", audio.received));
    }
    if audio.lost as f64 > audio.received as f64 * MAX_LOSS {
        faults.push(format!("{} packets lost", audio.lost));
    }
    if audio.jitter > MAX_JITTER {
        faults.push(format!("jitter of {:.1} ms", audio.jitter.as_secs_f64() * 1000.0));
    }
    if audio.rejected > 0 {
        faults.push(format!(
            "{} packets that are not of the call or not authentic",
            audio.rejected
        ));
    }
    if audio.reports == 0 {
        faults.push("no RTCP report received".to_owned());
    }
    faults.extend(of_tone(&audio.heard));
    faults
}

fn of_tone(heard: &Heard) -> Vec<String> {
    let mut faults = Vec::new();
    if heard.blocks == 0 || f64::from(heard.expected) < f64::from(heard.blocks) * MIN_TONE {
        faults.push(format!(
            "the peer's tone was heard {} times in {} looks",
            heard.expected, heard.blocks
        ));
    }
    if heard.own > 0 {
        faults.push(format!("its own tone came back {} times", heard.own));
    }
    match heard.level {
        Some(level) if (level - LEVEL).abs() > LEVEL_TOLERANCE => {
            faults.push(format!("the level is {level:.1} dBov, not {LEVEL:.1}"));
        }
        _ => {}
    }
    faults
}

#[cfg(test)]
pub(super) mod tests {
    use trunkline_media::SrtpSuite;

    use super::*;
    use crate::phone::CallReport;

    pub(in crate::check) fn observation() -> Observation {
        let audio = |suite| AudioReport {
            codec: "PCMU",
            suite,
            sent: 150,
            received: 149,
            lost: 0,
            jitter: Duration::from_micros(300),
            rejected: 0,
            reports: 5,
            heard: Heard {
                blocks: 29,
                expected: 29,
                own: 0,
                level: Some(-15.3),
            },
        };
        let end = |user: &str, trunk, protocol, secure, suite| End {
            user: user.into(),
            trunk,
            protocol,
            secure,
            report: CallReport {
                call_id: "c".into(),
                setup: Duration::from_millis(12),
                ringing: Some(Duration::from_millis(7)),
                audio: audio(suite),
            },
        };
        Observation {
            caller: end("1001", "sample-udp", "UDP", false, None),
            callee: end("2001", "sample-tls", "TLS", true, Some(SrtpSuite::AeadAes128Gcm)),
        }
    }

    #[test]
    fn a_good_call_has_no_fault() {
        assert_eq!(faults(&observation()), Vec::<String>::new());
    }

    #[test]
    fn every_single_fault_is_named_with_its_call_and_end() {
        type Spoil = fn(&mut Observation);
        let cases: [(Spoil, &str); 12] = [
            (|call| call.callee.report.call_id = "d".into(), "different Call-IDs"),
            (|call| call.callee.report.audio.codec = "PCMA", "different codecs"),
            (|call| call.callee.report.audio.suite = None, "2001: RTP in clear"),
            (
                |call| call.caller.report.audio.suite = Some(SrtpSuite::AeadAes128Gcm),
                "1001: SRTP on a trunk without",
            ),
            (
                |call| call.caller.report.audio.received = 130,
                "1001: 130 packets received of 150",
            ),
            (|call| call.caller.report.audio.lost = 2, "1001: 2 packets lost"),
            (
                |call| call.callee.report.audio.jitter = Duration::from_millis(61),
                "2001: jitter of 61.0 ms",
            ),
            (
                |call| call.callee.report.audio.rejected = 1,
                "2001: 1 packets that are not",
            ),
            (|call| call.callee.report.audio.reports = 0, "2001: no RTCP"),
            (
                |call| call.callee.report.audio.heard.expected = 20,
                "2001: the peer's tone was heard 20 times in 29",
            ),
            (
                |call| call.caller.report.audio.heard.own = 1,
                "1001: its own tone came back 1 times",
            ),
            (
                |call| call.caller.report.audio.heard.level = Some(-21.0),
                "1001: the level is -21.0 dBov",
            ),
        ];
        for (spoil, expected) in cases {
            let mut call = observation();
            spoil(&mut call);
            let found = faults(&call);
            assert_eq!(found.len(), 1, "{expected}: {found:?}");
            assert!(
                found[0].starts_with("call 1001 to 2001: ") && found[0].contains(expected),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_call_without_any_audio_is_off_in_every_way() {
        let mut call = observation();
        let audio = &mut call.callee.report.audio;
        (audio.received, audio.reports, audio.heard) = (0, 0, Heard::default());
        assert_eq!(faults(&call).len(), 3);
    }
}
