#!/bin/sh
# Instructions the engine takes for a registration and for a call: the same on every machine and whatever else it does, so
# that a regression shows. Usage: callgrind.sh [UNITS]. Prints a line of JSON for each work; needs valgrind.
#
# Only what runs inside of the engine is counted, not the phones it is driven by. Two runs of different length are compared,
# which leaves out what a run costs but for its units. Valgrind has no SHA extensions: hashes cost here what they cost on a
# processor without.
set -eu
cd "$(dirname "$0")/../.."
units=${1:-400}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

cargo build --release --locked --quiet -p trunkline-engine --bench count
binary=$(cargo build --release --locked --quiet -p trunkline-engine --bench count --message-format=json |
    sed -n 's/.*"executable":"\([^"]*count[^"]*\)".*/\1/p' | tail -1)

count() { # WORK UNITS
    valgrind --tool=callgrind --callgrind-out-file="$out/callgrind" --collect-atstart=no \
        '--toggle-collect=count::support::message*' \
        '--toggle-collect=count::support::timeout*' \
        '--toggle-collect=count::support::effect*' \
        "$binary" "$1" "$2" >"$out/said" 2>&1 || { cat "$out/said" >&2; exit 1; }
    sed -n 's/.*Collected : \([0-9]*\).*/\1/p' "$out/said"
}

for work in register call media; do
    short=$(count "$work" "$units")
    long=$(count "$work" $((2 * units)))
    echo "{\"work\":\"$work\",\"instructions\":$(((long - short) / units))}"
done
