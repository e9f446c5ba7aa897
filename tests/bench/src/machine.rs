//! What the figures were taken on and from.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use trunkline_tests::process::output;

use crate::affinity::Cores;

/// Processor, cores, memory and kernel, and who had which core.
///
/// # Errors
/// When the system does not say.
pub fn describe(cores: &Cores) -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = field("model name").unwrap_or_else(|| "unknown processor".to_owned());
    let count = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let meminfo = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let kib: u64 = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .context("no MemTotal")?
        .parse()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    let pinned = if cores.apart() {
        format!(
            "system under test on core {}, generators on core {}",
            list(&cores.system),
            list(&cores.generator)
        )
    } else {
        "system under test and generators on the same cores".to_owned()
    };
    Ok(format!(
        "{model}, {count} cores, {} GiB, Linux {}; {pinned}",
        kib.div_ceil(1 << 20),
        kernel.trim()
    ))
}

/// Day and time, UTC: `2026-11-29` and `2026-11-29T16:05:00Z`.
///
/// # Errors
/// When `date` is not there.
pub fn now() -> Result<(String, String)> {
    let time = output("date", ["-u", "+%Y-%m-%dT%H:%M:%SZ"])?.trim().to_owned();
    let day = time.split('T').next().context("no day")?.to_owned();
    Ok((day, time))
}

/// The commit that is measured, with `+` when the tree differs from it.
///
/// # Errors
/// When this is no clone.
pub fn commit(home: &Path) -> Result<String> {
    let git = |args: &[&str]| -> Result<String> {
        let home = home.to_str().context("a path that is no text")?;
        output("git", ["-C", home].iter().chain(args))
    };
    let id = git(&["rev-parse", "--short=10", "HEAD"])?;
    // The results are written while this runs: they are no change of what is measured.
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/bench"])?;
    let mark = if changed.trim().is_empty() { "" } else { "+" };
    Ok(format!("{}{mark}", id.trim()))
}

/// The peers with their versions, as the package system has them.
///
/// # Errors
/// When they are not installed.
pub fn peers() -> Result<String> {
    let packages = ["kamailio", "rtpengine-daemon"];
    let listed = output(
        "dpkg-query",
        ["-W", "-f", "${Package} ${Version}\n"].iter().chain(&packages),
    )
    .context("the peers are not installed: tests/bench/setup.sh")?;
    Ok(listed.lines().collect::<Vec<_>>().join(", "))
}

fn list(cores: &[usize]) -> String {
    let words: Vec<_> = cores.iter().map(ToString::to_string).collect();
    words.join(",")
}
