"""The history tables, opened by engines that know Delta Lake and not Hydrant: deltalake, Polars and
DuckDB. What was ingested is there once, with its tombstones, whatever landed when.
"""

import time
import urllib.request

import duckdb
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from columns import HOUR, INSTANT, NOON, now, strings, weather
from server import DEFINITIONS, Server

KEYS = pa.schema([("origin", pa.string())])
TABLE = "history/default/airport_weather/v1"

# Beside the join keys and the features.
SYSTEM_COLUMNS = {
    "_slot": "int32",
    "_key": "binary",
    "_event_time": "timestamp[us, tz=UTC]",
    "_known_time": "timestamp[us, tz=UTC]",
    "_ingest_time": "timestamp[us, tz=UTC]",
    "_frame": "int64",
    "_ordinal": "int32",
    "_revision": "int64",
    "_feature_count": "int32",
    "_deleted": "bool",
}

WITH_RAIN = """
apiVersion: hydrant/v1
kind: Source
metadata: {name: weather}
spec:
  type: push
  eventTime: event_timestamp
  knownTime: event
  columns:
    - {name: origin, type: string}
    - {name: event_timestamp, type: timestamp}
    - {name: temp, type: float64}
    - {name: wind_speed, type: float64}
    - {name: note, type: string}
    - {name: rain, type: float32}
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: airport_weather}
spec:
  entities: [airport]
  source: weather
  ttl: 3h
  features:
    - {name: temp}
    - {name: wind, column: wind_speed, default: 0.0}
    - {name: note}
    - {name: rain, default: 9.0}
"""


