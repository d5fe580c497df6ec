# Everything is built with --release and --locked: one profile, so that tests and
# binary share what takes long to compile.

CARGO_FLAGS := --locked --release

.DEFAULT_GOAL := help
.PHONY: help setup demo build test fmt lint rust-tests compat-tests

help:  ## this list
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "make %-14s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## install what is missing (Debian packages, Rust components, .venv)
	@scripts/setup.sh

demo:  ## the whole story on a year of real flights
	@scripts/demo.sh

build: setup  ## the binary: target/release/hydrant
	cargo build $(CARGO_FLAGS) --bin hydrant

test: setup fmt lint rust-tests compat-tests  ## everything that must pass

fmt:  ## is the code formatted?
	cargo fmt --all --check

lint:  ## clippy, warnings refused
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings

rust-tests: build  ## unit, integration, crash and tidy tests
	cargo test $(CARGO_FLAGS) --workspace

compat-tests: build  ## clients and engines that nobody here wrote, from Python
	.venv/bin/python -m pytest --quiet tests/compat
