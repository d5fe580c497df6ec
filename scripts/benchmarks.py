"""Writes the figures of benchmark runs into BENCHMARKS.md and README.md, between their marks.

    scripts/benchmarks.py target/benchmarks/online.jsonl ...

Each file holds what one benchmark printed: a line about machine, versions and settings, then a line for
each row of a table. Where a part of a benchmark was run again, its output is appended to the file: a
run's parts replace those of the runs before it, all rows of a part together. The text around the marks
is written by people and stays as it is.
"""

import json
import pathlib
import sys

from promises import PROMISES

TOP = pathlib.Path(__file__).parent.parent
PAGE = ("BENCHMARKS.md", "<!-- figures: written by make bench -->", "<!-- end of figures -->")
README = ("README.md", "<!-- performance: written by make bench -->", "<!-- end of performance -->")

PROMISED, NOT_MEASURED = "against the promises", "not measured"
# What every run of a benchmark does before its parts: no reason to forget what another run told of it.
LOADING = "loading"
# Of a row, what is no figure.
PLACE = ("benchmark", "part", "table")
PLACE_OF_FAILURE = ("benchmark", "table")


def listed(values):
    return ", ".join(f"{name} {value}" for name, value in values.items())


def cell(value):
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value).replace("\n", " ").replace("|", "\\|")
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:g}"


def table(title, rows):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {name for name in columns if any(isinstance(row.get(name), (int, float)) for row in rows)}
    lines = [f"**{title}**", "", "| " + " | ".join(columns) + " |"]
    lines.append("|" + "|".join("---:" if name in numeric else "---" for name in columns) + "|")
    lines += ["| " + " | ".join(cell(row.get(name)) for name in columns) + " |" for row in rows]
    return lines + [""]


def runs_of(text):
    """The runs in a file, each its head and its rows. The last line of a run that was interrupted may
    be there in part; then it is left out."""
    lines = [line for line in text.splitlines() if line.strip()]
    runs = []
    for number, line in enumerate(lines):
        try:
            read = json.loads(line)
        except json.JSONDecodeError:
            if number + 1 < len(lines) and "machine" not in json.loads(lines[number + 1]):
                raise
            continue
        if "machine" in read:
            runs.append((read, []))
        else:
            runs[-1][1].append(read)
    return runs


def merged(runs):
    """The rows that count, each with the number of its run."""
    counted = []
    for number, (_, rows) in enumerate(runs):
        parts = {row.get("part") for row in rows} - {LOADING}
        loaded = {row["table"] for row in rows if row.get("part") == LOADING}
        counted = [
            (of_run, row)
            for of_run, row in counted
            if row.get("part") not in parts and not (row.get("part") == LOADING and row["table"] in loaded)
        ]
        counted += [(number, row) for row in rows]
    return counted


class Benchmark:
    """What one benchmark told."""

    def __init__(self, path):
        self.runs = runs_of(pathlib.Path(path).read_text())
        self.name = self.runs[0][0]["benchmark"]
        rows = merged(self.runs)
        self.parts = [list(dict.fromkeys(row.get("part") for run, row in rows if run == number)) for number in range(len(self.runs))]
        self.tables = {}
        for _, row in rows:
            place = PLACE if row["table"] != NOT_MEASURED else PLACE_OF_FAILURE
            figures = {name: value for name, value in row.items() if name not in place}
            self.tables.setdefault(row["table"], []).append(figures)
        self.failed = {row["part"]: row["why"] for _, row in rows if row["table"] == NOT_MEASURED}

    def measured(self, part):
        return any(part in parts for parts in self.parts)

    def figure(self, title, column, **wanted):
        """The first figure of a table in a row with these values."""
        rows = [row for row in self.tables.get(title, []) if all(row.get(name) == value for name, value in wanted.items())]
        return cell(rows[0].get(column)) if rows else ""

    def chapter(self):
        lines = [f"## {self.name}", ""]
        told = None
        for number, (head, _) in enumerate(self.runs):
            parts = [part for part in self.parts[number] if part not in (None, LOADING)]
            if number > 0 and not parts:
                continue
            command = f"cargo bench --bench {self.name}" + (f" -- {head['arguments']}" if head["arguments"] else "")
            machine = head["machine"]
            again = f" Of it: {', '.join(parts)}." if len(self.runs) > 1 else ""
            lines += [f"`{command}`, {head['date']}, load average at the start {machine['load_average']}.{again}", ""]
            stands = (
                f"Versions: {listed(head['versions'])}. Settings: {listed(head['settings'])}.\n\n"
                f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}."
            )
            if stands != told:
                lines += [stands, ""]
                told = stands
        first = {NOT_MEASURED: 0}
        for title, rows in sorted(self.tables.items(), key=lambda of_table: first.get(of_table[0], 1)):
            if title != PROMISED:
                lines += table(title, rows)
        return lines


def why_not(benchmarks, promise):
    """Why a promise was not measured."""
    benchmark = benchmarks.get(promise.benchmark)
    if benchmark is None:
        return f"the benchmark {promise.benchmark} was not run"
    if promise.part in benchmark.failed:
        return benchmark.failed[promise.part]
    if promise.part and not benchmark.measured(promise.part):
        return f"the part {promise.part} was not run"
    return "the run left it out, or ended before it"


