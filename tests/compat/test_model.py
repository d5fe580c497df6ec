"""The example's training job: a model that learns from the stream is better with features than without,
and the same cut-off gives the same model again."""

import json
import subprocess
import sys

from server import PATIENCE, REPOSITORY

EXAMPLE = REPOSITORY / "examples/nycflights13"
REQUESTS = 336_776


def train(server, *arguments) -> dict:
    command = [sys.executable, str(EXAMPLE / "train.py"), "--grpc", server.addresses["grpc"]]
    command += ["--flight", server.addresses["flight"], *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 5)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_model_learns_from_the_stream_and_the_same_cutoff_gives_it_again(serve):
    server = serve()
    server.apply(EXAMPLE / "definitions")
    for source in ("departures", "arrivals", "weather", "planes"):
        server.hydrant("ingest", source, EXAMPLE / f"data/{source}.parquet")
    model = train(server)
    assert model["rows"] == REQUESTS
    assert model["judged_by"] > 70_000
    assert model["auc_with_features"] > model["auc_without_features"] + 0.03
    # Later news changes what a new training set would see, not this one.
    server.hydrant("ingest", "weather", EXAMPLE / "data/weather.parquet", "--known", "event+1m")
    again = train(server, "--cutoff", str(model["cutoff"]))
    assert again == model
    server.stop()
