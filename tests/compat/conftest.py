"""Servers for the tests: one that most of them share, and as many of their own as they start."""

import os

# Spark starts its Java by a fork, in which gRPC's handlers may end the child before it has become Java
# (https://github.com/grpc/grpc/issues/43055). gRPC reads this as soon as it is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import pytest

from server import DEFINITIONS, Server


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A server with the definitions of this folder. Tests share it, each with keys of its own."""
    server = Server(tmp_path_factory.mktemp("store"), history__max_joins="2").start()
    try:
        server.apply(DEFINITIONS)
        yield server
        server.stop()
    finally:
        server.close()


@pytest.fixture
def serve(tmp_path):
    """Starts servers that end with the test: `serve(folder=..., **options)`."""
    servers = []

    def start(folder=tmp_path, **options) -> Server:
        server = Server(folder, **options)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.close()
