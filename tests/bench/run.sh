#!/usr/bin/env bash
# Builds optimised binaries and measures. Environment: WORK (names of workloads; all when empty), ROUNDS (3), WINDOW (6 s).
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
"${CARGO:-cargo}" build --release --locked -p trunkline-worker -p trunkline-control -p trunkline-bench
read -ra work <<<"${WORK:-}"
exec "$target/release/trunkline-bench" run --rounds "${ROUNDS:-3}" --window "${WINDOW:-6}" "${work[@]}"
