"""A receiver of notifications that nobody of Hydrant wrote: signatures by Python's hmac, the payload as
Alertmanager documents it, and a server that is killed between two attempts.
"""

import datetime
import hashlib
import hmac
import http.server
import json
import queue
import re
import threading
import time

import pyarrow as pa
import pytest

from server import PATIENCE

SECRET = b"0123456789abcdef-of-a-test"

DEFINITIONS = """
apiVersion: hydrant/v1
kind: Entity
metadata: {name: airport}
spec: {joinKeys: [{name: origin, type: string}]}
---
apiVersion: hydrant/v1
kind: Source
metadata: {name: weather}
spec:
  type: push
  eventTime: event_timestamp
  knownTime: event
  columns: [{name: origin, type: string}, {name: event_timestamp, type: timestamp}, {name: temp, type: float64}]
---
apiVersion: hydrant/v1
kind: FeatureView
metadata: {name: airport_weather, owner: ops}
spec:
  entities: [airport]
  source: weather
  features: [{name: temp}]
  freshness: {maxAge: 1h, severity: page}
"""

# https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
SHAPE = {
    "version": str, "groupKey": str, "truncatedAlerts": int, "status": str, "receiver": str, "groupLabels": dict,
    "commonLabels": dict, "commonAnnotations": dict, "externalURL": str, "alerts": list,
}
ALERT_SHAPE = {
    "status": str, "labels": dict, "annotations": dict, "startsAt": str, "endsAt": str, "generatorURL": str,
    "fingerprint": str,
}


class Receiver:
    """Answers `status` to all that comes, and keeps it."""

    def __init__(self):
        self.received, self.status = queue.Queue(), 200
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.received.put((dict(self.headers.items()), body))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def next(self, timeout=PATIENCE):
        headers, body = self.received.get(timeout=timeout)
        return {name.lower(): value for name, value in headers.items()}, body


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()


def verify(headers, body, secret=SECRET):
    """As a receiver would: the signature of `SECONDS.BODY`, and not an old one."""
    seconds, tag = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", headers["hydrant-signature"]).groups()
    expected = hmac.new(secret, seconds.encode() + b"." + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(tag, expected) and abs(time.time() - int(seconds)) < 300


def check_shape(notification):
    assert notification.keys() == SHAPE.keys()
    assert all(isinstance(notification[name], kind) for name, kind in SHAPE.items())
    assert notification["version"] == "4" and notification["status"] in ("firing", "resolved")
    for alert in notification["alerts"]:
        assert alert.keys() == ALERT_SHAPE.keys()
        assert all(isinstance(alert[name], kind) for name, kind in ALERT_SHAPE.items())
        assert alert["status"] in ("firing", "resolved")
        assert re.fullmatch("[0-9a-f]{16}", alert["fingerprint"])
        for instant in ("startsAt", "endsAt"):
            datetime.datetime.fromisoformat(alert[instant].replace("Z", "+00:00"))
        texts = [*alert["labels"].items(), *alert["annotations"].items()]
        assert all(isinstance(text, str) for pair in texts for text in pair)
        assert notification["groupLabels"].items() <= alert["labels"].items()
        assert notification["commonLabels"].items() <= alert["labels"].items()
    firing = any(alert["status"] == "firing" for alert in notification["alerts"])
    assert (notification["status"] == "firing") == firing


def rows(instant):
    times = pa.array([instant], pa.timestamp("us", "UTC"))
    return pa.table({"origin": ["EWR"], "event_timestamp": times, "temp": [1.0]})


def test_notifications_are_signed_shaped_as_documented_and_survive_a_kill(serve, receiver, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET + b"\n")
    (tmp_path / "definitions.yaml").write_text(DEFINITIONS)
    receiver.status = 503
    server = serve(
        freshness__interval="50ms", alerts__webhooks=receiver.url, alerts__secret_file=str(secret)
    )
    server.apply(tmp_path / "definitions.yaml")
    server.put("weather", rows(datetime.datetime(2013, 12, 30, tzinfo=datetime.timezone.utc)))
    headers, body = receiver.next()
    assert verify(headers, body)
    assert not verify(headers, body + b" ") and not verify(headers, body, b"another secret")
    notification = json.loads(body)
    check_shape(notification)
    assert notification["alerts"][0]["labels"] == {
        "alertname": "FreshnessBreached", "severity": "page", "tenant": "default", "view": "airport_weather",
    }
    shown = json.loads(server.hydrant("sla", "silence", "airport_weather", "--for", "2h", "--reason", "r", "-o", "json"))

    server.close()  # It is killed; what it could not deliver is sent by the next one.
    receiver.status = 200
    server.start()
    deadline = time.monotonic() + PATIENCE
    while server.metric_sum("hydrant_freshness_notifications_sent_total") == 0:
        assert time.monotonic() < deadline, server.log_tail()
        try:  # Attempts of before may still be in the queue.
            again_headers, again = receiver.next(timeout=0.2)
        except queue.Empty:
            continue
        assert verify(again_headers, again) and again == body
        assert again_headers["hydrant-delivery"] == headers["hydrant-delivery"]
    while not receiver.received.empty():
        assert receiver.next()[1] == body
    silences = json.loads(server.hydrant("sla", "silences", "-o", "json"))["silences"]
    assert silences == [shown]
    assert SECRET.decode() not in server.log.read_text()

    server.put("weather", rows(datetime.datetime.now(datetime.timezone.utc)))
    server.hydrant("sla", "unsilence", str(shown["id"]))
    headers, body = receiver.next()
    assert verify(headers, body)
    notification = json.loads(body)
    check_shape(notification)
    assert [alert["status"] for alert in notification["alerts"] if alert["labels"]["alertname"] == "FreshnessBreached"] == [
        "resolved"
    ]
    server.stop()
