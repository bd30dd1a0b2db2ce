# pgmesh: build, test and try it. `make` alone lists the targets.
# Everything a target needs is installed by .ci/setup; where things are kept, and the environment of a build, is said in .ci/env.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

export PGMESH_CACHE := $(shell .ci/cache)
stage := @.ci/stage
# Rounds of killing a node (tests/tests/kill.rs, mesh_kill.rs): few in every run, many in test-all.
ROUNDS ?= 5
PREFIX ?= /usr/local
# Tests at a time: half of what they do is waiting for disks and for each other.
THREADS ?= $(shell echo $$(( $$(nproc) * 2 )))
# Cargo's own progress bar on a terminal; in a log only warnings.
quiet := $(shell [ -t 2 ] || echo --quiet)
# Executions of each fuzz target: some minutes.
RUNS ?= 4000000

# The crates with examples in their documentation.
EXAMPLES := -p pgmesh-client -p pgmesh-protocol -p pgmesh-postgres -p pgmesh-storage

.PHONY: help setup build release install demo test test-all test-unit test-e2e stored-mesh bench fuzz lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

setup: ## install what the tests need (Debian packages, tools), compile RocksDB once
	@.ci/setup build test

build: ## build the pgmesh program for trying and testing: quick to build, a quarter of the speed (`make release` is the fast one)
	@.ci/setup build
	$(stage) 'build (profile dev)' cargo build --locked -p pgmesh-cli
	@.ci/env bash -c 'echo "$$CARGO_TARGET_DIR/debug/pgmesh, profile dev: not for production; make release builds the fast one"'

release: ## build the pgmesh program as it is installed: optimised, stripped, debug information in a file of its own
	@.ci/setup build
	$(stage) 'build (profile dist)' cargo build --locked --profile dist -p pgmesh-cli
	@.ci/env .ci/strip

install: release ## install what `make release` built: PREFIX=/usr/local (DESTDIR is heeded)
	@.ci/env .ci/install '$(DESTDIR)$(PREFIX)'

demo: ## three nodes and a real PostgreSQL, faults before your eyes; S3=1: one repository in a bucket, KEEP=1: leaves it running
	@.ci/setup build $(if $(S3),s3)
	@# The program and the demo, and no other of the workspace's programs and tests.
	$(stage) 'build (once for the machine: about 5 minutes)' cargo build $(quiet) --locked -p pgmesh-cli -p pgmesh-tests --bin pgmesh --bin demo
	@.ci/env bash -c 'exec "$$CARGO_TARGET_DIR/debug/demo" $(if $(S3),--s3) $(if $(KEEP),--keep)'

lint: ## formatting, spelling, clippy, lengths and links, documentation, licences and sources of dependencies
	@.ci/setup build test
	$(stage) clones .ci/check-clone
	$(stage) format cargo fmt --all --check
	$(stage) tidy .ci/tidy
	$(stage) spelling bash -c 'exec "$$PGMESH_CACHE/tools/codespell/bin/codespell"'
	$(stage) clippy cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	$(stage) documentation env RUSTDOCFLAGS='-D warnings' cargo doc --quiet --locked --workspace --no-deps
	@# Not `advisories`: its database is a git repository, out of reach for a machine that sees only package registries.
	@# deny.toml holds what that check needs: run `cargo deny check advisories` where it can be fetched.
	$(stage) dependencies cargo deny --locked --log-level error check bans licenses sources

test: lint ## everything that must pass: lint, unit, property and end-to-end tests
	$(stage) build cargo build --quiet --locked --workspace --bins
	$(stage) examples cargo test --quiet --locked --doc $(EXAMPLES)
	$(stage) tests env PGMESH_KILL_ROUNDS=$(ROUNDS) cargo nextest run --locked --workspace --no-fail-fast --test-threads $(THREADS)

test-all: ## as test, with 50 rounds of killing nodes, faults that last longer, one more object store, Patroni, all versions of PostgreSQL
	@.ci/setup build test-all
	@PGMESH_TIMES=10 PGMESH_FILES=1000000 PGMESH_LISTED=10500 PGMESH_PAUSE_SECONDS=30 PGMESH_HISTORY_SECONDS=120 PGMESH_MEMBER_ROUNDS=20 PGMESH_INCREMENTALS=100 PGMESH_CHAIN=600 \
		PGMESH_MAJORS="14 15 16 17 18" PGMESH_PATRONI=1 \
		$(MAKE) test ROUNDS=50

test-unit: ## unit and property tests only
	@.ci/setup build test
	$(stage) unit cargo nextest run --locked --workspace --profile unit

test-e2e: ## end-to-end tests only; FILTER='test(pitr)' chooses among them
	@.ci/setup build test
	$(stage) build cargo build --quiet --locked --workspace --bins
	$(stage) end-to-end env PGMESH_KILL_ROUNDS=$(ROUNDS) cargo nextest run --locked --workspace --no-fail-fast --profile e2e $(if $(FILTER),-E '$(FILTER)')

stored-mesh: ## write the stored mesh anew that tests/tests/mesh_upgrade.rs takes up: when a format changes
	@.ci/setup build test
	@.ci/env cargo build --quiet --locked --workspace --bins
	@.ci/env bash -c 'PGMESH_PLAY_LEVEL=1 exec "$$CARGO_TARGET_DIR/debug/stored_mesh"'

bench: ## compare with Debian's pgbackrest: time, CPU, memory, stored bytes; INCR=1: incremental backups of 5 GB; SCALE=1: what a large mesh costs
	@.ci/setup build bench
	@.ci/env cargo build --quiet --locked --release --workspace --bins $(if $(SCALE),--examples)
	@.ci/env bash -c 'exec "$$CARGO_TARGET_DIR/release/bench" $(if $(INCR),--incr) $(if $(SCALE),--scale)'

fuzz: ## any bytes as WAL and as stored change maps; RUNS=100000000 for longer
	@.ci/setup build fuzz
	@.ci/env nice -n 19 .ci/fuzz $(RUNS)

clean: ## remove what the build made (RocksDB and the tools stay)
	@.ci/env bash -c 'rm -rf "$$CARGO_TARGET_DIR"'
