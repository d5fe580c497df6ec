"""A training job: sends a spine by Arrow Flight's DoExchange and takes the training set, as a table in
memory or into a Parquet file. What it takes counts from opening the spine's file to the last row.

Nothing of it is generated from Hydrant's protos: the command's message comes from the server's own
reflection. It prints one JSON object: seconds of each run, of the first rows after the last of the
spine was sent, and sums by which answers are compared.

    training_client.py GRPC FLIGHT SPINE SERVICE RUNS arrow|OUT.parquet
"""

import json
import sys
import time

import grpc
import pyarrow
import pyarrow.compute
import pyarrow.flight as flight
import pyarrow.parquet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

grpc_address, flight_address, spine_path, service, runs, sink = sys.argv[1:]
BATCH_ROWS = 65_536


def message(name):
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(grpc.insecure_channel(grpc_address)))
    return GetMessageClass(pool.FindMessageTypeByName(name))


COMMAND = message("hydrant.v1.FlightCommand")
REPORT = message("hydrant.v1.TrainingSetReport")


def run(client):
    """One training set: seconds in all, seconds from the last of the spine to the first rows, and the
    table, unless it was written."""
    begun = time.perf_counter()
    command = COMMAND(historical_features={"services": [service], "event_time": "event_timestamp"})
    spine = pyarrow.parquet.read_table(spine_path)
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(command.SerializeToString()))
    batches, out, first, report = [], None, None, None
    with writer:
        writer.begin(spine.schema)
        for batch in spine.to_batches(max_chunksize=BATCH_ROWS):
            writer.write_batch(batch)
        writer.done_writing()
        sent = time.perf_counter()
        while True:
            try:
                chunk = reader.read_chunk()
            except StopIteration:
                break
            if chunk.data is not None and chunk.data.num_rows:
                first = first or time.perf_counter()
                if sink == "arrow":
                    batches.append(chunk.data)
                else:
                    out = out or pyarrow.parquet.ParquetWriter(sink, chunk.data.schema, compression="snappy")
                    out.write_batch(chunk.data)
            if chunk.app_metadata is not None:
                report = REPORT.FromString(chunk.app_metadata.to_pybytes())
        if out is not None:
            out.close()
    seconds = time.perf_counter() - begun
    table = pyarrow.Table.from_batches(batches) if sink == "arrow" else None
    return seconds, first - sent, report, table


def main():
    unlimited = [("grpc.max_receive_message_length", -1)]
    client = flight.connect(f"grpc://{flight_address}", generic_options=unlimited)
    told = [run(client) for _ in range(int(runs))]
    report, table = told[-1][2:]
    if table is None:
        table = pyarrow.parquet.read_table(sink)
    sums = {}
    for name in table.column_names:
        if "__" in name:
            column = table[name]
            sums[name] = [pyarrow.compute.sum(column).as_py() or 0.0, column.null_count]
    print(
        json.dumps(
            {
                "seconds": [seconds for seconds, _, _, _ in told],
                "first_rows": [first for _, first, _, _ in told],
                "rows": table.num_rows,
                "sums": sums,
                "content_hash": report.content_hash,
                "tail_rows": sum(read.tail_rows for read in report.tables),
                "version": pyarrow.__version__,
            }
        )
    )


main()
