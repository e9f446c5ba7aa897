#!/usr/bin/env bash
# Unit, property, simulation and corpus tests of every crate, then the system tests with real clients.
set -euo pipefail
cd "$(dirname "$0")/.."
data-plane/worker/bpf/build.sh --check
cargo build --workspace --bins --locked
exec cargo nextest run --workspace --locked --no-fail-fast
