#!/usr/bin/env bash
# Installs what the tests need on Debian 12: SIP clients and a packet analyser, and the test runner.
set -euo pipefail
packages=(sip-tester baresip-core baresip tshark iproute2 openssl procps)
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
