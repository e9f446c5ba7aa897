#!/usr/bin/env bash
# Builds the image and runs one control plane with two workers by docker compose: both have to be in step and take calls,
# and one of them has to go on when the other is killed. Afterwards the cluster is scaled to three, the killed one among
# them. Leaves nothing running; the images stay, so that the next build is short.
#
# Needs root on Debian where Docker is missing, its engine is not running, or no image registry can be reached.
set -euo pipefail
cd "$(dirname "$0")/../.."

project=trunkline-test
# Any free port of this machine: the cluster of somebody at work here has the usual one.
export TRUNKLINE_API_PORT=0
out=target/compose
mkdir -p "$out"

say() { echo "compose-test: $*"; }
compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose --project-name "$project" "$@"
    else
        docker-compose --project-name "$project" "$@"
    fi
}
fail() {
    trap - ERR
    say "$*" >&2
    compose ps >&2 || true
    compose logs --tail=50 >&2 || true
    exit 1
}
trap 'fail "failed in line $LINENO: $BASH_COMMAND"' ERR

# Waits until a command succeeds, for so many seconds at most.
until_ok() {
    local bound=$1 what=$2
    shift 2
    local end=$((SECONDS + bound))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "$what: not within $bound s"
        sleep 0.2
    done
}

engine=""
finish() {
    local status=$?
    compose down --volumes --timeout 5 >/dev/null 2>&1 || true
    if [ -n "$engine" ]; then
        kill "$engine" 2>/dev/null || true
        wait "$engine" 2>/dev/null || true
    fi
    exit "$status"
}
trap finish EXIT

# --- Docker ---

install() {
    say "installing $*"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$out/install.log"
}
command -v docker >/dev/null || install docker.io
docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null || install docker-compose
if ! docker info >/dev/null 2>&1; then
    dockerd >"$out/dockerd.log" 2>&1 &
    engine=$!
    until_ok 60 "start of the Docker engine" docker info
fi

# --- Base images: from a registry, or else made of Debian's packages and the toolchain here ---

have_image() { docker image inspect "$1" >/dev/null 2>&1 || docker pull --quiet "$1" >/dev/null 2>&1; }

make_debian() {
    say "no registry: making debian:bookworm-slim"
    command -v debootstrap >/dev/null || install debootstrap
    local root=$out/debian
    rm -rf "$root"
    debootstrap --variant=minbase bookworm "$root" >"$out/debootstrap.log"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar -C "$root" --one-file-system -c . | docker import - debian:bookworm-slim >/dev/null
    rm -rf "$root"
}
make_rust() {
    say "no registry: making rust:1.95-bookworm"
    local context=$out/rust sysroot
    sysroot=$(rustc --print sysroot)
    rm -rf "$context"
    mkdir -p "$context/toolchain/bin" "$context/certificates"
    cp -a "$sysroot/lib" "$context/toolchain/"
    cp -a "$sysroot/bin/cargo" "$sysroot/bin/rustc" "$context/toolchain/bin/"
    # An authority that this machine was told to trust is one the build meets on its way out.
    find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$context/certificates/" \; 2>/dev/null || true
    docker build --quiet --tag rust:1.95-bookworm --file tests/compose/rust.Dockerfile "$context" >/dev/null
    rm -rf "$context"
}
have_image debian:bookworm-slim || make_debian
have_image rust:1.95-bookworm || make_rust

say "building the image (log: $out/build.log)"
proxies=()
for name in http_proxy https_proxy no_proxy; do
    [ -z "${!name:-}" ] || proxies+=(--build-arg "$name")
done
compose build "${proxies[@]}" >"$out/build.log" 2>&1 || { tail -n 40 "$out/build.log" >&2 && fail "the image does not build"; }

# --- The cluster ---

# Unquoted on purpose where they are used: lists of container ids.
workers() { compose ps -q data-plane; }
health() { docker inspect --format '{{.State.Health.Status}}' "$1"; }
all_healthy() {
    local wanted=$1 healthy=0 id
    for id in $(workers); do
        [ "$(health "$id")" != healthy ] || healthy=$((healthy + 1))
    done
    [ "$healthy" = "$wanted" ]
}
address() { docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$1"; }
trunkline() { compose exec -T control-plane trunkline "$@"; }
# A worker is called after its host, which is the beginning of the container's id; `w-` goes before a digit.
has_a_call() { trunkline workers | awk -v name="^workers/(w-)?${1:0:12}$" '$1 ~ name && $5 == 1 { found = 1 } END { exit !found }'; }
call_through() { # container, seconds
    trunkline check --udp-only --sip "udp:$(address "$1"):8060" --talk "$2"
}

say "starting a control plane and two workers"
compose up --detach --scale data-plane=2 >"$out/up.log" 2>&1 || { cat "$out/up.log" >&2 && fail "the cluster does not start"; }
until_ok 60 "two healthy workers" all_healthy 2

for id in $(compose ps -q); do
    status=$(docker exec "$id" cat /proc/1/status)
    awk '/^Uid:/ && $3 == 0 || /^Cap(Eff|Prm|Bnd):/ && $2 !~ /^0+$/ { exit 1 }' <<<"$status" ||
        fail "a process has privileges: $status"
done

trunkline examples
trunkline workers --wait 2
mapfile -t ids < <(workers)
for id in "${ids[@]}"; do
    call_through "$id" 3 || fail "no call through worker ${id:0:12}"
done

say "killing one worker during a call through the other"
killed=${ids[0]} spared=${ids[1]}
call_through "$spared" 8 >"$out/during.log" 2>&1 &
during=$!
until_ok 15 "a call on the spared worker" has_a_call "$spared"
docker kill "$killed" >/dev/null
wait "$during" || { cat "$out/during.log" >&2 && fail "the call through the spared worker did not survive"; }
cat "$out/during.log"
[ "$(docker inspect --format '{{.State.Running}}' "$killed")" = false ] || fail "the killed worker runs"
call_through "$spared" 3 || fail "no new call through the spared worker"
trunkline workers

say "scaling to three, the killed one among them"
compose up --detach --no-recreate --scale data-plane=3 >>"$out/up.log" 2>&1 || { cat "$out/up.log" >&2 && fail "the cluster does not scale"; }
until_ok 60 "three healthy workers" all_healthy 3
trunkline workers --wait 3
# The killed one came back with the identity on its volume: a fourth would be a new one in its place.
[ "$(trunkline workers | grep -c '^ *workers/')" = 3 ] || fail "there are not three workers"
for id in $(workers); do
    [ "$id" = "$spared" ] || call_through "$id" 3 || fail "no call through worker ${id:0:12}"
done

say "passed"