def rows(start, count):
    """Ten airports, each with a row a minute; every seventh temperature is null."""
    return weather(
        [
            (f"T{n % 10}", NOON + n // 10 * 60_000_000, None if n % 7 == 0 else n / 2, float(n), f"note {n}")
            for n in range(start, start + count)
        ]
    )


def query(sql, **parameters) -> list:
    return duckdb.execute(sql, parameters).fetchall()


def wait_until_landed(server, view="airport_weather", feature="temp"):
    server.wait_until_landed(f"{view}:{feature}", key_columns=KEYS)


@pytest.fixture(scope="module")
def landed(tmp_path_factory):
    """A server whose rows have landed in several commits: rows, deletions, a feature added."""
    folder = tmp_path_factory.mktemp("landed")
    server = Server(folder, landing__interval="1s").start()
    try:
        server.apply(DEFINITIONS)
        server.put("weather", rows(0, 2_000))
        wait_until_landed(server)
        server.put("weather", rows(2_000, 500))
        server.api.unary(
            "hydrant.v1.IngestService",
            "Delete",
            view="airport_weather",
            keys=[strings("origin", ["T0", "T1", "T2"])],
            event_times=[NOON + 5 * HOUR],
        )
        wait_until_landed(server)
        first = DeltaTable(server.data / TABLE).version()

        (folder / "more").mkdir()
        (folder / "more/rain.yaml").write_text(WITH_RAIN)
        server.apply(folder / "more")
        wet = rows(2_500, 100).append_column("rain", pa.array([n / 8 for n in range(100)], pa.float32()))
        server.put("weather", wet)
        wait_until_landed(server)
        yield server, first
        server.stop()
    finally:
        server.close()


def test_deltalake_and_polars_and_duckdb_count_and_sum_what_was_ingested(landed):
    server, _ = landed
    table = DeltaTable(server.data / TABLE)
    expected = (2_603, 3, sum(n / 2 for n in range(2_600) if n % 7), sum(range(2_600)))

    read = table.to_pyarrow_table()
    sums = [pc.sum(read[name]).as_py() for name in ("_deleted", "temp", "wind")]
    assert (read.num_rows, *sums) == expected

    scanned = polars.scan_delta(str(server.data / TABLE)).select(
        polars.len(), polars.col("_deleted").sum(), polars.col("temp").sum(), polars.col("wind").sum()
    )
    assert scanned.collect().row(0) == expected

    files = table.file_uris()
    counted = query(
        "select count(*), sum(_deleted::int), sum(temp), sum(wind) from read_parquet($files, union_by_name = true)",
        files=files,
    )
    assert counted == [expected]
    assert len(files) >= 3 and table.version() >= 2, "they landed in several commits"


def test_the_newest_row_of_each_key_by_the_tables_columns_is_what_training_gives(landed):
    server, _ = landed
    at = NOON + HOUR
    newest = query(
        """
        select origin, temp, epoch_us(_event_time)
        from read_parquet($files, union_by_name = true)
        where epoch_us(_event_time) <= $at and epoch_us(_known_time) <= $at and not _deleted
        qualify row_number() over (
            partition by origin order by _event_time desc, _known_time desc, _frame desc, _ordinal desc) = 1
        order by origin
        """,
        files=DeltaTable(server.data / TABLE).file_uris(),
        at=at,
    )
    origins = [f"T{n}" for n in range(10)]
    spine = pa.table({"origin": origins, "asked_at": pa.array([at] * 10, INSTANT)})
    trained, _ = server.training_set(spine, features=["airport_weather:temp"], with_event_time=True)
    times = trained["airport_weather__temp__event_time"].cast(pa.int64()).to_pylist()
    assert newest == list(zip(origins, trained["airport_weather__temp"].to_pylist(), times))


def test_columns_are_the_keys_the_features_and_what_orders_and_dates_a_row(landed):
    server, _ = landed
    schema = pa.schema(DeltaTable(server.data / TABLE).schema())
    names = schema.names
    assert [name for name in names if not name.startswith("_")] == ["origin", "temp", "wind", "note", "rain"]
    for name, kind in SYSTEM_COLUMNS.items():
        assert str(schema.field(name).type) == kind, name
    assert str(schema.field("rain").type) == "float"


def test_files_are_sorted_in_history_order_and_frames_land_once(landed):
    server, _ = landed
    table = DeltaTable(server.data / TABLE)
    unsorted = """
        select count(*) from (
            select (_slot, _key, _event_time, _known_time, _frame, _ordinal) as place,
                   lag(place) over (order by file_row_number) as before
            from read_parquet($file, file_row_number = true))
        where before >= place
    """
    for file in table.file_uris():
        assert query(unsorted, file=file) == [(0,)], file
    twice = query(
        "select count(*) - count(distinct (_frame, _ordinal)) from read_parquet($files, union_by_name = true)",
        files=table.file_uris(),
    )
    assert twice == [(0,)]


def test_a_tombstone_is_a_row_with_keys_and_times_and_no_features(landed):
    server, _ = landed
    tombstones = polars.read_delta(str(server.data / TABLE)).filter(polars.col("_deleted")).sort("origin")
    assert tombstones["origin"].to_list() == ["T0", "T1", "T2"]
    assert tombstones["_event_time"].dt.epoch("us").to_list() == [NOON + 5 * HOUR] * 3
    for feature in ("temp", "wind", "note"):
        assert tombstones[feature].null_count() == 3


def test_a_feature_that_was_added_is_null_in_older_rows_and_the_old_version_has_no_such_column(landed):
    server, first = landed
    read = DeltaTable(server.data / TABLE).to_pyarrow_table()
    by_width = read.group_by("_feature_count").aggregate([("rain", "count"), ("_slot", "count")]).to_pylist()
    counted = {found["_feature_count"]: (found["_slot_count"], found["rain_count"]) for found in by_width}
    assert counted[4] == (100, 100) and counted[3][1] == 0
    assert sum(rows for rows, _ in counted.values()) == 2_603
    before = DeltaTable(server.data / TABLE, version=first)
    assert "rain" not in pa.schema(before.schema()).names
    assert before.to_pyarrow_table().num_rows == 2_503
    # The store says the same: older than the feature is NOT_FOUND, which its default fills.
    spine = pa.table({"origin": ["T3", "T3"], "asked_at": pa.array([NOON, NOON + 5 * HOUR], INSTANT)})
    trained, _ = server.training_set(spine, features=["airport_weather:rain"], with_status=True)
    assert trained["airport_weather__rain__status"].to_pylist() == ["NOT_FOUND", "PRESENT"]
    assert trained["airport_weather__rain"].to_pylist() == [9.0, 93 / 8]


def test_ingest_times_are_those_that_were_acknowledged_and_known_times_follow_the_source(landed):
    server, _ = landed
    read = polars.read_delta(str(server.data / TABLE)).filter(~polars.col("_deleted"))
    assert read.filter(polars.col("_known_time") != polars.col("_event_time")).is_empty()
    ingested = read["_ingest_time"].dt.epoch("us")
    assert now() - HOUR < ingested.min() <= ingested.max() <= now()
    assert read.group_by("_frame").agg(polars.col("_ingest_time").n_unique())["_ingest_time"].max() == 1


def test_every_type_lands_as_the_arrow_type_that_stands_for_it(serve):
    server = serve(landing__interval="1s")
    server.apply(DEFINITIONS)
    parcels = pa.table(
        {
            "hub": pa.array([1, 2], pa.int64()),
            "label": pa.array([b"\x00\xff", b""]),
            "scanned_at": pa.array([NOON, NOON], INSTANT),
            "fragile": pa.array([True, None]),
            "pieces": pa.array([-(2**31), None], pa.int32()),
            "cents": pa.array([2**63 - 1, None], pa.int64()),
            "weight": pa.array([0.1, None], pa.float32()),
            "volume": pa.array([5e-324, None], pa.float64()),
            "town": pa.array(["Ærøskøbing", None]),
            "seal": pa.array([b"\x00", None]),
            "due": pa.array([-1, None], INSTANT),
            "stops": pa.array([[1, None], None], pa.list_(pa.int64())),
            "tags": pa.array([[], None], pa.list_(pa.string())),
            "embedding": pa.array([[1.0, 2.0, 3.0], None], pa.list_(pa.float32(), 3)),
        }
    )
    server.put("parcels", parcels)
    server.wait_until_landed(
        "parcel_scans:town", key_columns=pa.schema([("hub", pa.int64()), ("label", pa.binary())])
    )
    read = DeltaTable(server.data / "history/default/parcel_scans/v1").to_pyarrow_table().sort_by("hub")
    for name in parcels.column_names:
        if name != "scanned_at":
            assert read[name].to_pylist() == parcels[name].to_pylist(), name
            nested = pa.types.is_nested(parcels.schema.field(name).type)
            assert nested or read.schema.field(name).type == parcels.schema.field(name).type, name
    assert pa.types.is_list(read.schema.field("embedding").type)
    server.stop()


def test_a_compacted_table_reads_the_same_in_every_engine_and_so_do_its_older_versions(serve):
    """Landings of a second each, merged as soon as there are two runs into files of 64 KiB."""
    server = serve(
        landing__interval="1s",
        compaction__interval="100ms",
        compaction__runs_per_level="2",
        compaction__file="64KiB",
    )
    server.apply(DEFINITIONS)
    landings = 4
    for part in range(landings):
        server.put("weather", rows(part * 1_000, 1_000))
        wait_until_landed(server)
    path = server.data / TABLE
    overdue = time.monotonic() + 60
    while not (merges := [done for done in DeltaTable(path).history() if done["operation"] == "OPTIMIZE"]):
        assert time.monotonic() < overdue, server.log_tail()

    def counted(version) -> set:
        table = DeltaTable(path, version=version)
        read = table.to_pyarrow_table()
        found = {(read.num_rows, *(pc.sum(read[name]).as_py() for name in ("temp", "wind")))}
        scanned = polars.scan_delta(str(path), version=version).select(
            polars.len(), polars.col("temp").sum(), polars.col("wind").sum()
        )
        found.add(scanned.collect().row(0))
        sql = "select count(*), sum(temp), sum(wind) from read_parquet($files, union_by_name = true)"
        found.update(query(sql, files=table.file_uris()))
        return found

    count = landings * 1_000
    expected = (count, sum(n / 2 for n in range(count) if n % 7), float(sum(range(count))))
    assert counted(DeltaTable(path).version()) == {expected}
    for merge in merges:
        # A merge changes which files there are, and nothing else.
        assert counted(merge["version"]) == counted(merge["version"] - 1)
    assert len(DeltaTable(path).file_uris()) < landings
    metrics = urllib.request.urlopen(f"http://{server.addresses['http']}/metrics", timeout=60).read().decode()
    assert 'hydrant_compaction_merges_total{tenant="default"' in metrics
    assert 'hydrant_history_files{' in metrics
    server.stop()
