# Everything is built with --release and --locked, and for the whole workspace with
# what its tests need: one profile and one set of features, so that binary, example
# and tests share what takes long to compile.

CARGO_FLAGS := --locked --release --workspace

.DEFAULT_GOAL := help
.PHONY: help setup demo build test fmt lint rust-tests compat-tests bench

help:  ## this list
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "make %-14s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## install what is missing (Debian packages, Rust components, .venv)
	@scripts/setup.sh

demo:  ## the whole story on a year of real flights
	@scripts/demo.sh

build: setup  ## the binary, target/release/hydrant, and the example
	cargo build $(CARGO_FLAGS) --bin hydrant --example nycflights13

test: setup fmt lint rust-tests compat-tests  ## everything that must pass

fmt:  ## is the code formatted?
	cargo fmt --all --check

lint:  ## clippy, warnings refused
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

rust-tests: build  ## unit, integration, crash and tidy tests
	cargo test $(CARGO_FLAGS)

compat-tests: build  ## clients and engines that nobody here wrote, from Python
	.venv/bin/python -m pytest --quiet tests/compat

bench: setup  ## all benchmarks, into BENCHMARKS.md
	@scripts/bench.sh
