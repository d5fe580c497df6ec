"""Feast's feature server over Redis, for the benchmark alone: defines the workloads' views, writes
rows for them through Feast's own interface, and serves them by HTTP from one process.

    feast_server.py VIEWS FOLDER REDIS_PORT HTTP_PORT KEYS

VIEWS is a JSON file: for each service its views, each with its key, its number of float64 features and
the dimension of its vector, if it has one. Prints a line when all is written; then serves until it is
killed.
"""

import datetime
import json
import logging
import sys

import numpy
import pandas
import uvicorn
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.feature_server import get_app
from feast.types import Array, Float32, Float64, Int64

ROWS_A_WRITE = 2_000


def define(shape):
    entity = Entity(name=f"{shape['name']}_entity", join_keys=[shape["key"]], value_type=ValueType.INT64)
    fields = [Field(name=f"{shape['name']}_f{number}", dtype=Float64) for number in range(shape["floats"])]
    if shape["vector"]:
        fields.append(Field(name=f"{shape['name']}_embedding", dtype=Array(Float32)))
    # Rows are written online only; nothing reads this file.
    source = FileSource(path=f"{shape['name']}.parquet", timestamp_field="event_time")
    view = FeatureView(
        name=shape["name"],
        entities=[entity],
        schema=[Field(name=shape["key"], dtype=Int64), *fields],
        ttl=datetime.timedelta(days=30),
        source=source,
        online=True,
    )
    return entity, view


def rows(shape, keys, random):
    columns = {shape["key"]: keys, "event_time": pandas.Timestamp.now(tz="UTC")}
    for number in range(shape["floats"]):
        columns[f"{shape['name']}_f{number}"] = random.random(len(keys))
    if shape["vector"]:
        vectors = random.random((len(keys), shape["vector"]), dtype=numpy.float32)
        columns[f"{shape['name']}_embedding"] = list(vectors)
    return pandas.DataFrame(columns)


def main(views, folder, redis_port, http_port, keys):
    logging.disable(logging.WARNING)
    config = RepoConfig(
        project="benchmark",
        provider="local",
        registry=f"{folder}/registry.db",
        online_store={"type": "redis", "connection_string": f"127.0.0.1:{redis_port}"},
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    with open(views) as file:
        services = json.load(file)
    random = numpy.random.default_rng(7)
    for service, shapes in services.items():
        defined = [define(shape) for shape in shapes]
        of_service = FeatureService(name=service, features=[view for _, view in defined])
        store.apply([*(entity for entity, _ in defined), *(view for _, view in defined), of_service])
        for shape in shapes:
            for start in range(0, int(keys), ROWS_A_WRITE):
                chunk = numpy.arange(start, min(start + ROWS_A_WRITE, int(keys)))
                store.write_to_online_store(shape["name"], df=rows(shape, chunk, random))
    print("written", flush=True)
    uvicorn.run(get_app(store), host="127.0.0.1", port=int(http_port), access_log=False, log_level="error")


main(*sys.argv[1:])
