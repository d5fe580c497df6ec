"""Servers for the tests: one that most of them share, and as many of their own as they start."""

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
