"""Events of lineage as the official JSON schemas (2-0-2) and OpenLineage's own client understand them: every
event is valid by its schema and by those of its facets, and every part of it becomes one of the client's
classes, with its fields and types and no other, and says the version of the schema that the class is of.
"""

import http.server
import json
import queue
import threading
import types
import typing
from pathlib import Path

import attr
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from jsonschema import ValidationError
from openlineage.client import event_v2, facet_v2
from openlineage.client.generated import base

import openlineage_schemas
from server import PATIENCE

DEFINITIONS = """
apiVersion: hydrant/v1
kind: Entity
metadata: {name: airport}
spec: {joinKeys: [{name: origin, type: string}]}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: weather, owner: met@example.com}
spec:
  type: push
  eventTime: event_timestamp
  knownTime: event
  columns: [{name: origin, type: string}, {name: event_timestamp, type: timestamp}, {name: temp, type: float64}]
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: airport_weather, owner: ops@example.com}
spec:
  entities: [airport]
  source: weather
  features: [{name: celsius, column: temp, description: As it was measured}]
---
apiVersion: hydrant/v1
kind: FeatureService
metadata: {name: delay_model}
spec: {features: [airport_weather]}
"""

RUN_FACETS = {
    "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet,
    "nominalTime": facet_v2.nominal_time_run.NominalTimeRunFacet,
    "errorMessage": facet_v2.error_message_run.ErrorMessageRunFacet,
}
JOB_FACETS = {"jobType": facet_v2.job_type_job.JobTypeJobFacet}
DATASET_FACETS = {
    "schema": facet_v2.schema_dataset.SchemaDatasetFacet,
    "dataSource": facet_v2.datasource_dataset.DatasourceDatasetFacet,
    "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet,
    "ownership": facet_v2.ownership_dataset.OwnershipDatasetFacet,
    "columnLineage": facet_v2.column_lineage_dataset.ColumnLineageDatasetFacet,
}
OUTPUT_FACETS = {"outputStatistics": facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet}

HOUR = 3_600_000_000
NOON = 1_388_444_400_000_000


class Receiver:
    """Takes events and keeps them, with the key that came with each."""

    def __init__(self):
        self.received, receiver = queue.Queue(), self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.received.put((self.headers["authorization"], json.loads(body)))
                self.send_response(201)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/api/v1/lineage"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def until(self, wanted):
        """The events until those `wanted`, by kind and job, have come."""
        events, missing = [], set(wanted)
        while missing:
            key, event = self.received.get(timeout=PATIENCE)
            assert key == "Bearer key-of-a-test"
            events.append(event)
            missing.discard((event["eventType"], event["job"]["name"]))
        return events


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


def built(kind, value):
    """The value as what a type hint says: fields that a class doesn't have, or of other types, are refused."""
    if attr.has(kind):
        hints = typing.get_type_hints(kind)
        known = {field.name for field in attr.fields(kind) if field.init}
        assert value.keys() <= known, f"{kind.__name__} has no {value.keys() - known}"
        return kind(**{name: built(hints[name], part) for name, part in value.items()})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        fitting = [of for of in arguments if of is not type(None)]
        assert len(fitting) == 1, kind
        return built(fitting[0], value)
    if origin is list:
        assert isinstance(value, list)
        return [built(arguments[0], part) for part in value]
    if origin is dict:
        assert isinstance(value, dict)
        return {name: built(arguments[1], part) for name, part in value.items()}
    if isinstance(kind, type) and issubclass(kind, str) and kind is not str:
        return kind(value)
    assert type(value) is kind, f"{value!r} is no {kind}"
    return value


def facets(of, known):
    """Facets by their keys; each names the schema that its class was generated from."""
    assert of.keys() <= known.keys(), of.keys() - known.keys()
    made = {}
    for name, facet in of.items():
        kind, content = known[name], dict(facet)
        assert content.pop("_schemaURL") == kind._get_schema()
        producer = content.pop("_producer")
        made[name] = built(kind, content)
        made[name] = attr.evolve(made[name], producer=producer)
    return made


def dataset(of, kind):
    of = dict(of)
    of["facets"] = facets(of["facets"], DATASET_FACETS)
    if "outputFacets" in of:
        of["outputFacets"] = facets(of["outputFacets"], OUTPUT_FACETS)
    return kind(**of)


