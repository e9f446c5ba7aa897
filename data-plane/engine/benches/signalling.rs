//! What the engine takes for a registration and for a call. The phones' part, which is not counted by
//! `tests/bench/callgrind.sh`, is in these figures: read them as a trend.

mod support;

use divan::Bencher;
use support::Bench;

fn main() {
    divan::main();
}

/// REGISTER, 401, REGISTER with digest, 200.
#[divan::bench]
fn register(bencher: Bencher<'_, '_>) {
    let mut bench = Bench::new(true);
    bencher.bench_local(|| bench.register());
    bench.finish();
}

/// INVITE, 100, 180, 200, ACK, BYE, 200.
#[divan::bench(args = ["without media", "with media"])]
fn call(bencher: Bencher<'_, '_>, kind: &str) {
    let mut bench = Bench::new(false);
    bench.register_callee();
    bencher.bench_local(|| {
        let held = bench.call(kind == "with media");
        bench.hang_up(&held);
    });
    bench.finish();
}
