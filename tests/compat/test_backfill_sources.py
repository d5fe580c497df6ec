"""Backfills from what other people's programs keep: folders of Parquet files, Delta tables written by
delta-rs, and an S3 API that nobody here wrote (moto's server). What is loaded is compared by the content
hash of a training set with what local files give.
"""

import json
import subprocess
import time
import urllib.request

import boto3
import deltalake
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet
import pytest
from moto.server import ThreadedMotoServer

from columns import INSTANT, NOON
from server import BINARY, DEFINITIONS, PATIENCE

BUCKET = "history"
SECRET = "hunter2-secret"


def rows(start, count, **more) -> pa.Table:
    """A hundred airports, each with a row a minute."""
    numbers = range(start, start + count)
    return pa.table(
        {
            "origin": pa.array([f"A{n % 100}" for n in numbers]),
            "event_timestamp": pa.array([NOON + n // 100 * 60_000_000 for n in numbers], INSTANT),
            "temp": pa.array([None if n % 7 == 0 else n / 2 for n in numbers], pa.float64()),
            "wind_speed": pa.array([float(n) for n in numbers]),
            "note": pa.array([f"note {n}" for n in numbers]),
            **{name: pa.array([value] * count) for name, value in more.items()},
        }
    )


@pytest.fixture
def spine(tmp_path):
    path = tmp_path / "spine.parquet"
    numbers = range(2_000)
    table = pa.table(
        {
            "origin": pa.array([f"A{n % 103}" for n in numbers]),
            "event_timestamp": pa.array([NOON + n * 7_000_000 for n in numbers], INSTANT),
        }
    )
    parquet.write_table(table, path)
    return path


def content_hash(server, spine) -> str:
    made = server.hydrant(
        *("training-set", "create", "weather_set", "--service", "weather_model"),
        *("--spine", spine, "--event-time", "event_timestamp", "-o", "json"),
    )
    return json.loads(made)["content_hash"]


def served(serve, folder):
    server = serve(folder=folder, backfill__memory="16MiB")
    server.apply(DEFINITIONS)
    return server


@pytest.fixture
def start(serve, tmp_path):
    """Servers with a folder of their own each."""

    def start(name):
        folder = tmp_path / name
        folder.mkdir()
        return served(serve, folder)

    return start


def backfill(server, *arguments) -> dict:
    return json.loads(server.hydrant("backfill", "weather", *arguments, "--ignore-extra", "-o", "json"))


def refused(server, *arguments) -> dict:
    command = [BINARY, "backfill", "weather", *arguments, "-o", "json", "--server", server.addresses["grpc"]]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1, done.stdout
    assert SECRET not in done.stdout + done.stderr
    return json.loads(done.stderr.strip().splitlines()[-1])["error"]


@pytest.fixture
def s3(monkeypatch):
    """An S3 API on a free port, and a client of it; the environment says where it is."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    server.stop()


def upload(client, folder):
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), BUCKET, f"{folder.name}/{path.relative_to(folder)}")


def test_a_prefix_of_objects_gives_what_the_folder_gives_and_goes_on_where_it_was_cut_off(start, s3, spine, tmp_path):
    folder = tmp_path / "years"
    (folder / "2024").mkdir(parents=True)
    names = ["2024/b.parquet", "2024/a.parquet", "c.parquet"]
    for index, name in enumerate(names):
        parquet.write_table(rows(index * 150_000, 150_000), folder / name, row_group_size=40_000)
    (folder / "_SUCCESS").write_text("")
    upload(s3, folder)
    here, there = start("here"), start("there")
    assert backfill(here, folder)["rows"] == 450_000

    url = f"s3://{BUCKET}/years"
    command = [BINARY, "backfill", "weather", url, "--ignore-extra", "-o", "json", "--server", there.addresses["grpc"]]
    cut_off = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until_staged(there, cut_off)
    cut_off.kill()
    cut_off.communicate()
    assert cut_off.returncode == -9, "it was at its end before it could be cut off"

    checked = metric(there, "hydrant_backfill_checked_total")
    done = backfill_once_free(there, url)
    assert (done["outcome"], done["rows"]) == ("applied", 450_000)
    assert [file.rsplit("/", 1)[-1] for file in done["files"]] == ["a.parquet", "b.parquet", "c.parquet"]
    assert metric(there, "hydrant_backfill_checked_total") - checked < 450_000, "what was staged was sent again"
    assert content_hash(there, spine) == content_hash(here, spine)

    assert backfill(there, url)["outcome"] == "already_applied"
    assert backfill(there, url + "/")["outcome"] == "already_applied"
    # One of them is another object now, so this is another backfill, and of all three.
    parquet.write_table(rows(0, 1_000), folder / "c.parquet")
    upload(s3, folder)
    assert backfill(there, url)["outcome"] == "applied"


def backfill_once_free(server, *arguments):
    """A backfill whose client was killed goes on for a moment, until the server finds that out."""
    patience = time.monotonic() + PATIENCE
    while True:
        try:
            return backfill(server, *arguments)
        except AssertionError as refused:
            if "BACKFILL_BUSY" not in str(refused) or time.monotonic() > patience:
                raise
            time.sleep(0.1)


def metric(server, name) -> float:
    with urllib.request.urlopen(f"http://{server.addresses['http']}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def wait_until_staged(server, process):
    until = time.monotonic() + PATIENCE
    while metric(server, "hydrant_backfill_staged_total") == 0:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "nothing was staged"
        time.sleep(0.01)


def test_what_is_not_there_or_not_allowed_is_refused_without_secrets(start, s3):
    server = start("server")
    for url, reason in [
        (f"s3://{BUCKET}/nothing", "FILE_FAILED"),
        (f"s3://{BUCKET}/nothing.parquet", "FILE_FAILED"),
        ("s3://another-bucket/a.parquet", "FILE_FAILED"),
        (f"s3://user:{SECRET}@{BUCKET}/a.parquet", "FILE_UNSUPPORTED"),
        (f"s3://{BUCKET}/a.parquet?signature={SECRET}", "FILE_UNSUPPORTED"),
        ("hdfs://name/a.parquet", "FILE_UNSUPPORTED"),
    ]:
        assert refused(server, url)["reason"] == reason, url
    s3.put_object(Bucket=BUCKET, Key="a.parquet", Body=b"no parquet at all")
    assert "Parquet" in refused(server, f"s3://{BUCKET}/a.parquet")["message"]


def test_objects_are_ingested_as_files_are(start, s3):
    server = start("server")
    sink = pa.BufferOutputStream()
    parquet.write_table(rows(0, 500), sink)
    s3.put_object(Bucket=BUCKET, Key="day/a.parquet", Body=sink.getvalue().to_pybytes())
    ingest = ("ingest", "weather", f"s3://{BUCKET}/day", "-o", "json")
    (first,) = json.loads(server.hydrant(*ingest))["files"]
    (again,) = json.loads(server.hydrant(*ingest))["files"]
    assert (first["applied"], again["applied"]) == (500, 0)


@pytest.fixture
def table(tmp_path):
    """A table partitioned by day and station, of four versions: one of them deletes a station."""
    path = tmp_path / "table"
    for day in ["2024-03-01", "2024-03-02", None]:
        for station in ["north/east", "söuth %"]:
            start = 0 if day == "2024-03-01" else 1_000
            written = rows(start + (500 if station < "o" else 0), 500, station=station)
            written = written.append_column("day", pa.array([day] * 500, pa.string()).cast(pa.date32()))
            deltalake.write_deltalake(path, written, partition_by=["day", "station"], mode="append")
    deltalake.DeltaTable(path).delete("station = 'north/east'")
    return path


def as_parquet(table, path, version=None):
    """The table as somebody else reads it, in an order of no account: no two of its rows have a key and time alike."""
    parquet.write_table(deltalake.DeltaTable(table, version=version).to_pyarrow_table(), path)


def test_a_delta_table_is_its_active_files_at_a_version(start, table, spine, tmp_path):
    newest = deltalake.DeltaTable(table).version()
    for name, version in [("newest", None), ("before", newest - 1), ("first", 0)]:
        expected, found = start(f"{name}-expected"), start(f"{name}-found")
        as_parquet(table, tmp_path / f"{name}.parquet", version)
        arguments = [] if version is None else ["--delta-version", version]
        done = backfill(found, table, *arguments)
        plain = backfill(expected, tmp_path / f"{name}.parquet")
        assert done["rows"] == plain["rows"] > 0
        assert content_hash(found, spine) == content_hash(expected, spine)
        assert backfill(found, table, *arguments)["outcome"] == "already_applied"
    assert refused(found, table, "--delta-version", newest + 1)["reason"] == "FILE_FAILED"


def test_partition_columns_are_loaded_as_what_they_are(start, table, tmp_path):
    """`note` and `temp` come from the table's log: no file has them."""
    path = tmp_path / "by-note"
    written = rows(0, 300).drop_columns(["note", "temp"])
    halves = [
        written.append_column("note", pa.array(["ä/b %41"] * 300)).append_column("temp", pa.array([12.5] * 300)),
        rows(300, 300).drop_columns(["note", "temp"]).append_column("note", pa.nulls(300, pa.string())).append_column(
            "temp", pa.nulls(300, pa.float64())
        ),
    ]
    for half in halves:
        deltalake.write_deltalake(path, half, partition_by=["note", "temp"], mode="append")
    server = start("server")
    assert backfill(server, path)["rows"] == 600
    spine = tmp_path / "all.parquet"
    parquet.write_table(pa.table({"origin": ["A0", "A1"], "event_timestamp": pa.array([NOON, NOON + 5 * 60_000_000], INSTANT)}), spine)
    output = tmp_path / "out.parquet"
    server.hydrant("historical", "get", "--service", "weather_model", "--spine", spine, "--event-time", "event_timestamp", "-o", output)
    got = parquet.read_table(output)
    assert got["airport_weather__note"].to_pylist() == ["ä/b %41", None]
    assert got["airport_weather__temp"].to_pylist() == [12.5, None]
    assert pc.all(pc.is_valid(got["airport_weather__wind"])).as_py()


def test_columns_that_were_added_to_a_table_later_are_null_in_older_files(start, tmp_path):
    path = tmp_path / "grown"
    deltalake.write_deltalake(path, rows(0, 100).drop_columns(["note"]))
    deltalake.write_deltalake(path, rows(100, 100), mode="append", schema_mode="merge")
    assert backfill(start("server"), path)["rows"] == 200


def test_a_delta_table_in_a_store_is_read_there(start, s3, table, spine):
    upload(s3, table)
    here, there = start("here"), start("there")
    local, remote = backfill(here, table), backfill(there, f"s3://{BUCKET}/table", "--source-format", "delta")
    assert local["rows"] == remote["rows"]
    assert content_hash(here, spine) == content_hash(there, spine)


def test_what_of_a_delta_table_can_not_be_honoured_is_refused(start, table, tmp_path):
    """delta-rs writes neither, so its newest commit is written by hand."""
    server = start("server")
    log = table / "_delta_log"
    newest = deltalake.DeltaTable(table).version()

    def commit(*actions):
        path = log / f"{newest + 1:020}.json"
        path.write_text("".join(json.dumps(action) + "\n" for action in actions))
        return path

    add = first_add(log)
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "writerFeatures": ["deletionVectors"]}
    protocol["readerFeatures"] = ["deletionVectors"]
    add["deletionVector"] = {
        "storageType": "i", "pathOrInlineDv": "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L",
        "sizeInBytes": 40, "cardinality": 6,
    }  # fmt: skip
    path = commit({"protocol": protocol}, {"add": add})
    error = refused(server, table)
    assert error["reason"] == "FILE_UNSUPPORTED" and "deletion vector" in error["message"], error
    path.unlink()

    metadata = first(log, "metaData")
    metadata["configuration"]["delta.columnMapping.mode"] = "name"
    protocol = {"minReaderVersion": 2, "minWriterVersion": 5}
    path = commit({"protocol": protocol}, {"metaData": metadata})
    assert refused(server, table)["reason"] in ("FILE_UNSUPPORTED", "FILE_FAILED")
    path.unlink()
    assert backfill(server, table)["outcome"] == "applied"


def first(log, kind) -> dict:
    for path in sorted(log.glob("*.json")):
        for line in path.read_text().splitlines():
            if kind in (action := json.loads(line)):
                return action[kind]
    raise AssertionError(f"no {kind} in {log}")


def first_add(log) -> dict:
    return first(log, "add")
