//! Memory of processes: the proportional set size, so that what forked processes share is counted once.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use crate::cpu::Meter;

/// Octets of proportional set size by name, of all processes of `meter`.
///
/// # Errors
/// When a process is gone, or is not ours to look at.
pub fn pss(meter: &Meter) -> Result<BTreeMap<String, f64>> {
    field(meter, "Pss:")
}

/// Octets of resident memory by name, of all processes of `meter`.
///
/// # Errors
/// As [`pss`].
pub fn rss(meter: &Meter) -> Result<BTreeMap<String, f64>> {
    field(meter, "Rss:")
}

fn field(meter: &Meter, field: &str) -> Result<BTreeMap<String, f64>> {
    let mut sizes = BTreeMap::new();
    for (name, pid) in meter.processes()? {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path} of {name}"))?;
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|rest| rest.split_ascii_whitespace().next())
            .with_context(|| format!("no {field} in {path}"))?;
        *sizes.entry(name).or_insert(0.0) += kib.parse::<f64>()? * 1024.0;
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_touched_is_counted() {
        let meter = Meter::new().with("test", std::process::id());
        let before = pss(&meter).unwrap()["test"];
        let block = vec![1u8; 32 << 20];
        let after = pss(&meter).unwrap()["test"];
        assert!(block.iter().all(|octet| *octet == 1));
        let grown = after - before;
        assert!(grown > 30e6 && grown < 60e6, "{grown}");
    }
}
