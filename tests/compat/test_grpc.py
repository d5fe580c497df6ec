"""gRPC by grpcio and the server's reflection, as any language would call it: no generated code, and
errors read by google.rpc's model.
"""

import grpc
import pyarrow as pa
import pytest
from pyarrow import flight

from columns import HOUR, NOON, STATUSES, cells, column, doubles, int64s, now, strings, times, weather
from server import Refused, refused

Code = grpc.StatusCode
SERVICES = [f"hydrant.v1.{name}" for name in ("OnlineService", "IngestService", "RegistryService", "BackupService")]


def ingest(store, source, *columns, **more):
    return store.api.ingest(source=source, columns={"columns": columns}, wait_visible=True, **more)


def ingest_weather(store, *rows, **more):
    """Rows (origin, micros, temp, wind, note)."""
    origins, micros, temps, winds, notes = (list(values) for values in zip(*rows))
    return ingest(
        store,
        "weather",
        strings("origin", origins),
        times("event_timestamp", micros),
        doubles("temp", temps),
        doubles("wind_speed", winds),
        strings("note", notes),
        **more,
    )


# What there is


def test_reflection_tells_what_is_served(store):
    assert {*SERVICES, "grpc.health.v1.Health"} <= set(store.api.database.get_services())
    statuses = store.api.enum("hydrant.v1.CellStatus")
    assert [name.removeprefix("CELL_STATUS_") for name in statuses] == STATUSES


def test_health_is_told_for_the_server_and_for_each_service(store):
    for service in ["", *SERVICES, "arrow.flight.protocol.FlightService"]:
        assert store.api.unary("grpc.health.v1.Health", "Check", service=service).status == 1, service
    with pytest.raises(grpc.RpcError) as refusal:
        store.api.unary("grpc.health.v1.Health", "Check", service="nobody")
    assert refusal.value.code() == Code.NOT_FOUND


def test_one_address_tells_where_the_others_are(store):
    before = now()
    told = store.api.registry("GetServerInfo")
    assert told.flight_port == int(store.addresses["flight"].rsplit(":", 1)[1])
    assert told.http_port == int(store.addresses["http"].rsplit(":", 1)[1])
    assert told.version and told.registry_revision > 0
    assert told.store_time >= before - HOUR


def test_an_unknown_method_is_refused_as_such(store):
    call = store.channel.unary_unary("/hydrant.v1.OnlineService/Guess")
    with refused(Code.UNIMPLEMENTED, "UNKNOWN_METHOD"):
        call(b"")


# Definitions


def test_definitions_are_planned_applied_listed_and_deleted(store):
    kind = store.api.enum("hydrant.v1.Kind")
    action = store.api.enum("hydrant.v1.Change.Action")
    source = {
        "metadata": {"name": "grpc_source", "tags": {"b": "2", "a": "1"}},
        "source": {
            "type": "push",
            "event_time": "at",
            "known_time": "event+10m",
            "columns": [
                {"name": "origin", "type": "string"},
                {"name": "at", "type": "timestamp"},
                {"name": "x", "type": "int64"},
            ],
        },
    }
    view = {
        "metadata": {"name": "grpc_view"},
        "feature_view": {
            "entities": ["airport"],
            "source": "grpc_source",
            "ttl_micros": HOUR,
            "features": [{"name": "x", "default_json": '"7"'}],
        },
    }
    planned = store.api.registry("Plan", definitions=[view, source])
    assert not planned.problems
    assert {(change.name, change.action) for change in planned.changes} == {
        ("grpc_view", action["CREATE"]),
        ("grpc_source", action["CREATE"]),
    }
    with refused(Code.ABORTED, "REVISION_MISMATCH"):
        store.api.registry("Apply", definitions=[view, source], expected_revision=planned.registry_revision + 9)
    applied = store.api.registry("Apply", definitions=[view, source], expected_revision=planned.registry_revision)
    assert applied.registry_revision > planned.registry_revision
    again = store.api.registry("Plan", definitions=[view, source])
    assert {change.action for change in again.changes} == {action["UNCHANGED"]}

    found = store.api.registry("GetDefinition", kind=kind["SOURCE"], name="grpc_source")
    assert dict(found.metadata.tags) == {"a": "1", "b": "2"} and found.source.known_time == "event+10m"
    assert found.status.etag
    names, token = [], ""
    while True:
        page = store.api.registry("ListDefinitions", kind=kind["SOURCE"], page_size=2, page_token=token)
        assert len(page.definitions) <= 2
        names += [definition.metadata.name for definition in page.definitions]
        token = page.next_page_token
        if not token:
            break
    assert names == sorted(set(names)) and {"grpc_source", "weather", "parcels"} <= set(names)

    lineage = store.api.registry("GetLineage", kind=kind["FEATURE_VIEW"], name="grpc_view")
    assert {(edge.from_name, edge.to_name) for edge in lineage.upstream} >= {("grpc_source", "grpc_view")}
    with refused(Code.FAILED_PRECONDITION, "DEFINITION_IN_USE") as told:
        store.api.registry("DeleteDefinition", kind=kind["SOURCE"], name="grpc_source")
    assert "grpc_view" in told[0].message
    with refused(Code.ABORTED, "ETAG_MISMATCH"):
        store.api.registry("DeleteDefinition", kind=kind["FEATURE_VIEW"], name="grpc_view", etag="old")
    store.api.registry("DeleteDefinition", kind=kind["FEATURE_VIEW"], name="grpc_view")
    store.api.registry("DeleteDefinition", kind=kind["SOURCE"], name="grpc_source", etag=found.status.etag)


