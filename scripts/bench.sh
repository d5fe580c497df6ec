#!/usr/bin/env bash
# Runs all benchmarks, one after the other, and writes their figures into
# BENCHMARKS.md. Arguments go to none of them: run one by itself to vary it, such as
#   cargo bench --bench online -- --keys 10000 --seconds 1
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --locked --release --workspace --bench online --bench overload --bench ingest --bench historical
out=target/benchmarks
mkdir -p "$out"
for benchmark in online overload ingest historical; do
  cargo bench --locked --workspace --bench "$benchmark" >"$out/$benchmark.jsonl"
done
.venv/bin/python scripts/benchmarks.py "$out"/{online,overload,ingest,historical}.jsonl
