#!/usr/bin/env bash
# Builds optimised binaries and soaks them. Environment: MINUTES (60), CALLS and REGISTRATIONS a second (the program's defaults).
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
"${CARGO:-cargo}" build --release --locked -p trunkline-worker -p trunkline-control -p trunkline-bench
options=(--minutes "${MINUTES:-60}")
[ -z "${CALLS:-}" ] || options+=(--calls "$CALLS")
[ -z "${REGISTRATIONS:-}" ] || options+=(--registrations "$REGISTRATIONS")
exec "$target/release/trunkline-bench" soak "${options[@]}"
