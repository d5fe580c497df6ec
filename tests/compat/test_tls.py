"""TLS with certificates that OpenSSL made, spoken by grpcio, by pyarrow's Flight and by Python's own
client of HTTP; renewed while they are connected.
"""

import ssl
import subprocess
import time
import urllib.request

import grpc
import pytest

from server import DEFINITIONS, PATIENCE


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def authority(folder, name="authority"):
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subject = f"/CN=Hydrant tests: {name}"
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", subject]
    openssl("req", "-x509", *options, "-keyout", key, "-out", certificate)
    return certificate, key


def sign(folder, issuer, name):
    """A certificate for localhost, with a key in another of PEM's forms than those of rcgen."""
    certificate, key, request = folder / f"{name}.pem", folder / f"{name}.key", folder / f"{name}.csr"
    extension = folder / f"{name}.ext"
    extension.write_text("subjectAltName=DNS:localhost\n")
    openssl("genrsa", "-traditional", "-out", key, "2048")
    openssl("req", "-new", "-key", key, "-subj", "/CN=localhost", "-out", request)
    by = ["-CA", issuer[0], "-CAkey", issuer[1], "-CAcreateserial", "-extfile", extension]
    openssl("x509", "-req", "-in", request, *by, "-days", "2", "-out", certificate)
    return certificate, key


def shown(server):
    """The certificate that the gRPC port shows now."""
    return ssl.get_server_certificate(("localhost", int(server.local("grpc").rsplit(":", 1)[1])))


@pytest.fixture
def issuer(tmp_path):
    return authority(tmp_path)


def test_grpc_flight_and_http_are_spoken_over_tls(serve, tmp_path, issuer):
    certificate, key = sign(tmp_path, issuer, "server")
    server = serve(authority=issuer[0], tls__certificate=str(certificate), tls__key=str(key))
    told = server.api.registry("GetServerInfo")
    assert told.flight_port == int(server.addresses["flight"].rsplit(":", 1)[1])
    assert list(server.flight.list_actions())
    trusted = ssl.create_default_context(cafile=str(issuer[0]))
    url = f"https://{server.local('http')}/healthz"
    assert urllib.request.urlopen(url, timeout=PATIENCE, context=trusted).read() == b"ok\n"
    with pytest.raises(grpc.RpcError):
        grpc.insecure_channel(server.local("grpc")).unary_unary("/hydrant.v1.RegistryService/GetServerInfo")(
            b"", timeout=PATIENCE
        )


def test_a_renewed_certificate_is_shown_while_clients_stay_connected(serve, tmp_path, issuer):
    certificate, key = sign(tmp_path, issuer, "server")
    server = serve(authority=issuer[0], tls__certificate=str(certificate), tls__key=str(key))
    before = shown(server)
    new_certificate, new_key = sign(tmp_path, issuer, "renewed")
    # Over two looks of the server at its files, as when a certificate is copied before its key.
    new_certificate.replace(certificate)
    assert shown(server) == before
    new_key.replace(key)
    deadline = time.monotonic() + PATIENCE
    while shown(server) == before:
        assert time.monotonic() < deadline, "the renewed certificate was not taken"
        time.sleep(0.2)
    assert server.api.registry("GetServerInfo").version, "the connection from before goes on"


def test_commands_check_the_server_by_the_authority_that_they_are_given(serve, tmp_path, issuer):
    certificate, key = sign(tmp_path, issuer, "server")
    server = serve(authority=issuer[0], tls__certificate=str(certificate), tls__key=str(key))
    server.addresses["grpc"] = f"https://{server.local('grpc')}"
    server.hydrant("--ca", issuer[0], "apply", "-f", DEFINITIONS)
    stranger = authority(tmp_path, "stranger")
    with pytest.raises(AssertionError, match="--ca FILE"):
        server.hydrant("--ca", stranger[0], "get", "views")
