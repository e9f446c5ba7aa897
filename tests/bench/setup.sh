#!/usr/bin/env bash
# Installs what the benchmark needs on Debian 12: the peers, a load generator, network namespaces.
set -euo pipefail
# db_text, htable and dialog are in the extra and main packages; rtpengine without its kernel module, which no container has.
packages=(kamailio kamailio-extra-modules rtpengine-daemon sip-tester iproute2 procps git)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
sudo=""
[ "$(id -u)" -eq 0 ] || sudo=sudo
# The benchmark starts the peers itself; their services must not.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod +x "$policy"
    trap '$sudo rm -f "$policy"' EXIT
fi
$sudo apt-get update -qq
$sudo apt-get install -y -qq --no-install-recommends "${missing[@]}"