@pytest.mark.parametrize(
    "definitions, parts",
    [
        pytest.param(
            [
                {"metadata": {"name": "Bad-Name"}, "entity": {"join_keys": [{"name": "k", "type": "float65"}]}},
                {"metadata": {"name": "no_spec"}},
            ],
            [(0, "Bad-Name"), (0, "float65"), (1, "spec")],
            id="shape",
        ),
        pytest.param(
            [
                {"metadata": {"name": "by_float"}, "entity": {"join_keys": [{"name": "k", "type": "float64"}]}},
                {"metadata": {"name": "lost"}, "feature_view": {"entities": ["nobody"], "source": "nothing"}},
            ],
            [(0, "float64"), (1, "nobody"), (1, "nothing")],
            id="meaning",
        ),
    ],
)
def test_a_plan_lists_every_problem_at_once(store, definitions, parts):
    planned = store.api.registry("Plan", definitions=definitions)
    assert not planned.changes
    told = [(problem.definition, f"{problem.path}: {problem.message}") for problem in planned.problems]
    for definition, part in parts:
        assert any(number == definition and part in text for number, text in told), (part, told)
    with refused(Code.INVALID_ARGUMENT, "INVALID_DEFINITION") as refusal:
        store.api.registry("Apply", definitions=definitions)
    assert len(refusal[0].violations) == len(told)


# Rows go in


def test_rows_are_acknowledged_once_and_read_back(store):
    outcomes = store.api.enum("hydrant.v1.IngestResponse.Outcome")
    rows = [("G01", NOON, 1.5, None, "a"), ("G02", NOON, None, 2.5, None)]
    answer = ingest_weather(store, *rows, producer="grpcio", sequence=1)
    assert (answer.outcome, answer.rows, bool(answer.position.token)) == (outcomes["APPLIED"], 2, True)
    again = ingest_weather(store, *rows, producer="grpcio", sequence=1)
    assert (again.outcome, again.position) == (outcomes["ALREADY_APPLIED"], answer.position)
    assert again.ingest_time == answer.ingest_time
    with refused(Code.ALREADY_EXISTS, "SEQUENCE_REUSED"):
        ingest_weather(store, *rows[:1], producer="grpcio", sequence=1)
    read = store.api.online(services=["weather_model"], entities=[strings("origin", ["G01", "G02"])], at=NOON)
    assert cells(read, "airport_weather__temp") == [(1.5, "PRESENT"), (0.0, "NULL")]
    assert cells(read, "airport_weather__wind") == [(0.0, "NULL"), (2.5, "PRESENT")]
    assert cells(read, "airport_weather__note") == [("a", "PRESENT"), ("", "NULL")]


