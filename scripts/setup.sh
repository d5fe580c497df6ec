#!/usr/bin/env bash
# Installs what is missing to build and test Hydrant on a Debian machine that has
# git, Rust and Python 3.11. Says what it does only when there is something to do;
# run again, it changes nothing.
#
#   scripts/setup.sh            everything
#   scripts/setup.sh --build    only what building needs (no Python packages, no Redis)
set -euo pipefail
cd "$(dirname "$0")/.."

build_only=false
case "${1:-}" in
  "") ;;
  --build) build_only=true ;;
  *) echo "usage: scripts/setup.sh [--build]" >&2; exit 2 ;;
esac

fail() { echo "setup: $1" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

quietly() {  # runs a command and shows its output only if it fails
  local output
  output=$("$@" 2>&1) || { printf '%s\n' "$output" >&2; fail "'$*' failed"; }
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif has sudo; then sudo "$@"
  else fail "'$*' needs root: run as root or install sudo"
  fi
}

python() {  # the first interpreter that is new enough
  local candidate
  for candidate in python3.11 python3 python3.12 python3.13; do
    if has "$candidate" && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"; return
    fi
  done
  fail "no Python 3.11 or newer on the path"
}

install_debian_packages() {
  local missing=()
  has make || missing+=(make)
  has c++ || missing+=(g++)
  has mold || missing+=(mold)                          # the linker that .cargo/config.toml names
  # For RocksDB's bindings. libclang-cpp, which other packages bring along, doesn't do.
  compgen -G '/usr/lib/llvm-*/lib/libclang[.-][0-9s]*' >/dev/null || missing+=(libclang-dev)
  if ! $build_only; then
    has redis-server || missing+=(redis-server)        # what the benchmarks compare with
    has openssl || missing+=(openssl)                  # makes the certificates of tests
    has promtool || missing+=(prometheus)              # checks the alert rules that are shipped
    has java || missing+=(default-jre-headless)        # for Spark, which reads the history tables in tests
    "$(python)" -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
  fi
  [ ${#missing[@]} -gt 0 ] || return 0
  has apt-get || fail "please install: ${missing[*]}"
  echo "setup: installing ${missing[*]}" >&2
  quietly as_root apt-get update
  quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

install_rust_components() {
  has cargo || fail "no cargo on the path: install Rust 1.95 or newer"
  local component
  for component in fmt clippy; do
    has "cargo-$component" && cargo "$component" --version >/dev/null 2>&1 && continue
    has rustup || fail "cargo $component is missing, and there is no rustup to add it"
    echo "setup: adding cargo $component" >&2
    quietly rustup component add "${component/#fmt/rustfmt}"
  done
}

install_python_packages() {
  local wanted
  wanted=$(sha256sum <scripts/requirements.txt)
  [ "$(cat .venv/requirements.sha256 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null && return 0
  echo "setup: installing Python packages into .venv" >&2
  quietly "$(python)" -m venv --clear .venv
  quietly .venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement scripts/requirements.txt
  echo "$wanted" >.venv/requirements.sha256
}

# OpenLineage publishes its JSON schemas with no package of its own. This crate carries them, as they are,
# for its tests; it is unpacked and not built.
install_openlineage_schemas() {
  local crate=datafusion-openlineage version=0.0.12 into=.venv/openlineage-schemas
  [ "$(cat "$into/version" 2>/dev/null)" = "$version" ] && return 0
  echo "setup: unpacking OpenLineage's schemas into $into" >&2
  quietly cargo info --color never "$crate@$version"
  local schemas
  schemas=$(compgen -G "${CARGO_HOME:-$HOME/.cargo}/registry/src/*/$crate-$version/tests/schemas/openlineage" | head -1)
  [ -n "$schemas" ] || fail "$crate $version has no schemas of OpenLineage where they were"
  rm -rf "$into"
  mkdir -p "$into"
  cp "$schemas/OpenLineage.json" "$schemas"/facets/*.json "$into"
  echo "$version" >"$into/version"
}

install_debian_packages
install_rust_components
if ! $build_only; then
  install_python_packages
  install_openlineage_schemas
fi
