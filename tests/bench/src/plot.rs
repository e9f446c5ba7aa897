//! A picture of the ratios, as SVG: one bar for each row that the peer does too.

use std::fmt::Write as _;

use crate::report::{Report, Row};

const WIDTH: f64 = 760.0;
/// Room for names on the left and for figures on the right.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 210.0;
const BAR: f64 = 16.0;
const STEP: f64 = 24.0;
const TOP: f64 = 56.0;

/// The report's ratios as bars, on a logarithmic scale: as far right of 1 as twice as good is as far left as twice as bad.
pub fn svg(report: &Report) -> String {
    let rows: Vec<(&Row, f64)> = report
        .rows
        .iter()
        .filter_map(|row| Some((row, row.ratio().filter(|ratio| *ratio > 0.0)?)))
        .collect();
    // Whole powers of two that hold everything, and 1/2 to 2 at least.
    let largest = rows
        .iter()
        .map(|(_, ratio)| ratio.log2().abs())
        .fold(1.0, f64::max)
        .ceil();
    let at = |ratio: f64| LEFT + (ratio.log2() / largest + 1.0) / 2.0 * (WIDTH - LEFT - RIGHT);
    let bottom = TOP + STEP * rows.len() as f64;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{:.0}\" font-family=\"sans-serif\" font-size=\"12\">",
        bottom + 30.0
    );
    text.push_str("<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n");
    label(
        &mut text,
        8.0,
        18.0,
        "start",
        "Cost of a unit of work: peer ÷ ours. Right of 1 we need less.",
    );
    let small = format!("{}: {}", report.date, report.machine);
    let _ = writeln!(
        text,
        "<text x=\"8\" y=\"34\" font-size=\"9\" fill=\"#555555\">{}</text>",
        escape(&small)
    );
    let mut power = -largest;
    while power <= largest {
        let x = at(power.exp2());
        let colour = if power == 0.0 { "#333333" } else { "#dddddd" };
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"{colour}\"/>",
            TOP - 6.0
        );
        let tick = if power < 0.0 {
            format!("1/{}", (-power).exp2())
        } else {
            format!("{}", power.exp2())
        };
        label(&mut text, x, bottom + 16.0, "middle", &tick);
        power += 1.0;
    }
    for (index, (row, ratio)) in rows.iter().enumerate() {
        let y = TOP + STEP * index as f64;
        let (from, to) = (at(1.0).min(at(*ratio)), at(1.0).max(at(*ratio)));
        let colour = if *ratio >= 1.0 { "#2f7d4f" } else { "#b5483a" };
        let _ = writeln!(
            text,
            "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>",
            to - from
        );
        label(&mut text, LEFT - 8.0, y + 12.0, "end", &row.work);
        let peer = row.peer.as_ref().map_or(0.0, |peer| peer.cost.median);
        let figures = format!("{ratio:.2}  ({:.1} ÷ {:.1})", peer, row.ours.cost.median);
        label(&mut text, WIDTH - RIGHT + 12.0, y + 12.0, "start", &figures);
    }
    text.push_str("</svg>\n");
    text
}

fn label(text: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let _ = writeln!(
        text,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#222222\">{}</text>",
        escape(words)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::row;
    use crate::sample::Unit;

    #[test]
    fn a_row_of_both_sides_is_a_bar_and_one_of_ours_alone_is_none() {
        let report = Report {
            date: "2026-11-29".to_owned(),
            machine: "two <cores>".to_owned(),
            rows: vec![
                row("register-udp", Unit::CpuMicroseconds, Some(40.0), 20.0),
                row("config-acl", Unit::Milliseconds, None, 120.0),
            ],
        };
        let picture = svg(&report);
        // Twice as good on a scale of 1/2 to 2: from the middle to the right end.
        let middle = LEFT + (WIDTH - LEFT - RIGHT) / 2.0;
        let width = (WIDTH - LEFT - RIGHT) / 2.0;
        assert!(
            picture.contains(&format!("<rect x=\"{middle:.1}\" y=\"{TOP:.1}\" width=\"{width:.1}\"")),
            "{picture}"
        );
        assert!(picture.contains("register-udp") && !picture.contains("config-acl"));
        assert!(picture.contains("two &lt;cores&gt;"));
    }
}
