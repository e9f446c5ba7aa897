#!/usr/bin/env bash
# Builds the image, runs a control plane and two workers with docker compose, calls through each worker, kills one and
# calls through the other. Needs root for a Docker engine it may have to start; leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/../.."

project=trunkline-test
compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose -p "$project" "$@"
    else
        docker-compose -p "$project" "$@"
    fi
}
fail() {
    echo "compose-test: $*" >&2
    compose logs --tail=50 >&2 || true
    exit 1
}
# Waits until a command succeeds; the bound is in seconds.
until_ok() {
    local bound=$1 what=$2
    shift 2
    local end=$((SECONDS + bound))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "$what: not within $bound s"
        sleep 0.2
    done
}

started_engine=""
finish() {
    local status=$?
    compose down --volumes --timeout 5 >/dev/null 2>&1 || true
    if [ -n "$started_engine" ]; then
        kill "$started_engine" 2>/dev/null || true
        wait "$started_engine" 2>/dev/null || true
    fi
    exit "$status"
}
trap finish EXIT

packages=(docker.io docker-compose debootstrap)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
if ! docker info >/dev/null 2>&1; then
    mkdir -p target
    dockerd >target/dockerd.log 2>&1 &
    started_engine=$!
    until_ok 60 "Docker engine" docker info
fi

# Base images come from a registry where there is one, otherwise from a Debian root made here.
root=target/compose-root
debian_root() {
    if [ ! -e "$root/etc/debian_version" ]; then
        rm -rf "$root"
        debootstrap --variant=minbase --include=ca-certificates bookworm "$root" >target/debootstrap.log
    fi
}
if ! docker image inspect debian:bookworm-slim >/dev/null 2>&1 && ! docker pull -q debian:bookworm-slim 2>/dev/null; then
    debian_root
    tar -C "$root" -c . | docker import - debian:bookworm-slim >/dev/null
fi
if ! docker image inspect rust:1.95-bookworm >/dev/null 2>&1 && ! docker pull -q rust:1.95-bookworm 2>/dev/null; then
    debian_root
    build_root=target/compose-build-root
    rm -rf "$build_root"
    cp -a "$root" "$build_root"
    chroot "$build_root" apt-get install -y -qq --no-install-recommends gcc g++ libc6-dev make >target/debootstrap-build.log 2>&1 \
        || fail "compiler in the build image: see target/debootstrap-build.log"
    mkdir -p "$build_root/usr/local/rust"
    cp -a "$(rustc --print sysroot)/." "$build_root/usr/local/rust/"
    tar -C "$build_root" -c . \
        | docker import --change 'ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
            - rust:1.95-bookworm >/dev/null
    rm -rf "$build_root"
fi

echo "building the image"
compose build --quiet 2>/dev/null || compose build || fail "the image does not build"
compose up --detach --scale data-plane=2
until_ok 60 "two healthy workers" bash -c \
    "[ \"\$(docker ps -q --filter label=com.docker.compose.project=$project --filter label=com.docker.compose.service=data-plane --filter health=healthy | wc -l)\" = 2 ]"

control=$(compose ps -q control-plane)
mapfile -t workers < <(compose ps -q data-plane)
state=$(mktemp -d)
trap 'rm -rf "$state"; finish' EXIT
docker cp "$control":/var/lib/trunkline/admin.token "$state/admin.token"
docker cp "$control":/bootstrap/ca.pem "$state/ca.pem"
address() { docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$1"; }

cargo build --release --locked --package trunkline-cli
cli=(target/release/trunkline --api https://127.0.0.1:8443 --ca-file "$state/ca.pem" --token-file "$state/admin.token")
"${cli[@]}" apply examples/ --passwords "$state/passwords"
until_ok 30 "both workers SYNCED" bash -c "[ \"\$(${cli[*]} workers | grep -c SYNCED)\" = 2 ]"
"${cli[@]}" workers

call() {
    "${cli[@]}" check --passwords "$state/passwords" --udp "$(address "$1"):8060" || fail "no call through $(address "$1")"
}
for worker in "${workers[@]}"; do call "$worker"; done
echo "killing one worker"
docker kill "${workers[0]}" >/dev/null
call "${workers[1]}"
echo "compose-test: passed"