def promises(benchmarks):
    """Every promise: as it was measured, or why it was not. None is absent."""
    told = {}
    for benchmark in benchmarks.values():
        for row in benchmark.tables.get(PROMISED, []):
            told[row["of"], row["what"]] = row
    rows = []
    for promise in PROMISES:
        row = told.pop((promise.of, promise.what), None)
        if row and row["promised"] != promise.promised:
            where = f"{promise.of}: {promise.what}"
            sys.exit(f"benchmarks: {where} was held against '{row['promised']}'; promises.py has '{promise.promised}'")
        unmeasured = {"of": promise.of, "what": promise.what, "measured": None, "promised": promise.promised}
        rows.append(row or {**unmeasured, "kept": f"not measured: {why_not(benchmarks, promise)}"})
    rows += told.values()
    verdicts = [row["kept"] for row in rows]
    unmeasured = sum(verdict not in ("yes", "no") for verdict in verdicts)
    counts = f"{verdicts.count('yes')} promises are kept, {verdicts.count('no')} are not, {unmeasured} are not measured."
    return ["## Promises", "", counts, "", *table(PROMISED, rows)]


def three_lines(benchmarks):
    """What a reader would ask for first, for the README."""

    def told(benchmark, title, column, unit, **wanted):
        figure = benchmark in benchmarks and benchmarks[benchmark].figure(title, column, **wanted)
        return f"{figure} {unit}" if figure else "not measured"

    def closed(workload, system, column):
        title = f"{workload}: closed loop, 16 requests under way, CPU a request"
        return told("online", title, column, "µs", keys="uniform", system=system)

    def in_time():
        title = "ads: open loop, latency from the intended start"
        wanted = {"keys": "uniform", "system": "hydrant", "share of highest": "50 %"}
        p50, p99 = (told("online", title, column, "µs", **wanted) for column in ("p50 µs", "p99 µs"))
        rate = "online" in benchmarks and benchmarks["online"].figure(title, "sent/s", **wanted)
        return f"p50 {p50} and p99 {p99} at half of its highest rate" + (f" ({rate} a second, one core)" if rate else "")

    def join(system, column, unit):
        wanted = {"system": system, "answer as": "arrow"}
        return told("historical", "point-in-time join S", column, unit, **wanted)

    systems = [row["system"] for row in rows_of(benchmarks, "historical", "point-in-time join S")]
    duckdb, polars = (next((system for system in systems if system.startswith(name)), name) for name in ("duckdb", "polars"))
    spine, history = sizes(benchmarks)
    hydrant, seconds, memory = "hydrant over Flight to Python", "seconds", "peak memory MiB"
    head = benchmarks["online"].runs[-1][0] if "online" in benchmarks else {}
    keys = head.get("settings", {}).get("keys of each view")
    among = f", among {keys:,} keys" if keys else ""
    heads = (benchmark.runs[-1][0]["machine"] for benchmark in benchmarks.values())
    cores = sorted({machine["cores"] for machine in heads})
    return [
        f"| on {' or '.join(map(str, cores))} cores of one machine | Hydrant | beside it |",
        "|---|---|---|",
        f"| an ad request: 100 candidates, a member, a context, 50 features from 3 views{among}; CPU of server and "
        f"client, rows in the row cache | {closed('ads', 'hydrant, rows in the row cache', 'both CPU µs')}; {in_time()} "
        f"| Redis HMGET {closed('ads', 'Redis HMGET pipelined', 'both CPU µs')}, "
        f"Redis with rows packed by hand {closed('ads', 'Redis MGET packed', 'both CPU µs')} |",
        f"| 10 features of one key{among}; CPU of the server, rows in the row cache "
        f"| {closed('point', 'hydrant, rows in the row cache', 'server CPU µs')} "
        f"| a bare gRPC server that answers the same bytes {closed('point', 'bare tonic', 'server CPU µs')} |",
        f"| a training set: {spine} rows against {history} of history, over the network protocol "
        f"| {join(hydrant, seconds, 's')}, {join(hydrant, memory, 'MiB')} "
        f"| in process: DuckDB {join(duckdb, seconds, 's')}, {join(duckdb, memory, 'MiB')}; "
        f"Polars {join(polars, seconds, 's')}, {join(polars, memory, 'MiB')} |",
    ]


def sizes(benchmarks):
    """Rows of the training set's spine, and of the history that it is joined with, in words."""
    settings = benchmarks["historical"].runs[-1][0]["settings"] if "historical" in benchmarks else {}
    scale = settings.get("scale", 1)
    millions = (scale, 15 * scale)
    return tuple(f"{count:g} million" for count in millions)


def rows_of(benchmarks, benchmark, title):
    return benchmarks[benchmark].tables.get(title, []) if benchmark in benchmarks else []


def write(place, lines):
    name, begin, end = place
    text = (TOP / name).read_text()
    before, rest = text.split(begin)
    _, after = rest.split(end)
    body = "\n".join(lines).strip()
    (TOP / name).write_text(f"{before}{begin}\n\n{body}\n\n{end}{after}")


def main(paths):
    benchmarks = {}
    for path in paths:
        benchmark = Benchmark(path)
        benchmarks[benchmark.name] = benchmark
    chapters = [line for benchmark in benchmarks.values() for line in benchmark.chapter()]
    write(PAGE, promises(benchmarks) + chapters)
    write(README, three_lines(benchmarks))


if __name__ == "__main__":
    main(sys.argv[1:])