def run_event(event):
    """An event as the client's own."""
    event = dict(event)
    assert event.pop("schemaURL") == event_v2.RunEvent._get_schema()
    run, job = event["run"], event["job"]
    event["eventType"] = event_v2.RunState(event["eventType"])
    event["run"] = event_v2.Run(runId=run["runId"], facets=facets(run["facets"], RUN_FACETS))
    event["job"] = event_v2.Job(
        namespace=job["namespace"], name=job["name"], facets=facets(job["facets"], JOB_FACETS)
    )
    event["inputs"] = [dataset(of, event_v2.InputDataset) for of in event["inputs"]]
    event["outputs"] = [dataset(of, event_v2.OutputDataset) for of in event["outputs"]]
    return event_v2.RunEvent(**event)


def rows(*temps):
    times = pa.array([NOON + HOUR * number for number in range(len(temps))], pa.timestamp("us", "UTC"))
    return pa.table({"origin": ["EWR"] * len(temps), "event_timestamp": times, "temp": list(temps)})


def story(serve, receiver, folder: Path):
    """What is told of a store that is filled, brought online and trained on."""
    (folder / "key").write_text("key-of-a-test\n")
    server = serve(
        openlineage__url=receiver.url,
        openlineage__api_key_file=str(folder / "key"),
        openlineage__ingest_interval="1s",
    )
    definitions = folder / "definitions.yaml"
    definitions.write_text(DEFINITIONS)
    server.apply(definitions)
    server.put("weather", rows(1.5, 2.5))
    history, spine = folder / "history.parquet", folder / "spine.parquet"
    parquet.write_table(rows(3.5, 4.5, 5.5), history)
    server.hydrant("backfill", "weather", history)
    at = pa.array([NOON, NOON + HOUR], pa.timestamp("us", "UTC"))
    parquet.write_table(pa.table({"origin": ["EWR", "JFK"], "at": at}), spine)
    asked = ["--service", "delay_model", "--spine", spine, "--event-time", "at"]
    server.hydrant("training-set", "create", "flights", *asked)
    server.hydrant("historical", "get", *asked, "-o", folder / "pulled.parquet")
    jobs = [
        "ingest.weather",
        "backfill.weather",
        "materialize.airport_weather",
        "training_set.flights",
        "pulled_training_set.delay_model",
    ]
    return receiver.until({("COMPLETE", f"default.{job}") for job in jobs})


def test_the_client_reads_every_event_of_a_whole_story(serve, receiver, tmp_path):
    events = story(serve, receiver, tmp_path)
    checked = set().union(*(openlineage_schemas.validate(event) for event in events))
    assert checked == {
        "ProcessingEngineRunFacet",
        "JobTypeJobFacet",
        "SchemaDatasetFacet",
        "DatasourceDatasetFacet",
        "ColumnLineageDatasetFacet",
        "OutputStatisticsOutputDatasetFacet",
    }
    made = [run_event(event) for event in events]
    assert all(isinstance(event, base.RunEvent) for event in made)
    by_job = {}
    for event in made:
        by_job.setdefault((event.job.name, event.run.runId), []).append(event)
    for of_run in by_job.values():
        assert [event.eventType.value for event in of_run] == ["START", "COMPLETE"]
    backfill = next(of[1] for (job, _), of in by_job.items() if job == "default.backfill.weather")
    (view,) = backfill.outputs
    assert view.outputFacets["outputStatistics"].rowCount == 3
    (origin,) = view.facets["columnLineage"].fields["celsius"].inputFields
    assert (origin.name, origin.field) == ("default.source.weather", "temp")
    source, file = backfill.inputs
    assert source.name == origin.name and source.namespace == origin.namespace
    assert (file.namespace, file.name) == ("file", str(tmp_path / "history.parquet"))
    assert "temp" in [field.name for field in source.facets["schema"].fields]


def test_what_is_not_of_the_schema_would_be_noticed(serve, receiver, tmp_path):
    event = story(serve, receiver, tmp_path)[0]
    run_event(event)
    for broken in (
        {"run": {**event["run"], "runId": "no uuid"}},
        {"eventType": "BEGIN"},
        {"eventTime": "yesterday"},
        {"job": {"namespace": "a", "name": "b", "facets": {"jobType": {"processingType": 5}}}},
        {"unheard_of": 1},
    ):
        with pytest.raises((AssertionError, KeyError, TypeError, ValueError)):
            run_event({**event, **broken})
    openlineage_schemas.validate(event)
    for broken in (
        {"run": {**event["run"], "runId": "no uuid"}},
        {"eventType": "BEGIN"},
        {"eventTime": "yesterday"},
        {"producer": "no URI"},
        {"job": {**event["job"], "facets": {"jobType": {**event["job"]["facets"]["jobType"], "integration": 5}}}},
        {"job": {"namespace": "a", "name": "b", "facets": {"jobType": {}}}},
        {"inputs": [{"namespace": "a"}]},
    ):
        with pytest.raises((AssertionError, KeyError, ValidationError)):
            openlineage_schemas.validate({**event, **broken})
