"""The example's training job: a model that learns from the stream is better with features than without,
and the same cut-off gives the same model again. The same training set, saved, is pulled in parts."""

import json
import subprocess
import sys

import pyarrow.parquet as parquet
import pytest

from server import PATIENCE, REPOSITORY, Server

EXAMPLE = REPOSITORY / "examples/nycflights13"
REQUESTS = 336_776


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("flights")).start()
    try:
        server.apply(EXAMPLE / "definitions")
        for source in ("departures", "arrivals", "weather", "planes"):
            server.hydrant("ingest", source, EXAMPLE / f"data/{source}.parquet")
        yield server
        server.stop()
    finally:
        server.close()


def train(server, *arguments) -> dict:
    command = [sys.executable, str(EXAMPLE / "train.py"), "--grpc", server.addresses["grpc"]]
    command += ["--flight", server.addresses["flight"], *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 5)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_model_learns_from_the_stream_and_the_same_cutoff_gives_it_again(flights):
    model = train(flights)
    assert model["rows"] == REQUESTS
    assert model["judged_by"] > 70_000
    assert model["auc_with_features"] > model["auc_without_features"] + 0.03
    # Later news changes what a new training set would see, not this one.
    flights.hydrant("ingest", "weather", EXAMPLE / "data/weather.parquet", "--known", "event+1m")
    again = train(flights, "--cutoff", str(model["cutoff"]))
    assert again == model


def test_a_saved_training_set_is_pulled_whose_parts_are_larger_than_what_a_connection_has_under_way(flights, tmp_path):
    spine, pulled = EXAMPLE / "data/requests.parquet", tmp_path / "pulled.parquet"
    asked = ["--service", "delay_model", "--spine", spine, "--event-time", "event_timestamp", "-o", "json"]
    saved = json.loads(flights.hydrant("training-set", "create", "flights", *asked))
    told = json.loads(flights.hydrant("training-set", "pull", "flights", "-o", pulled, "--format", "json"))
    assert told["content_hash"] == saved["content_hash"]
    assert parquet.read_metadata(pulled).num_rows == REQUESTS
