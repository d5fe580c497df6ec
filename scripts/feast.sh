#!/usr/bin/env bash
# Installs Feast with its Redis store for the online benchmark alone, in a virtual
# environment of its own (target/feast): no test needs it, and its packages stay
# away from those of the tests. Run again, it changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

wanted="feast[redis]==0.67.0"
[ "$(cat target/feast/wanted 2>/dev/null)" = "$wanted" ] && exit 0
mkdir -p target
python3 -m venv --clear target/feast
target/feast/bin/python -m pip install --quiet --disable-pip-version-check "$wanted"
echo "$wanted" >target/feast/wanted
