"""The point-in-time join of the benchmark, by DuckDB or Polars, on the same Parquet files.

Both give what Hydrant gives: of rows with one key and time the later one counts, a row expires
after the ttl, and the answer is in the spine's order. It never reads anything but these files, and
prints one JSON object: seconds of each run, peak memory, and sums by which the answers are compared.

    rivals.py duckdb|polars FOLDER SPINE THREADS RUNS arrow|parquet TTL_DAYS
"""

import json
import os
import resource
import sys
import time

engine, folder, spine, threads, runs, sink, ttl_days = sys.argv[1:]
threads, runs, ttl_days = int(threads), int(runs), int(ttl_days)
os.environ["POLARS_MAX_THREADS"] = str(threads)

VIEWS = [("member_history", "member_id"), ("ad_history", "ad_id"), ("campaign_history", "campaign_id")]
FEATURES = ["f0", "f1", "f2", "f3"]
TIME = "event_timestamp"
OUTPUT = os.path.join(folder, f"{engine}-answer.parquet")


def file(name):
    return os.path.join(folder, f"{name}.parquet")


def run_duckdb():
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"SET threads = {threads}; SET TimeZone = 'UTC'")
    columns, joins, views = ["s.*"], [], []
    for number, (view, key) in enumerate(VIEWS):
        alias = f"v{number}"
        # A careful user keeps one row per key and time: the latest.
        views.append(
            f"""{alias} AS (SELECT * EXCLUDE (seq) FROM '{file(view)}'
                QUALIFY row_number() OVER (PARTITION BY {key}, {TIME} ORDER BY seq DESC) = 1)"""
        )
        joins.append(f"ASOF LEFT JOIN {alias} ON s.{key} = {alias}.{key} AND s.{TIME} >= {alias}.{TIME}")
        fresh = f"s.{TIME} - {alias}.{TIME} <= INTERVAL {ttl_days} DAY"
        columns += [f"CASE WHEN {fresh} THEN {alias}.{name} END AS {view}__{name}" for name in FEATURES]
    query = (
        f"WITH {', '.join(views)} SELECT {', '.join(columns)} FROM '{spine}' s {' '.join(joins)} ORDER BY s.row"
    )
    if sink == "parquet":
        connection.execute(f"COPY ({query}) TO '{OUTPUT}' (FORMAT parquet, COMPRESSION snappy)")
        return None
    return connection.execute(query).to_arrow_table()


def run_polars():
    import polars

    answer = polars.scan_parquet(spine).sort(TIME)
    for view, key in VIEWS:
        # The files are in order of time and, within it, of arrival.
        rows = polars.scan_parquet(file(view)).drop("seq")
        rows = rows.unique(subset=[key, TIME], keep="last", maintain_order=True).set_sorted(TIME)
        rows = rows.rename({name: f"{view}__{name}" for name in FEATURES})
        answer = answer.join_asof(rows, on=TIME, by=key, strategy="backward", tolerance=f"{ttl_days}d")
    answer = answer.sort("row").collect()
    if sink == "parquet":
        answer.write_parquet(OUTPUT, compression="snappy")
        return None
    return answer.to_arrow()


def main():
    if engine == "duckdb":
        import duckdb as module

        run = run_duckdb
    else:
        import polars as module

        run = run_polars
    seconds = []
    for _ in range(runs):
        begun = time.perf_counter()
        answer = run()
        seconds.append(time.perf_counter() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    import pyarrow.compute
    import pyarrow.parquet

    if answer is None:
        answer = pyarrow.parquet.read_table(OUTPUT)
        os.remove(OUTPUT)
    sums = {}
    for view, _ in VIEWS:
        for name in FEATURES:
            column = answer[f"{view}__{name}"]
            sums[f"{view}__{name}"] = [pyarrow.compute.sum(column).as_py() or 0.0, column.null_count]
    told = {"seconds": seconds, "peak_bytes": peak, "rows": answer.num_rows, "sums": sums}
    print(json.dumps({**told, "version": module.__version__}))


main()
