//! A soak of seconds: the machinery of the one of hours, and a first look at what is left.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::time::Duration;

use trunkline_bench::affinity::Cores;
use trunkline_bench::soak::{self, Plan};
use trunkline_bench::workload::Bench;

#[tokio::test]
async fn seconds_of_calls_and_registrations_fail_not_once_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new(Cores::shared().unwrap(), dir.path());
    let plan = Plan {
        duration: Duration::from_secs(10),
        calls: 20,
        registrations: 50,
        growth: 0.0,
    };
    let outcome = soak::run(&bench, &plan).await.unwrap();
    print!("{}", outcome.summary());
    assert_eq!(outcome.faults, [] as [String; 0]);
    assert_eq!((outcome.calls, outcome.registrations), (200, 500));
    assert_eq!(outcome.gauges["media_ports_leased"], 0.0);
    let seen: Vec<_> = outcome.memory.keys().collect();
    assert_eq!(seen, ["control", "worker"]);
    assert!(outcome.memory["worker"].samples.len() >= 5, "{:?}", outcome.memory);
}
