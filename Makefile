# The named tasks of the project; CI runs the same ones.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO ?= cargo
export TRUNKLINE_STATE ?= $(CURDIR)/var

.PHONY: help run check up test lint fmt build release setup system compose compose-test bpf fuzz bench soak clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

build: ## debug build of everything
	$(CARGO) build --workspace --all-targets --locked

release: ## optimised binaries
	$(CARGO) build --workspace --bins --release --locked

run: release ## build, start control plane and worker here, make a test call, stay up
	target/release/trunkline up --state-dir $(TRUNKLINE_STATE) --check

check: release ## the same, then stop; exit status of the test call
	target/release/trunkline up --state-dir $(TRUNKLINE_STATE) --check --exit

setup: ## Debian packages the tests use
	tests/setup.sh

test: setup lint ## everything: lint, unit, property, simulation, corpora, system tests
	tests/run.sh

lint: ## formatting and clippy, as CI sees them
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

fmt: ## format the code
	$(CARGO) fmt --all

bpf: ## build the BPF object of the media plane from its source (clang 16)
	data-plane/worker/bpf/build.sh

fuzz: ## explore with cargo-fuzz for FUZZ_SECONDS (60) a target
	data-plane/fuzz/explore.sh $${FUZZ_SECONDS:-60}

bench: ## measure against Kamailio and rtpengine: WORK (all), ROUNDS (3), WINDOW (6 s); writes bench/results
	tests/bench/setup.sh
	tests/bench/run.sh

soak: ## MINUTES (60) of calls and registrations at half the maximum rate: memory flat, nothing failed, nothing left
	tests/bench/setup.sh
	tests/bench/soak.sh

compose: ## start a cluster of WORKERS (2) with docker compose
	if docker compose version >/dev/null 2>&1; then compose="docker compose"; else compose=docker-compose; fi; \
	$$compose up --build --detach --scale data-plane=$${WORKERS:-2}

compose-test: ## build the image, run a cluster, call through it, kill a worker, scale it
	tests/compose/run.sh

clean: ## remove build output and local state
	$(CARGO) clean
	rm -rf var
