#!/usr/bin/env bash
# Runs all benchmarks, one after the other, and writes their figures into
# BENCHMARKS.md, also those of a benchmark that fails or is interrupted halfway: each
# figure is in target/benchmarks as soon as it was measured. The files of the run
# before are kept beside them (*.previous). Arguments name the benchmarks to run; run
# one by itself to vary it, such as
#   cargo bench --bench online -- --keys 10000 --seconds 1 --parts cpu
set -euo pipefail
cd "$(dirname "$0")/.."

benchmarks=("$@")
[ ${#benchmarks[@]} -gt 0 ] || benchmarks=(online overload ingest historical)
out=target/benchmarks
mkdir -p "$out"

write_page() {
  local files=() benchmark
  for benchmark in online overload ingest historical; do
    [ -s "$out/$benchmark.jsonl" ] && files+=("$out/$benchmark.jsonl")
  done
  [ ${#files[@]} -eq 0 ] || .venv/bin/python scripts/benchmarks.py "${files[@]}"
}
trap write_page EXIT

cargo build --locked --release --workspace --bench online --bench overload --bench ingest --bench historical
# Without it the page says that Feast was not measured, and why.
scripts/feast.sh || echo "bench: Feast can't be installed here" >&2
failed=0
for benchmark in "${benchmarks[@]}"; do
  [ ! -s "$out/$benchmark.jsonl" ] || mv "$out/$benchmark.jsonl" "$out/$benchmark.jsonl.previous"
  cargo bench --locked --workspace --bench "$benchmark" >"$out/$benchmark.jsonl" || failed=1
done
exit "$failed"
