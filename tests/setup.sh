#!/usr/bin/env bash
# Installs what the tests need on Debian 12: SIP clients, a packet analyser, network namespaces, a gRPC client of another make,
# the test runner.
set -euo pipefail
cd "$(dirname "$0")/.."
packages=(sip-tester baresip-core tshark iproute2 procps git python3)
# Debian keeps what venv needs apart from the interpreter.
python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    sudo=""
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo apt-get update -qq
    $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
cargo nextest --version >/dev/null 2>&1 || cargo install cargo-nextest --locked

# A gRPC client of another make, for the test of the API. Its packages are pinned; nothing of the product uses them.
venv=target/venv
if ! "$venv/bin/python" -c "import grpc, grpc_reflection" >/dev/null 2>&1; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check grpcio==1.85.1 grpcio-reflection==1.85.1
fi