def test_rows_may_come_as_an_arrow_stream(store):
    rows = weather([("G03", NOON, 3.5, 0.0, "n")])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    ipc = sink.getvalue().to_pybytes()
    checked = store.api.ingest(source="weather", arrow_ipc=ipc, validate_only=True)
    assert checked.outcome == store.api.enum("hydrant.v1.IngestResponse.Outcome")["VALID"]
    read = {"features": ["airport_weather:temp"], "entities": [strings("origin", ["G03"])], "at": NOON}
    assert cells(store.api.online(**read), "airport_weather__temp") == [(0.0, "NOT_FOUND")], "validated, not written"
    assert store.api.ingest(source="weather", arrow_ipc=ipc, wait_visible=True).rows == 1
    assert cells(store.api.online(**read), "airport_weather__temp") == [(3.5, "PRESENT")]
    with refused(Code.INVALID_ARGUMENT, "MALFORMED_ARROW"):
        store.api.ingest(source="weather", arrow_ipc=ipc[:-20])


def test_bad_rows_refuse_the_request_naming_twenty_of_them(store):
    rows = [("G04", NOON + n, 1.0, 0.0, "n") for n in range(60)]
    rows[1::2] = [("G04", None, 1.0, 0.0, "n")] * 30
    rows[2] = (None, NOON, 1.0, 0.0, "n")
    with refused(Code.INVALID_ARGUMENT, "BAD_ROWS") as told:
        ingest_weather(store, *rows)
    assert dict(told[0].info.metadata)["bad_rows"] == "31"
    paths = [path for path, _ in told[0].violations]
    assert len(paths) == 20 and paths[:3] == ["rows[1].event_timestamp", "rows[2].key", "rows[3].event_timestamp"]
    read = store.api.online(services=["weather_model"], entities=[strings("origin", ["G04"])], at=NOON)
    assert cells(read, "airport_weather__temp") == [(0.0, "NOT_FOUND")], "nothing was written"


