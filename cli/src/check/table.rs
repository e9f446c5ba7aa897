//! What the check saw, a line per end of a call.

use super::{End, Observation};
use crate::columns::columns;

const HEAD: [&str; 12] = [
    "call", "phone", "over", "codec", "media", "set-up", "sent", "received", "lost", "jitter", "level", "tone",
];

/// The calls as a table.
pub fn calls(calls: &[Observation]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    for (number, call) in (1..).zip(calls) {
        rows.push(row(&format!("{number} caller"), &call.caller));
        rows.push(row(&format!("{number} callee"), &call.callee));
    }
    format!("\n{}", columns(&rows))
}

fn row(call: &str, end: &End) -> [String; HEAD.len()] {
    let audio = &end.report.audio;
    let milliseconds = |duration: std::time::Duration| format!("{:.1} ms", duration.as_secs_f64() * 1000.0);
    [
        call.to_owned(),
        end.user.clone(),
        end.protocol.to_owned(),
        audio.codec.to_owned(),
        audio.suite.map_or("RTP".to_owned(), |suite| suite.name().to_owned()),
        milliseconds(end.report.setup),
        audio.sent.to_string(),
        audio.received.to_string(),
        audio.lost.to_string(),
        milliseconds(audio.jitter),
        audio
            .heard
            .level
            .map_or("silent".to_owned(), |level| format!("{level:.1} dBov")),
        format!("{}/{}", audio.heard.expected, audio.heard.blocks),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::verdict::tests::observation;
    use super::*;

    #[test]
    fn columns_line_up_and_every_figure_is_there() {
        let text = calls(&[observation()]);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(lines.len(), 3);
        let column = lines[0].find("media").unwrap();
        assert!(lines[1][column..].starts_with("RTP "), "{text}");
        assert!(lines[2][column..].starts_with("AEAD_AES_128_GCM "), "{text}");
        for figure in ["12.0 ms", "150", "149", "0.3 ms", "-15.3 dBov", "29/29"] {
            assert!(lines[1].contains(figure), "{figure} is not in {}", lines[1]);
        }
    }
}
