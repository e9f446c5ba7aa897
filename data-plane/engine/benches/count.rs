//! A fixed number of units, to be counted by a tool that counts instructions: `count register|call|media UNITS`.
//!
//! Run by `tests/bench/callgrind.sh`, which has only the engine's own work counted.

mod support;

use support::Bench;

fn main() {
    // Cargo adds `--bench`.
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let work = words.next().unwrap_or_else(|| "register".to_owned());
    let units: usize = words.next().map_or(1, |word| word.parse().expect("a number of units"));
    let mut bench = Bench::new(work == "register");
    if work != "register" {
        bench.register_callee();
    }
    for _ in 0..units {
        match work.as_str() {
            "register" => bench.register(),
            "call" | "media" => {
                let held = bench.call(work == "media");
                bench.hang_up(&held);
            }
            other => panic!("no work is called {other}"),
        }
    }
    bench.finish();
    println!("{units} x {work}");
}
