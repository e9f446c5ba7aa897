//! The table people read, and its place in a Markdown file.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::report::{Figures, Report, Row};
use crate::sample::Unit;

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// The report as a Markdown table with its date and machine.
pub fn markdown(report: &Report) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "Measured {} on {}.\n", report.date, report.machine);
    text.push_str("| work | a unit costs | peer | ours | peer ÷ ours | rate |\n|---|---|---|---|---|---|\n");
    for row in &report.rows {
        let peer = row
            .peer
            .as_ref()
            .map_or_else(|| "–".to_owned(), |peer| spread(peer, row.unit));
        let ratio = row
            .ratio()
            .map_or_else(|| "–".to_owned(), |ratio| format!("**{ratio:.2}**"));
        let rate = if row.ours.rate > 0.0 {
            format!("{:.0}/s", row.ours.rate)
        } else {
            "–".to_owned()
        };
        let ours = spread(&row.ours, row.unit);
        let _ = writeln!(
            text,
            "| {} | {} | {peer} | {ours} | {ratio} | {rate} |",
            row.work,
            unit(row)
        );
    }
    text
}

/// Replaces what stands between the markers of `path` by the table of `report`.
///
/// # Errors
/// When the file cannot be read or written, or has no markers.
pub fn insert(report: &Report, path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    fs::write(path, replaced(&text, &markdown(report))?).with_context(|| format!("write {}", path.display()))
}

fn replaced(text: &str, table: &str) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("no {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("no {END}"))?;
    ensure!(!after.contains(BEGIN), "{BEGIN} stands there twice");
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

fn unit(row: &Row) -> &'static str {
    match row.unit {
        Unit::CpuMicroseconds => "µs CPU",
        Unit::Bytes => "octets PSS",
        Unit::Milliseconds => "ms",
    }
}

/// `16.1 (15.8–17.0)`.
fn spread(figures: &Figures, unit: Unit) -> String {
    let cost = figures.cost;
    // Octets and large figures have no use for a decimal.
    let digits = usize::from(unit != Unit::Bytes && cost.median < 100.0);
    format!("{:.digits$} ({:.digits$}–{:.digits$})", cost.median, cost.min, cost.max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::row;

    fn report() -> Report {
        Report {
            date: "2026-11-29".to_owned(),
            machine: "two cores".to_owned(),
            rows: vec![
                row("register-udp", Unit::CpuMicroseconds, Some(40.0), 16.0),
                row("config-acl", Unit::Milliseconds, None, 120.0),
            ],
        }
    }

    #[test]
    fn a_row_shows_both_sides_and_the_ratio() {
        let text = markdown(&report());
        assert!(
            text.contains("| register-udp | µs CPU | 40.0 (36.0–50.0) | 16.0 (14.4–20.0) | **2.50** | 2000/s |"),
            "{text}"
        );
        assert!(text.contains("| config-acl | ms | – | 120 (108–150) | – |"), "{text}");
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let text = format!("head\n{BEGIN}\nold\n{END}\ntail\n");
        let once = replaced(&text, &markdown(&report())).unwrap();
        assert!(once.starts_with("head\n") && once.ends_with("\ntail\n") && !once.contains("old"));
        assert_eq!(replaced(&once, &markdown(&report())).unwrap(), once);
        replaced("no markers", "").unwrap_err();
    }
}