def test_rows_too_far_ahead_are_refused_and_those_a_little_ahead_become_visible_in_time(store):
    with refused(Code.INVALID_ARGUMENT, "BAD_ROWS") as told:
        ingest_weather(store, ("G05", now() + HOUR, 1.0, 0.0, "n"))
    assert "ahead of store time" in told[0].violations[0][1]
    ahead = ingest_weather(store, ("G05", now() - HOUR, 1.0, 0.0, "n"), ("G05", now() + HOUR // 30, 2.0, 0.0, "n"))
    read = store.api.online(
        services=["weather_model"], entities=[strings("origin", ["G05"])], at_least=ahead.position
    )
    assert cells(read, "airport_weather__temp") == [(1.0, "PRESENT")]


def test_a_stream_is_answered_request_by_request_and_a_refusal_ends_it(store):
    def request(origin):
        rows = [strings("origin", [origin]), times("event_timestamp", [NOON]), doubles("temp", [1.0])]
        return {"source": "weather", "columns": {"columns": rows}}

    answers = store.api.both_streams(
        "hydrant.v1.IngestService", "IngestStream", [request("G06"), request("G07"), request(None), request("G08")]
    )
    assert [next(answers).rows, next(answers).rows] == [1, 1]
    with pytest.raises(grpc.RpcError) as ended:
        next(answers)
    refusal = Refused(ended.value)
    assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "BAD_ROWS")
    assert refusal.message.startswith("request 2:") and refusal.info.metadata["request"] == "2"


def test_a_deleted_key_is_not_found_from_then_on(store):
    ingest_weather(store, ("G09", NOON, 1.0, 5.0, "n"), ("G10", NOON, 1.0, 5.0, "n"))
    gone = store.api.unary(
        "hydrant.v1.IngestService",
        "Delete",
        view="airport_weather",
        keys=[strings("origin", ["G09"])],
        event_times=[NOON + 10],
    )
    read = {"services": ["weather_model"], "entities": [strings("origin", ["G09", "G10"])], "at_least": gone.position}
    after = store.api.online(at=NOON + 10, **read)
    assert cells(after, "airport_weather__temp") == [(0.0, "NOT_FOUND"), (1.0, "PRESENT")]
    assert cells(after, "airport_weather__wind") == [(0.0, "NOT_FOUND"), (5.0, "PRESENT")], "with its default"
    before = store.api.online(at=NOON + 9, **read)
    assert cells(before, "airport_weather__temp") == [(1.0, "PRESENT")] * 2


def test_a_message_beyond_the_limit_is_refused_naming_the_option(store):
    note = "x" * (17 << 20)
    with refused(Code.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE") as told:
        ingest_weather(store, ("G11", NOON, 1.0, 0.0, note))
    assert "server.grpc_max_message" in told[0].message
    assert ingest_weather(store, ("G11", NOON, 1.0, 0.0, "short")).rows == 1, "the connection goes on"


# Features come out


def test_several_services_share_the_columns_that_both_need(store):
    ingest_weather(store, ("G20", NOON, 1.0, 2.0, "here"), ("G21", NOON, 3.0, 4.0, "there"))
    ingest(store, "delays", strings("carrier", ["G2"]), times("event_timestamp", [NOON]), int64s("minutes", [-5]))
    answer = store.api.online(
        services=["route_model", "weather_model@1"],
        features=["airport_weather:note"],
        entities=[
            strings("origin", ["G20", "G21", None, "nowhere"]),
            strings("dest", ["G21", "nowhere", "G20", "G20"]),
            strings("carrier", ["G2"]),
        ],
        at=NOON + HOUR,
        include_event_times=True,
    )
    assert answer.rows == 4
    names = [found.column.name for found in answer.columns]
    assert len(names) == len(set(names)), "each stands there once"
    assert {found.service: [names[index] for index in found.columns] for found in answer.services} == {
        "route_model@1": ["airport_weather__temp", "dest_weather__temp", "carrier_delays__minutes"],
        "weather_model@1": ["airport_weather__temp", "airport_weather__wind", "airport_weather__note"],
    }
    missing = (0.0, "NOT_FOUND")
    assert cells(answer, "airport_weather__temp") == [(1.0, "PRESENT"), (3.0, "PRESENT"), missing, missing]
    assert cells(answer, "dest_weather__temp") == [(3.0, "PRESENT"), missing, (1.0, "PRESENT"), (1.0, "PRESENT")]
    assert cells(answer, "airport_weather__note")[:2] == [("here", "PRESENT"), ("there", "PRESENT")]
    # Known on arrival, long after the instant of this read; one key for all rows, one cell.
    assert cells(answer, "carrier_delays__minutes") == [(0, "NOT_FOUND")]

    event_times = {(found.view, *found.keys): found for found in answer.event_times}
    dest = event_times["airport_weather", "dest"]
    assert list(dest.found) == [True, False, True, True]
    assert [micros for micros, found in zip(dest.micros, dest.found) if found] == [NOON] * 3
    provenance = answer.provenance
    assert (provenance.t, provenance.registry_revision) == (
        NOON + HOUR,
        store.api.registry("GetServerInfo").registry_revision,
    )
    views = {found.view: found for found in provenance.views}
    assert views["airport_weather"].newest_event_time >= NOON
    assert all(found.complete_through > NOON for found in views.values())


def test_a_key_given_once_holds_for_all_rows_and_its_features_come_back_once(store):
    ingest_weather(store, *[(f"G30{n}", now(), float(n), 0.0, "n") for n in range(5)])
    ingest(store, "delays", strings("carrier", ["G3"]), times("event_timestamp", [now()]), int64s("minutes", [9]))
    answer = store.api.online(
        services=["route_model"],
        entities=[
            strings("origin", ["G300"]),
            strings("dest", [f"G30{n % 5}" for n in range(500)]),
            strings("carrier", ["G3"]),
        ],
    )
    assert answer.rows == 500
    assert cells(answer, "carrier_delays__minutes") == [(9, "PRESENT")]
    assert cells(answer, "airport_weather__temp") == [(0.0, "PRESENT")]
    assert cells(answer, "dest_weather__temp") == [(float(n % 5), "PRESENT") for n in range(500)]
    assert len(answer.columns[1].statuses) == 1, "a single status where all are alike"


def test_the_status_of_a_cell_tells_why_it_has_no_value_and_defaults_fill_by_it(store):
    moment = now()
    written = ingest_weather(
        store,
        ("G40", moment, 1.0, 5.0, "n"),
        ("G41", moment, None, None, None),
        ("G42", moment - 3 * HOUR - 60_000_000, 1.0, 5.0, "n"),
    )
    answer = store.api.online(
        services=["weather_model"],
        entities=[strings("origin", ["G40", "G41", "G42", "nowhere", None])],
        at_least=written.position,
        strict=True,  # missing data is no failure
    )
    statuses = ["PRESENT", "NULL", "EXPIRED", "NOT_FOUND", "NOT_FOUND"]
    assert cells(answer, "airport_weather__temp") == list(zip([1.0, 0, 0, 0, 0], statuses))
    assert cells(answer, "airport_weather__wind") == list(zip([5.0, 0.0, 0.0, 0.0, 0.0], statuses))
    assert cells(answer, "airport_weather__note") == list(zip(["n", "", "", "", ""], statuses))


def test_a_default_that_is_not_zero_is_sent_with_the_status_that_it_fills(store):
    read = {"services": ["counts_model"], "entities": [strings("origin", ["G50", "nowhere"])]}
    ingest(
        store,
        "counts",
        strings("origin", ["G50"]),
        times("event_timestamp", [NOON]),
        times("created_timestamp", [NOON + HOUR]),
        int64s("flights", [None]),
    )
    assert cells(store.api.online(**read), "airport_counts__flights") == [(0, "NULL"), (-1, "NOT_FOUND")]
    # Not known yet at this instant.
    early = store.api.online(at=NOON + HOUR - 1, **read)
    assert cells(early, "airport_counts__flights") == [(-1, "NOT_FOUND")] * 2
    assert early.provenance.rows_from_history == 1


def test_every_type_is_read_as_it_was_written(store):
    def one(name, kind, value):
        return column(name, kind, [value], value)

    ingest(
        store,
        "parcels",
        one("hub", "int64s", -(2**63)),
        one("label", "bytes", b"\x00\xff"),
        times("scanned_at", [NOON]),
        one("fragile", "bools", True),
        one("pieces", "int32s", -(2**31)),
        one("cents", "int64s", 2**63 - 1),
        one("weight", "float32s", -0.0),
        one("volume", "float64s", 5e-324),
        one("town", "strings", "Ærøskøbing \U0001f30a"),
        one("seal", "bytes", b""),
        times("due", [-1]),
        {"name": "stops", "lists": {"offsets": [0, 2], "elements": {"int64s": {"values": [1, 0]}, "nulls": [False, True]}}},
        {"name": "tags", "lists": {"offsets": [0, 0], "elements": {"strings": {}}}},
        {"name": "embedding", "vectors": {"dimension": 3, "values": [1.0, -0.5, 0.25]}},
    )
    keys = [one("hub", "int64s", -(2**63)), one("label", "bytes", b"\x00\xff")]
    answer = store.api.online(services=["parcel_model"], entities=keys, at=NOON)
    found = {name.column.name.removeprefix("parcel_scans__"): cells(answer, name.column.name) for name in answer.columns}
    assert all(status == "PRESENT" for ((_, status),) in found.values()), found
    values = {name: value for name, ((value, _),) in found.items()}
    assert str(values.pop("weight")) == "-0.0"
    assert values == {
        "fragile": True,
        "pieces": -(2**31),
        "cents": 2**63 - 1,
        "volume": 5e-324,
        "town": "Ærøskøbing \U0001f30a",
        "seal": b"",
        "due": -1,
        "stops": [1, None],
        "tags": [],
        "embedding": [1.0, -0.5, 0.25],
    }


def test_an_answer_in_arrow_holds_what_the_plain_one_holds(store):
    moment = now()
    written = ingest_weather(
        store, ("G55", moment, 1.5, None, "ß"), ("G56", moment - 3 * HOUR - 60_000_000, 1.0, 5.0, "n")
    )
    read = {
        "services": ["route_model", "weather_model"],
        "entities": [
            strings("origin", ["G55", "G56", "nowhere", None]),
            strings("dest", ["G56", "G55", None, "G55"]),
            strings("carrier", ["nobody"]),
        ],
        "at_least": written.position,
        "include_event_times": True,
    }
    plain = store.api.online(**read)
    answer = store.api.online(format="ARROW_IPC", with_status=True, with_event_time=True, **read)
    with pa.ipc.open_stream(answer.arrow_ipc) as reader:
        (batch,) = reader
    assert not answer.columns and answer.rows == plain.rows == batch.num_rows
    assert answer.event_times == plain.event_times
    names = [found.column.name for found in plain.columns]
    beside = [name + end for name in names for end in ("", "__status", "__event_time")]
    assert batch.schema.names == ["origin", "dest", "carrier", *beside]
    assert batch.column("origin").to_pylist() == ["G55", "G56", "nowhere", None]
    assert batch.column("carrier").to_pylist() == ["nobody"] * 4
    for found in plain.columns:
        told = cells(plain, found.column.name)
        nulls = found.column.nulls or [False] * len(told)
        wanted = [(None if null else value, status) for (value, status), null in zip(told, nulls)]
        wanted *= 4 if len(wanted) == 1 else 1
        status = batch.column(found.column.name + "__status").to_pylist()
        assert list(zip(batch.column(found.column.name).to_pylist(), status)) == wanted, found.column.name
    times = {(found.view, *found.keys): found for found in plain.event_times}["airport_weather", "origin"]
    wanted = [micros if found else None for micros, found in zip(times.micros, times.found)]
    assert batch.column("airport_weather__temp__event_time").cast(pa.int64()).to_pylist() == wanted
    for service, other in zip(answer.services, plain.services):
        shown = [batch.schema.names[index] for index in service.columns]
        assert (service.service, shown) == (other.service, [names[index] for index in other.columns])
    assert {field.type for field in batch.schema if field.name.endswith("__event_time")} == {pa.timestamp("us", "UTC")}


def test_arrow_answers_have_the_types_of_a_training_set(store):
    def one(name, kind, value):
        return column(name, kind, [value], value)

    keys = [one("hub", "int64s", 7), one("label", "bytes", b"arrow")]
    answer = store.api.online(services=["parcel_model"], entities=keys, format="ARROW_IPC")
    schema = pa.ipc.open_stream(answer.arrow_ipc).schema
    descriptor = flight.FlightDescriptor.for_path("service", "parcel_model")
    assert schema == store.flight.get_schema(descriptor).schema


def test_an_answer_in_matrices_holds_the_numbers_of_the_plain_one(store):
    moment = now()
    written = ingest_weather(
        store, ("G57", moment, 1.5, None, "m"), ("G58", moment - 3 * HOUR - 60_000_000, 1.0, 5.0, "m")
    )
    read = {
        "features": ["airport_weather:temp", "airport_weather:wind", "carrier_delays:minutes"],
        "entities": [strings("origin", ["G57", "G58", "nowhere"]), strings("carrier", ["nobody"])],
        "at_least": written.position,
    }
    plain = store.api.online(**read)
    answer = store.api.online(format="MATRIX", **read)
    assert not answer.columns and answer.rows == plain.rows == 3
    each, shared = answer.matrices
    assert (each.rows, list(each.columns), shared.rows, list(shared.columns)) == (3, [0, 1], 1, [2])
    for matrix in answer.matrices:
        width, statuses = len(matrix.columns), list(matrix.statuses)
        statuses *= matrix.rows * width if len(statuses) == 1 else 1
        for place, number in enumerate(matrix.columns):
            found = plain.columns[number].column
            told = cells(plain, found.name)
            nulls = found.nulls or [False] * matrix.rows
            wanted = [("nan" if null else str(float(value)), status) for (value, status), null in zip(told, nulls)]
            numbers, beside = matrix.values[place::width], statuses[place::width]
            assert [(str(number), STATUSES[status]) for number, status in zip(numbers, beside)] == wanted, found.name
    with refused(Code.INVALID_ARGUMENT, "COLUMN_NOT_NUMERIC"):
        store.api.online(format="MATRIX", **{**read, "features": ["airport_weather:note"]})


def stream(store, batch_size=0, unpinned=False, **read):
    fields = {"request": read, "batch_size": batch_size, "unpinned": unpinned}
    return store.api.stream("hydrant.v1.OnlineService", "StreamOnlineFeatures", **fields)


@pytest.mark.parametrize("arrow", [False, True])
def test_a_stream_answers_many_keys_piece_by_piece_as_of_one_instant(store, arrow):
    ingest_weather(store, *[(f"S{n}", NOON, float(n), None, f"{n}") for n in range(0, 2_500, 2)])
    keys = [f"S{n}" for n in range(2_500)]
    read = {"services": ["weather_model"], "at": NOON + HOUR}
    read |= {"format": "ARROW_IPC", "with_status": True} if arrow else {}
    expected = [(float(n), "PRESENT") if n % 2 == 0 else (0.0, "NOT_FOUND") for n in range(2_500)]
    found, first_rows = [], []
    for answer in stream(store, entities=[strings("origin", keys)], **read):
        first_rows.append(answer.first_row)
        assert answer.provenance.t == NOON + HOUR
        if arrow:
            table = pa.ipc.open_stream(answer.arrow_ipc).read_all()
            assert table["origin"].to_pylist() == keys[answer.first_row : answer.first_row + answer.rows]
            temps = [temp or 0.0 for temp in table["airport_weather__temp"].to_pylist()]
            found += zip(temps, table["airport_weather__temp__status"].to_pylist())
        else:
            found += cells(answer, "airport_weather__temp")
    assert first_rows == [0, 1_000, 2_000]
    assert found == expected


def test_a_stream_of_now_has_one_instant_and_an_unpinned_one_goes_on_with_time(store):
    keys = [strings("origin", [f"S{n}" for n in range(300)])]
    pinned = {answer.provenance.t for answer in stream(store, 10, services=["weather_model"], entities=keys)}
    assert len(pinned) == 1
    unpinned = [answer.provenance.t for answer in stream(store, 10, True, services=["weather_model"], entities=keys)]
    assert len(unpinned) == 30 and unpinned == sorted(unpinned) and unpinned[0] < unpinned[-1]
    with refused(Code.INVALID_ARGUMENT, "BAD_STREAM"):
        list(stream(store, 10, True, services=["weather_model"], entities=keys, at=NOON))


def test_a_stream_that_is_cancelled_ends(store):
    keys = [strings("origin", [f"S{n}" for n in range(100_000)])]
    answers = stream(store, 1, services=["weather_model"], entities=keys)
    assert next(answers).first_row == 0
    answers.cancel()
    with pytest.raises(grpc.RpcError) as ended:
        list(answers)
    assert ended.value.code() == Code.CANCELLED
    assert len(list(stream(store, services=["weather_model"], entities=keys))) == 100


@pytest.mark.parametrize("fields", [{"format": 7}, {"with_status": True}, {"with_event_time": True}])
def test_a_format_that_is_not_served_is_refused(store, fields):
    with refused(Code.INVALID_ARGUMENT, "BAD_FORMAT"):
        store.api.online(services=["weather_model"], entities=[strings("origin", ["a"])], **fields)


def test_a_read_may_be_pinned_to_an_instant_that_has_come_and_to_no_other(store):
    ingest_weather(store, *[("G60", NOON + hour * HOUR, float(hour), 0.0, "n") for hour in range(3)])
    read = {"features": ["airport_weather:temp"], "entities": [strings("origin", ["G60"])]}
    for at, wanted, from_history in [
        (NOON - 1, (0.0, "NOT_FOUND"), 1),
        (NOON, (0.0, "PRESENT"), 1),
        (NOON + HOUR, (1.0, "PRESENT"), 1),
        (NOON + 2 * HOUR - 1, (1.0, "PRESENT"), 1),
        # The online row counts here, but has expired since, and only its header is left.
        (NOON + 5 * HOUR, (2.0, "PRESENT"), 1),
        (NOON + 5 * HOUR + 1, (0.0, "EXPIRED"), 0),
    ]:
        answer = store.api.online(at=at, **read)
        assert cells(answer, "airport_weather__temp") == [wanted], at
        assert answer.provenance.t == at
        assert answer.provenance.rows_from_history == from_history, at
    with refused(Code.INVALID_ARGUMENT, "AT_IN_FUTURE") as told:
        store.api.online(at=now() + HOUR, **read)
    assert int(told[0].info.metadata["store_time"]) > NOON


def test_an_answer_waits_for_the_position_that_it_is_given(store):
    read = {"features": ["airport_weather:temp"], "entities": [strings("origin", ["G61"])]}
    for step in range(20):
        rows = [strings("origin", ["G61"]), times("event_timestamp", [NOON + step]), doubles("temp", [float(step)])]
        acknowledged = store.api.ingest(source="weather", columns={"columns": rows})
        answer = store.api.online(at=NOON + step, at_least=acknowledged.position, **read)
        assert cells(answer, "airport_weather__temp") == [(float(step), "PRESENT")]
        assert answer.provenance.views[0].complete_through >= acknowledged.ingest_time
    with refused(Code.INVALID_ARGUMENT, "MALFORMED_POSITION"):
        store.api.online(at_least={"token": b"yesterday"}, **read)


@pytest.mark.parametrize(
    "request_fields, code, reason, named",
    [
        ({"services": ["nobody"]}, Code.NOT_FOUND, "SERVICE_NOT_FOUND", "nobody"),
        ({"services": ["weather_model@9"]}, Code.NOT_FOUND, "SERVICE_VERSION_NOT_FOUND", "9"),
        ({"services": ["weather_model@x"]}, Code.INVALID_ARGUMENT, "BAD_SERVICE_REFERENCE", "weather_model@x"),
        ({"features": ["nowhere:temp"]}, Code.NOT_FOUND, "VIEW_NOT_FOUND", "nowhere"),
        ({"features": ["airport_weather:rain"]}, Code.NOT_FOUND, "FEATURE_NOT_FOUND", "rain"),
        ({"features": ["airport_weather"]}, Code.INVALID_ARGUMENT, "BAD_FEATURE_REFERENCE", "airport_weather"),
        ({}, Code.INVALID_ARGUMENT, "NOTHING_SELECTED", ""),
        ({"services": ["weather_model"], "entities": []}, Code.INVALID_ARGUMENT, "BAD_ENTITY_COLUMNS", "origin"),
        (
            {"services": ["weather_model"], "entities": [int64s("origin", [1])]},
            Code.INVALID_ARGUMENT,
            "BAD_ENTITY_COLUMNS",
            "origin",
        ),
        (
            {"services": ["weather_model"], "entities": [strings("origin", ["a"]), strings("planet", ["b"])]},
            Code.INVALID_ARGUMENT,
            "BAD_ENTITY_COLUMNS",
            "planet",
        ),
        (
            {"services": ["route_model"], "entities": [strings("origin", ["a"] * 2), strings("dest", ["b"] * 3)]},
            Code.INVALID_ARGUMENT,
            "UNEVEN_COLUMNS",
            "dest",
        ),
        (
            {"services": ["weather_model"], "request_context": [strings("basket", ["x"])]},
            Code.UNIMPLEMENTED,
            None,
            "request_context",
        ),
    ],
)
def test_a_wrong_read_is_refused_naming_the_thing_and_the_rule(store, request_fields, code, reason, named):
    with pytest.raises(grpc.RpcError) as ended:
        store.api.online(**({"entities": [strings("origin", ["G70"])]} | request_fields))
    refusal = Refused(ended.value)
    assert (refusal.code, refusal.reason) == (code, reason or refusal.reason), refusal.message
    assert named in refusal.message
