#!/usr/bin/env bash
# Runs all benchmarks, one after the other, and writes their figures into BENCHMARKS.md
# and README.md, also those of a benchmark that fails or is interrupted halfway: each
# figure is in target/benchmarks as soon as it was measured. The files of the run
# before are kept beside them (*.previous).
#
#   scripts/bench.sh                                       all of them
#   scripts/bench.sh ingest historical                     some
#   scripts/bench.sh online --keys 100000 --seconds 1      one, with its options
#   scripts/bench.sh --again online --parts disk,feast     some parts of one once more:
#       what they print is appended, and takes the place of those parts on the page
set -euo pipefail
cd "$(dirname "$0")/.."

all=(online admission access ingest historical)
out=target/benchmarks
mkdir -p "$out"

again=false
if [ "${1:-}" = --again ]; then again=true; shift; fi
benchmarks=() options=()
while [ $# -gt 0 ]; do
  case "$1" in
    -*) options=("$@"); break ;;
    *) benchmarks+=("$1"); shift ;;
  esac
done
if [ ${#options[@]} -gt 0 ] && [ ${#benchmarks[@]} -ne 1 ]; then
  echo "bench: options are those of one benchmark: name it" >&2
  exit 2
fi
[ ${#benchmarks[@]} -gt 0 ] || benchmarks=("${all[@]}")

write_page() {
  local files=() benchmark
  for benchmark in "${all[@]}"; do
    [ -s "$out/$benchmark.jsonl" ] && files+=("$out/$benchmark.jsonl")
  done
  [ ${#files[@]} -eq 0 ] || .venv/bin/python scripts/benchmarks.py "${files[@]}"
}
trap write_page EXIT

# On two cores, with what each does by default; online reckons for its own options too.
declare -A minutes=([online]=23 [admission]=2 [access]=1 [ingest]=2 [historical]=18)
if [ ${#options[@]} -eq 0 ]; then
  total=0
  for benchmark in "${benchmarks[@]}"; do total=$((total + ${minutes[$benchmark]:-0})); done
  echo "bench: this takes about $total minutes once it is built, with two cores for itself" >&2
fi

cargo build --locked --release --workspace "${all[@]/#/--bench=}"
# Without it the page says that Feast was not measured, and why.
scripts/feast.sh || echo "bench: Feast can't be installed here" >&2
failed=0
for benchmark in "${benchmarks[@]}"; do
  file="$out/$benchmark.jsonl"
  if $again && [ -s "$file" ]; then
    [ -z "$(tail -c 1 "$file")" ] || echo >>"$file"      # after a line that was cut off
  elif [ -s "$file" ]; then
    mv "$file" "$file.previous"
  fi
  cargo bench --locked --workspace --bench "$benchmark" -- ${options[@]+"${options[@]}"} >>"$file" || failed=1
  # One that didn't begin, as for an option that it doesn't know, takes nothing from the page.
  if [ ! -s "$file" ] && [ -e "$file.previous" ]; then mv "$file.previous" "$file"; fi
done
exit "$failed"
