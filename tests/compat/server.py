"""A `hydrant serve` of the tests' own, and clients of it that nobody here wrote: gRPC by the
server's own reflection, Arrow Flight by pyarrow. Nothing here is generated from Hydrant's protos.
"""

import contextlib
import os
import re
import signal
import subprocess
import threading
import urllib.request
from pathlib import Path

import grpc
import pyarrow as pa
import pyarrow.flight as flight
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

REPOSITORY = Path(__file__).resolve().parents[2]
BINARY = REPOSITORY / "target/release/hydrant"
DEFINITIONS = Path(__file__).parent / "definitions"

# How long the server may take to start, to stop, and to answer, on a busy machine.
PATIENCE = 60
LOG_LINES = 40

SERVING = 1  # grpc.health.v1.HealthCheckResponse.ServingStatus


class Server:
    """`hydrant serve` on free ports. May be started again over the same data directory."""

    def __init__(self, folder: Path, authority: Path | None = None, **options: str):
        """`options` are those of the configuration, with two underscores for the dot. With an authority
        (PEM) clients speak TLS, to `localhost`."""
        self.authority = authority
        self.data = folder / "data"
        self.log = folder / "server.log"
        self.options = options
        self.process = None

    def start(self) -> "Server":
        assert BINARY.exists(), f"there is no {BINARY}: run `make build`"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HYDRANT_")}
        environment |= {f"HYDRANT_{name.upper()}": value for name, value in self.options.items()}
        arguments = [BINARY, "serve", "--data-dir", self.data]
        for port in ("grpc", "flight", "http"):
            arguments += [f"--{port}-addr", "127.0.0.1:0"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                arguments, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )
        overdue = threading.Timer(PATIENCE, self.process.kill)
        overdue.start()
        try:
            told = self.process.stdout.readline().split()
        finally:
            overdue.cancel()
        assert told, f"the server did not start:\n{self.log_tail()}"
        self.addresses = dict(part.split("=") for part in told)
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        if self.authority is None:
            self.channel = grpc.insecure_channel(self.addresses["grpc"], options=unlimited)
            self.flight = flight.connect(f"grpc://{self.addresses['flight']}")
        else:
            roots = self.authority.read_bytes()
            credentials = grpc.ssl_channel_credentials(root_certificates=roots)
            self.channel = grpc.secure_channel(self.local("grpc"), credentials, options=unlimited)
            self.flight = flight.connect(f"grpc+tls://{self.local('flight')}", tls_root_certs=roots)
        self.api = Api(self.channel)
        self._wait_until_serving()
        return self

    def local(self, port: str) -> str:
        """The address of a port by the name that certificates are for."""
        return f"localhost:{self.addresses[port].rsplit(':', 1)[1]}"

    def stop(self):
        """Stops it as an operator would; it has to end in order."""
        self._close_clients()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=PATIENCE)
        self.process.stdout.close()
        assert code == 0, f"the server ended with {code}:\n{self.log_tail()}"
        self.process = None

    def close(self):
        """Ends it whatever its state."""
        if self.process is not None:
            self._close_clients()
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def hydrant(self, *arguments) -> str:
        """Runs a command against this server and gives what it prints."""
        command = [str(argument) for argument in (BINARY, *arguments, "--server", self.addresses["grpc"])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, folder: Path):
        self.hydrant("apply", "-f", folder)

    # Arrow Flight

    def command(self, **command) -> flight.FlightDescriptor:
        message = self.api.message("hydrant.v1.FlightCommand")(**command)
        return flight.FlightDescriptor.for_command(message.SerializeToString())

    def put(self, source: str, batches, schema: pa.Schema | None = None, **command) -> list:
        """Ingests record batches (or a table) by DoPut; the answers, one per batch."""
        if isinstance(batches, pa.Table):
            batches, schema = batches.to_batches(), batches.schema
        schema = schema or batches[0].schema
        response = self.api.message("hydrant.v1.IngestResponse")
        writer, reader = self.flight.do_put(self.command(ingest={"source": source, **command}), schema)
        answers = []
        with writer:
            for batch in batches:
                writer.write_batch(batch)
            writer.done_writing()
            while (answer := reader.read()) is not None:
                answers.append(response.FromString(answer.to_pybytes()))
        return answers

    def training_set(self, spine, schema: pa.Schema | None = None, event_time="asked_at", **command) -> tuple:
        """Sends a spine (a table, or record batches) by DoExchange; the joined table and its report."""
        if isinstance(spine, pa.Table):
            spine, schema = spine.to_batches(), spine.schema
        schema = schema or spine[0].schema
        descriptor = self.command(historical_features={"event_time": event_time, **command})
        writer, reader = self.flight.do_exchange(descriptor)
        batches, report = [], None
        with writer:
            writer.begin(schema)
            for batch in spine:
                writer.write_batch(batch)
            writer.done_writing()
            with contextlib.suppress(StopIteration):
                while True:
                    chunk = reader.read_chunk()
                    batches.append(chunk.data)
                    if chunk.app_metadata is not None:
                        assert report is None, "there is one report"
                        report = self.api.message("hydrant.v1.TrainingSetReport").FromString(
                            chunk.app_metadata.to_pybytes()
                        )
            table = pa.Table.from_batches(batches, reader.schema)
        assert report is not None, "the training set ended without its report"
        return table, report

    def wait_until_landed(self, *features: str, key_columns: pa.Schema):
        """Has the partitions apply what was written, and waits until none has rows that history lacks."""
        spine = pa.schema([pa.field("asked_at", pa.timestamp("us", "UTC")), *key_columns]).empty_table()
        overdue = threading.Event()
        timer = threading.Timer(PATIENCE, overdue.set)
        timer.start()
        try:
            # A training set reads what was acknowledged before it.
            self.training_set(spine, features=list(features))
            while sum(self.metric("hydrant_partition_tail_bytes")) > 0:
                assert not overdue.is_set(), f"rows did not land:\n{self.log_tail()}"
            tables = self.training_set(spine, features=list(features))[1].tables
            assert all(table.HasField("delta_version") for table in tables)
        finally:
            timer.cancel()

    def metric(self, name: str) -> list:
        """The values of a metric, whatever their labels."""
        url = f"http://{self.addresses['http']}/metrics"
        lines = urllib.request.urlopen(url, timeout=PATIENCE).read().decode().splitlines()
        return [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{")]

    def metric_sum(self, name: str) -> float:
        """The sum of a metric over its labels, of which it may have none."""
        url = f"http://{self.addresses['http']}/metrics"
        lines = urllib.request.urlopen(url, timeout=PATIENCE).read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}[{{ ]", line))

    def _close_clients(self):
        self.flight.close()
        self.channel.close()

    def _wait_until_serving(self):
        watch = self.api.stream("grpc.health.v1.Health", "Watch", timeout=PATIENCE)
        try:
            next(answer for answer in watch if answer.status == SERVING)
        except grpc.RpcError as error:
            raise AssertionError(f"the server does not serve: {error.details()}\n{self.log_tail()}") from error
        finally:
            watch.cancel()


class Api:
    """The services as the server's reflection describes them."""

    def __init__(self, channel: grpc.Channel):
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = DescriptorPool(self.database)

    def message(self, name: str):
        return GetMessageClass(self.pool.FindMessageTypeByName(name))

    def enum(self, name: str):
        """Name to number."""
        return {value.name: value.number for value in self.pool.FindEnumTypeByName(name).values}

    def unary(self, service: str, method: str, /, timeout=PATIENCE, **fields):
        call, request, _ = self._method(service, method, self.channel.unary_unary)
        return call(request(**fields), timeout=timeout)

    def stream(self, service: str, method: str, /, timeout=PATIENCE, **fields):
        call, request, _ = self._method(service, method, self.channel.unary_stream)
        return call(request(**fields), timeout=timeout)

    def both_streams(self, service: str, method: str, /, requests, timeout=PATIENCE):
        call, request, _ = self._method(service, method, self.channel.stream_stream)
        return call((request(**fields) for fields in requests), timeout=timeout)

    def online(self, **fields):
        return self.unary("hydrant.v1.OnlineService", "GetOnlineFeatures", **fields)

    def ingest(self, **fields):
        return self.unary("hydrant.v1.IngestService", "Ingest", **fields)

    def registry(self, method: str, /, **fields):
        return self.unary("hydrant.v1.RegistryService", method, **fields)

    def _method(self, service: str, method: str, kind):
        described = self.pool.FindServiceByName(service).FindMethodByName(method)
        request, response = GetMessageClass(described.input_type), GetMessageClass(described.output_type)
        call = kind(
            f"/{service}/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return call, request, response


class Refused:
    """What a refusal says, with its details after google.rpc's model."""

    def __init__(self, error: grpc.RpcError):
        self.code = error.code()
        self.message = error.details()
        status = rpc_status.from_call(error)
        assert status is not None, f"no details came with {self.code}: {self.message}"
        self.info = self._detail(status, error_details_pb2.ErrorInfo)
        assert self.info is not None, f"no ErrorInfo came with {self.code}: {self.message}"
        assert self.info.domain == "hydrant.dev"
        self.reason = self.info.reason
        self.hint = self.info.metadata.get("hint")
        bad_request = self._detail(status, error_details_pb2.BadRequest)
        violations = bad_request.field_violations if bad_request else []
        self.violations = [(found.field, found.description) for found in violations]

    @staticmethod
    def _detail(status, kind):
        for detail in status.details:
            if detail.Is(kind.DESCRIPTOR):
                unpacked = kind()
                detail.Unpack(unpacked)
                return unpacked
        return None


@contextlib.contextmanager
def refused(code: grpc.StatusCode, reason: str):
    """The call inside must be refused with this code and reason; what else it said is in the list
    that is given."""
    told = []
    try:
        yield told
    except grpc.RpcError as error:
        refusal = Refused(error)
        assert (refusal.code, refusal.reason) == (code, reason), refusal.message
        told.append(refusal)
    else:
        raise AssertionError(f"not refused: {reason}")
