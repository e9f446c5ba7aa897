//! Nanoseconds per packet: the median and the best of many short runs. Small on purpose: a statistics crate would cost every
//! clean build more than these benches say.

use std::time::{Duration, Instant};

/// How long one line of the table is measured.
const BUDGET: Duration = Duration::from_millis(300);

/// Measures only names that contain the first argument, if there is one. `cargo bench` gives `--bench`; without it nothing runs,
/// so that test runners find no tests here.
pub struct Harness {
    filter: String,
    enabled: bool,
}

impl Harness {
    pub fn from_args() -> Self {
        let (flags, names): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg.starts_with('-'));
        let harness = Self {
            filter: names.into_iter().next().unwrap_or_default(),
            enabled: flags.iter().any(|flag| flag == "--bench"),
        };
        if harness.enabled {
            println!("{:<48} {:>10} {:>10}", "ns per packet", "median", "best");
        }
        harness
    }

    /// Measures `run`, which handles `packets` packets and says how long that took, until there is a budget's worth.
    pub fn measure(&self, name: &str, packets: usize, mut run: impl FnMut() -> Duration) {
        if !self.enabled || !name.contains(&self.filter) {
            return;
        }
        let mut samples: Vec<Duration> = Vec::new();
        let mut spent = Duration::ZERO;
        run();
        while spent < BUDGET || samples.len() < 11 {
            let sample = run();
            spent += sample;
            samples.push(sample);
        }
        samples.sort();
        let each = |sample: Duration| sample.as_secs_f64() * 1e9 / packets as f64;
        println!(
            "{name:<48} {:>10.1} {:>10.1}",
            each(samples[samples.len() / 2]),
            each(samples[0])
        );
    }
}

/// How long `work` takes.
#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
pub fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    std::hint::black_box(work());
    start.elapsed()
}
