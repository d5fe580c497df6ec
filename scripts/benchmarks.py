"""Writes the figures of benchmark runs into BENCHMARKS.md, between its marks.

Each file holds what one benchmark printed: a line about machine, versions and settings, then a line
for each row of a table. The text around the marks is written by people and stays as it is.

    scripts/benchmarks.py target/benchmarks/online.jsonl ...
"""

import json
import pathlib
import sys

PAGE = pathlib.Path(__file__).parent.parent / "BENCHMARKS.md"
BEGIN, END = "<!-- figures: written by make bench -->", "<!-- end of figures -->"


def listed(values):
    return ", ".join(f"{name} {value}" for name, value in values.items())


def cell(value):
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:g}"


def table(title, rows):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {name for name in columns if any(isinstance(row.get(name), (int, float)) for row in rows)}
    lines = [f"**{title}**", "", "| " + " | ".join(columns) + " |"]
    lines.append("|" + "|".join("---:" if name in numeric else "---" for name in columns) + "|")
    lines += ["| " + " | ".join(cell(row.get(name)) for name in columns) + " |" for row in rows]
    return lines + [""]


def lines_of(text):
    """The objects of a file; of an interrupted run's last line, as far as it came, nothing."""
    lines = [line for line in text.splitlines() if line.strip()]
    whole = lines if text.endswith("\n") else lines[:-1]
    return [json.loads(line) for line in whole]


def promises_first(tables):
    """What a reader asks for first: which promises are kept; then what was not measured; then the rest."""
    order = {"against the promises": 0, "not measured": 1}
    return sorted(tables.items(), key=lambda table: order.get(table[0], 2))


def kept(rows):
    verdicts = [row["kept"] for row in rows if "kept" in row]
    if not verdicts:
        return []
    unmeasured = sum(verdict not in ("yes", "no") for verdict in verdicts)
    counts = f"{verdicts.count('yes')} promises are kept, {verdicts.count('no')} are not, {unmeasured} are not measured."
    return [counts, ""]


def chapter(path):
    head, *rows = lines_of(pathlib.Path(path).read_text())
    machine, name = head["machine"], head["benchmark"]
    command = f"cargo bench --bench {name}" + (f" -- {head['arguments']}" if head["arguments"] else "")
    lines = [f"## {name}", "", f"`{command}`, {head['date']}.", ""]
    lines += [f"Versions: {listed(head['versions'])}. Settings: {listed(head['settings'])}.", ""]
    lines += [
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}, "
        f"load average at the start {machine['load_average']}.",
        "",
    ]
    tables = {}
    for row in rows:
        figures = {name: value for name, value in row.items() if name not in ("benchmark", "table")}
        tables.setdefault(row["table"], []).append(figures)
    for title, of_table in promises_first(tables):
        lines += table(title, of_table) + kept(of_table)
    return lines


def main(paths):
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    figures = "\n".join(line for path in paths for line in chapter(path))
    PAGE.write_text(f"{before}{BEGIN}\n\n{figures}\n{END}{after}")


main(sys.argv[1:])
