"""The history tables, opened by Spark at past versions. Delta Lake's connector for Spark is on no
Python index; so Spark itself reads the table's log, takes the files of a version from it by the rules of
the Delta protocol, and reads these.
"""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from columns import NOON, strings, weather
from server import DEFINITIONS

TABLE = "history/default/airport_weather/v1"
KEYS = pa.schema([("origin", pa.string())])


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spark")
    builder = SparkSession.builder.master("local[2]").appName("hydrant-tests")
    settings = {
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.driver.extraJavaOptions": f"-Dderby.system.home={folder}",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


def files_at(spark, table, version) -> list:
    """The files of a version: those that its commits added, and none later removed."""
    commits = [str(table / f"_delta_log/{number:020}.json") for number in range(version + 1)]
    actions = spark.read.json(commits).withColumn("commit", F.regexp_extract("_metadata.file_name", r"(\d+)", 1).cast("long"))
    live = {}
    for kind in ("add", "remove"):
        if kind in actions.columns:
            for row in actions.where(F.col(kind).isNotNull()).select(f"{kind}.path", "commit").collect():
                live.setdefault(row.path, []).append((row.commit, kind))
    return [str(table / path) for path, told in live.items() if max(told)[1] == "add"]


def read(spark, table, version):
    """The rows of a version as Spark reads them, and as deltalake does."""
    known = DeltaTable(table, version=version)
    files = files_at(spark, table, version)
    assert sorted(files) == sorted(known.file_uris())
    return spark.read.option("mergeSchema", "true").parquet(*files), known.to_pyarrow_table()


def test_spark_counts_and_sums_each_version_as_deltalake_does(serve, spark):
    server = serve(
        landing__interval="1s",
        compaction__interval="100ms",
        compaction__runs_per_level="2",
        compaction__file="64KiB",
    )
    server.apply(DEFINITIONS)
    count = 0
    for part in range(4):
        rows = [
            (f"T{n % 10}", NOON + n // 10 * 60_000_000, None if n % 7 == 0 else n / 2, float(n), f"note {n}")
            for n in range(part * 1_000, (part + 1) * 1_000)
        ]
        server.put("weather", weather(rows))
        count += len(rows)
        server.wait_until_landed("airport_weather:temp", key_columns=KEYS)
    server.api.unary(
        "hydrant.v1.IngestService",
        "Delete",
        view="airport_weather",
        keys=[strings("origin", ["T0", "T1", "T2"])],
        event_times=[NOON + 3_600_000_000],
    )
    server.wait_until_landed("airport_weather:temp", key_columns=KEYS)
    table = server.data / TABLE
    newest = DeltaTable(table).version()
    assert newest >= 5
    seen = set()
    for version in range(1, newest + 1):
        by_spark, by_deltalake = read(spark, table, version)
        totals = [F.count("*"), F.sum(F.col("_deleted").cast("int")), F.sum("temp"), F.sum("wind")]
        counted = by_spark.agg(*totals).first()
        columns = [by_deltalake[name] for name in ("_deleted", "temp", "wind")]
        expected = (by_deltalake.num_rows, *(pc.sum(column).as_py() or 0 for column in columns))
        assert tuple(counted) == expected, version
        seen.add(by_deltalake.num_rows)
    assert max(seen) == count + 3 and len(seen) >= 4, "versions that differ"
    server.stop()
