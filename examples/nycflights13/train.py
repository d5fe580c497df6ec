"""Trains a small model from the stream of a training set, which is never in memory as a whole: will a
flight leave more than 15 minutes late? Flights are asked about two hours before they should leave, in
order of time; the model learns from those before October and is judged by those after.

    pip install pyarrow grpcio-reflection scikit-learn
    python examples/nycflights13/train.py --grpc 127.0.0.1:7600 --flight 127.0.0.1:7601

With `--cutoff` (microseconds) it sees what was known to the store by then: the same rows, and so the
same model, next year.
"""

import argparse
import json
import pathlib

import grpc
import numpy as np
import pyarrow.compute as pc
import pyarrow.flight as flight
import pyarrow.parquet as parquet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

SPINE = pathlib.Path(__file__).parent / "data/requests.parquet"
# What is known of a flight without any feature: how far it goes, and when in the day it leaves.
OWN = ["distance"]
FEATURES = [
    "airport_weather__temp",
    "airport_weather__humid",
    "airport_weather__wind",
    "airport_weather__precip",
    "airport_weather__pressure",
    "airport_weather__visib",
    "airport_departures__dep_delay",
    "carrier_departures__dep_delay",
    "carrier_arrivals__arr_delay",
    "plane_departures__dep_delay",
    "route_departures__dep_delay",
    "plane_register__built",
    "plane_register__seats",
]
OCTOBER = 1_380_585_600_000_000  # 2013-10-01T00:00:00Z
HOUR = 3_600_000_000


def messages(address, *names):
    """The messages' classes, as the server itself describes them."""
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(grpc.insecure_channel(address)))
    return [GetMessageClass(pool.FindMessageTypeByName(f"hydrant.v1.{name}")) for name in names]


def training_set(options):
    """The training set batch by batch, and in the end its report."""
    command_type, report_type = messages(options.grpc, "FlightCommand", "TrainingSetReport")
    request = {"services": ["delay_model"], "event_time": "event_timestamp", "cutoff": options.cutoff}
    command = command_type(historical_features=request).SerializeToString()
    client = flight.connect(f"grpc://{options.flight}")
    spine = parquet.ParquetFile(SPINE)
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(command))
    with writer:
        writer.begin(spine.schema_arrow)
        for batch in spine.iter_batches():
            writer.write_batch(batch)
        writer.done_writing()
        for chunk in reader:
            if chunk.app_metadata is not None:
                yield None, report_type.FromString(chunk.app_metadata.to_pybytes())
            elif chunk.data.num_rows:
                yield chunk.data, None


def columns(batch, names):
    """A matrix of the columns, and behind them for each whether it has no value. Delays have a long
    tail, which a logarithm draws in."""
    values = [pc.cast(batch[name], "float64") for name in names]
    filled = np.column_stack([pc.fill_null(column, 0.0).to_numpy() for column in values])
    filled = np.sign(filled) * np.log1p(np.abs(filled))
    missing = np.column_stack([column.is_null().to_numpy(zero_copy_only=False) for column in values])
    return np.hstack([filled, missing.astype(float)])


def examples(batch, features):
    """Inputs, labels and times of the flights that left."""
    batch = batch.filter(batch["label_late"].is_valid())
    times = pc.cast(batch["event_timestamp"], "int64").to_numpy()
    angle = 2 * np.pi * (times % (24 * HOUR)) / (24 * HOUR)
    inputs = np.hstack([columns(batch, OWN + features), np.sin(angle)[:, None], np.cos(angle)[:, None]])
    return inputs, batch["label_late"].to_numpy(), times


class Learner:
    """Learns batch by batch, and remembers what it guessed of the flights it is judged by."""

    LARGEST = 4.0  # of an input, in standard deviations: one odd value must not throw the model off

    def __init__(self, features):
        self.features = features
        self.scaler = StandardScaler()
        self.model = SGDClassifier(loss="log_loss", alpha=1e-4, average=True, random_state=7)
        self.labels, self.guesses = [], []

    def see(self, batch):
        inputs, labels, times = examples(batch, self.features)
        is_past = times < OCTOBER
        if is_past.any():
            self.scaler.partial_fit(inputs[is_past])
            self.model.partial_fit(self.scaled(inputs[is_past]), labels[is_past], classes=[0, 1])
        if not is_past.all():
            self.labels.append(labels[~is_past])
            self.guesses.append(self.model.decision_function(self.scaled(inputs[~is_past])))

    def scaled(self, inputs):
        return np.clip(self.scaler.transform(inputs), -self.LARGEST, self.LARGEST)

    def area(self):
        """The area under the ROC curve: 0.5 is guessing, 1 is knowing."""
        return roc_auc_score(np.concatenate(self.labels), np.concatenate(self.guesses))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--grpc", default="127.0.0.1:7600", help="the server's gRPC port")
    parser.add_argument("--flight", default="127.0.0.1:7601", help="the server's Flight port")
    parser.add_argument("--cutoff", type=int, help="ingest time, microseconds: what came later isn't seen")
    options = parser.parse_args()

    plain, with_features, report = Learner([]), Learner(FEATURES), None
    for batch, last in training_set(options):
        report = last or report
        if batch is not None:
            plain.see(batch)
            with_features.see(batch)
    print(
        json.dumps(
            {
                "rows": report.rows,
                "content_hash": report.content_hash,
                "cutoff": report.cutoff,
                "judged_by": sum(len(labels) for labels in with_features.labels),
                "auc_without_features": round(plain.area(), 4),
                "auc_with_features": round(with_features.area(), 4),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
