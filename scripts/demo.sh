#!/usr/bin/env bash
# The whole story on real data, from nothing: installs what is missing, builds,
# and runs examples/nycflights13, which cleans up after itself, also on Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh --build
cargo build --locked --release --workspace --bin hydrant --example nycflights13
exec "${CARGO_TARGET_DIR:-target}/release/examples/nycflights13" "$@"
