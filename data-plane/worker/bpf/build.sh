#!/usr/bin/env bash
# Builds the BPF object. `build.sh` writes it; `build.sh --check` fails when the committed one is not what the source gives.
# Needs clang 16 and libbpf's headers (Debian: clang-16 llvm-16 libbpf-dev); who only builds the worker needs neither.
set -euo pipefail
cd "$(dirname "$0")"
out=$(mktemp)
trap 'rm -f "$out"' EXIT
clang-16 -O2 -g -Wall -Werror -target bpf -mcpu=v3 -fdebug-prefix-map="$PWD=." -ffile-prefix-map="$PWD=." \
    -I"/usr/include/$(uname -m)-linux-gnu" -c steer.bpf.c -o "$out"
# Debug information goes, the types the loader needs (.BTF) stay.
llvm-strip-16 -g "$out"
if [ "${1:-}" = --check ]; then
    cmp "$out" steer.bpf.o || { echo "steer.bpf.o is not what steer.bpf.c gives; run $0" >&2; exit 1; }
else
    cp "$out" steer.bpf.o
    chmod 644 steer.bpf.o
fi
