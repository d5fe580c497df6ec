"""Every promise of the table "Online reads at the limit of the machine", and what else the benchmarks
promise: what it is measured on, where, and its bound. The page lists each of them, also one that a run
did not measure. The names are those that the benchmarks print (`benches/`); a row that a benchmark prints
beside these is shown after them.
"""

from typing import NamedTuple, Optional


class Promise(NamedTuple):
    benchmark: str
    part: Optional[str]
    of: str
    what: str
    promised: str


WORKLOADS, CHOICES = ("point", "wide", "ads", "ads500"), ("uniform", "zipf 0.99")
WITHOUT, WITH = "hydrant, no row cache", "hydrant, rows in the row cache"
AS_MATRIX = f"{WITH}, as a matrix"
# CPU of server and client against Redis: for HMGET, and for packed rows.
AGAINST_REDIS = {
    ("ads", "uniform"): ("at most 0.5", "at most 2.5"),
    ("ads", "zipf 0.99"): ("at most 0.5", "at most 1.5"),
    ("wide", "uniform"): ("at most 1", "at most 2.5"),
    ("wide", "zipf 0.99"): ("at most 1", "at most 2.5"),
}
HALF_P99 = {"point": "under 1000", "ads": "under 3000", "ads500": "under 8000"}
UNDER_WRITES = "ads, uniform, 25 %, under 20,000 rows/s with compaction"


def online(part, of, what, promised):
    return Promise("online", part, of, what, promised)


def cpu():
    for workload in WORKLOADS:
        for keys in CHOICES:
            for system, factor in ((WITHOUT, 1.3), (WITH, 0.4), (AS_MATRIX, None)):
                of = f"{workload}, {keys}, {system}"
                if factor:
                    yield online("cpu", of, f"server CPU / (bare tonic's + {factor} × multi-get)", "at most 1")
                hashes, packed = AGAINST_REDIS.get((workload, keys), (None, None))
                if hashes and (keys == "uniform" or system != WITHOUT):
                    yield online("cpu", of, "CPU of both / Redis HMGET pipelined", hashes)
                    yield online("cpu", of, "CPU of both / Redis MGET packed", packed)


def latency():
    for workload, promised in HALF_P99.items():
        for keys in CHOICES:
            of = f"{workload}, {keys}"
            if workload == "point":
                yield online("latency", of, "highest rate / bare tonic's", "at least 0.7")
                yield online("latency", of, "p99 at 50 % / bare tonic's", "at most 2")
            yield online("latency", of, "p99 at 50 %, µs", promised)


def under_load():
    for of in (f"{UNDER_WRITES}, without a backup", f"{UNDER_WRITES}, while backups are made"):
        yield online("writes", of, "rows/s acknowledged / 20,000", "at least 0.98")
        yield online("writes", of, "p99, µs", "under 10000")
        yield online("writes", of, "p99.9, µs", "under 20000")
    of = "ads, uniform, 25 %, while history is loaded by a backfill"
    yield online("backfill", of, "p99, µs", "under 10000")
    for workload in ("point", "ads"):
        of = f"{workload}, uniform, data 10 times the block cache, direct I/O"
        yield online("disk", of, "p99 at 50 %, µs", "under 10000")
    of = "ads, uniform, 150 % of the highest rate"
    yield online("overload", of, "answered/s / best", "at least 0.8")
    yield online("overload", of, "p99 of what was admitted, µs", "under 10000")
    yield online("overload", of, "share of the refusals with RetryInfo", "at least 1")
    for workload in ("point", "ads"):
        for keys in ("zipf 1.2", "one key in half of the requests"):
            what = "requests/s / those with uniform keys (1, less noise)"
            yield online("bursts", f"{workload}, {keys}", what, "at least 0.95")
    what = "ms until p99 is within 2 × of what it is at that rate"
    yield online("bursts", "ads, uniform, a tenfold step in rate", what, "at most 1000")


def services():
    of = "ads, uniform, 10 services in one request"
    yield online("services", of, "server CPU / that of the one service", "at most 2")
    yield online("services", of, "CPU of both / that of the one service", "at most 2")


def others():
    what = "p99 beside a neighbour at 10 times its share / beside one within it"
    yield online("tenants", "ads, uniform, two tenants over the network", what, "at most 1.5")
    yield Promise("admission", None, "two tenants at the queue, in process", what, "at most 1.5")
    what = "an API key recognized, CPU µs more than without"
    yield Promise("access", None, "who is calling, in process", what, "at most 5")
    what = "rows/s / those of a synced RocksDB WriteBatch"
    yield Promise("ingest", None, "batches of 100 rows", what, "at least 0.5")


def joins():
    def told(workload, what, promised, sink="arrow"):
        return Promise("historical", workload, f"join {workload}, answer as {sink}", what, promised)

    for sink in ("arrow", "parquet"):
        yield told("S", "duckdb's seconds / Hydrant's", "at least 4", sink)
        yield told("S", "polars's seconds / Hydrant's", "at least 3", sink)
    inside = "seconds inside the server / a plain scan of the columns"
    yield told("S", inside, "at most 4")
    yield told("S", "seconds from the spine's last byte to the first rows", "under 1")
    yield told("skew", "seconds / those of S", "at most 1.5")
    yield told("M", "duckdb's seconds / Hydrant's", "at least 8")
    yield told("M", "peak memory / DuckDB's", "at most 0.25")
    yield told("M", inside, "at most 4")
    yield told("M", "from the spine's last byte to the first rows / the whole", "at most 0.9")
    yield told("small", "seconds", "under 1")
    yield told("L", "memory that the server took for it, GiB", "at most 1")
    yield told("L", "rows of spine and history a second / those of M", "at least 0.7")
    yield told("L", "exponent of the seconds by rows of spine and history, from S", "at most 1.1")


PROMISES = [*cpu(), *latency(), *under_load(), *services(), *others(), *joins()]
