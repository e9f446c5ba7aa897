#!/usr/bin/env bash
# Explores every fuzz target, or those named after the seconds, for so many seconds each. Needs the nightly toolchain and
# cargo-fuzz. What is found grows under target/fuzz; an input that fails is printed with the file that holds it: give it
# a name that says what it shows, found-..., and keep it in corpus/<target>/. What is worth keeping of the rest, as explored-...:
#   <binary> -set_cover_merge=1 -use_counters=0 -max_len=2048 COPY_OF_THE_CORPUS target/fuzz/corpus/<target>
#   explore.sh SECONDS [TARGET...]
# SANITIZER=address (default: none; the crates hold no unsafe code, and without it four times as much is explored).
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:?seconds per target}
shift
targets=("$@")
[ "${#targets[@]}" -gt 0 ] || mapfile -t targets < <(cd targets && printf '%s\n' *.rs | sed 's/\.rs$//')
command -v cargo-fuzz >/dev/null || cargo +stable install cargo-fuzz --locked
found=../../target/fuzz
status=0
for target in "${targets[@]}"; do
    echo "== $target"
    mkdir -p "$found/corpus/$target" "$found/artifacts/$target"
    cargo +nightly fuzz run --fuzz-dir . --features libfuzzer --target-dir ../../target/fuzz/build \
        --debug-assertions --sanitizer "${SANITIZER:-none}" "$target" \
        "$found/corpus/$target" "corpus/$target" -- -max_total_time="$seconds" -max_len=8192 -timeout=10 \
        -artifact_prefix="$found/artifacts/$target/" -print_final_stats=1 || status=1
done
exit "$status"
