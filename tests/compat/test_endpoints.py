"""Training sets in parts, by pyarrow alone: a spine is stored by DoPut, GetFlightInfo gives endpoints,
workers pull them in parallel, and one that fails begins again. The client knows no more of a ticket
than its bytes.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from columns import HOUR, NOON, spine, weather
from server import DEFINITIONS


def store_spine(store, table: pa.Table):
    writer, reader = store.flight.do_put(store.command(store_spine={}), table.schema)
    with writer:
        writer.write_table(table, max_chunksize=100)
        writer.done_writing()
        answer = reader.read()
        assert reader.read() is None, "there is one answer"
    return store.api.message("hydrant.v1.StoredSpine").FromString(answer.to_pybytes())


def flight_info(store, spine_id: str, endpoint_rows=0, **command) -> flight.FlightInfo:
    asked = {"services": ["weather_model"], "event_time": "asked_at", "with_status": True} | command
    return store.flight.get_flight_info(
        store.command(historical_features={"spine": spine_id, "endpoint_rows": endpoint_rows, **asked})
    )


def pull(address: str, ticket: flight.Ticket) -> pa.Table:
    """As a worker does: over a connection of its own."""
    with flight.connect(f"grpc://{address}") as client:
        return client.do_get(ticket).read_all()


def progress(store, ticket: flight.Ticket):
    [result] = store.flight.do_action(flight.Action("training_set.progress", ticket.ticket))
    return store.api.message("hydrant.v1.TrainingSetProgress").FromString(result.body.to_pybytes())


def rows(prefix: str, count: int) -> pa.Table:
    origins = [f"{prefix}{row % 7}" if row % 11 else None for row in range(count)]
    return spine(origins, [NOON + row % 50 for row in range(count)], row=pa.array(range(count)))


def test_workers_pull_endpoints_in_parallel_and_get_what_one_exchange_gives(store):
    store.put("weather", weather([(f"endpoint{n}", NOON + n, float(n), 0.5 * n, "n") for n in range(7)]))
    sent = rows("endpoint", 2_000)
    stored = store_spine(store, sent)
    assert (stored.rows, stored.was_there, len(stored.id)) == (2_000, False, 32)
    assert store_spine(store, sent).was_there

    info = flight_info(store, stored.id, endpoint_rows=150)
    assert (info.total_records, len(info.endpoints)) == (2_000, 14)
    prepared = store.api.message("hydrant.v1.PreparedTrainingSet").FromString(info.app_metadata)
    assert (prepared.rows, list(prepared.services)) == (2_000, ["weather_model@1"])
    state = store.api.enum("hydrant.v1.TrainingSetProgress.State")
    assert progress(store, info.endpoints[0].ticket).state == state["NOT_BEGUN"]

    address = store.addresses["flight"]
    with ThreadPoolExecutor(4) as workers:
        parts = list(workers.map(lambda endpoint: pull(address, endpoint.ticket), info.endpoints))
    assert [part.num_rows for part in parts] == [150] * 13 + [50]
    assert progress(store, info.endpoints[0].ticket).state == state["FOUND"]
    table = pa.concat_tables(parts)
    assert table.schema.equals(info.schema)
    whole, report = store.training_set(
        sent, services=["weather_model"], with_status=True, cutoff=prepared.cutoff
    )
    assert table.equals(whole)
    assert report.spine_hash == stored.spine_hash

    # A worker that fails begins its endpoint again, and rows that came meanwhile change nothing.
    store.put("weather", weather([(f"endpoint{n}", NOON + n, -1.0, -1.0, "late") for n in range(7)]))
    assert pull(address, info.endpoints[5].ticket).equals(parts[5])


def test_a_worker_that_hangs_up_in_the_middle_begins_again_where_it_wants(store):
    sent = rows("hung", 50_000)
    stored = store_spine(store, sent)
    ticket = flight_info(store, stored.id, endpoint_rows=50_000).endpoints[0].ticket
    with flight.connect(f"grpc://{store.addresses['flight']}") as client:
        reader = client.do_get(ticket)
        first = reader.read_chunk().data
        reader.cancel()
    again = pull(store.addresses["flight"], ticket)
    assert again.num_rows == 50_000
    assert pa.Table.from_batches([first]).equals(again.slice(0, first.num_rows))


def test_a_ticket_gives_the_same_rows_after_a_restart(serve):
    server = serve()
    server.apply(DEFINITIONS)
    server.put("weather", weather([("R1", NOON, 1.5, 2.5, "a")]))
    stored = store_spine(server, spine(["R1", "R2", "R1"], [NOON, NOON, NOON + 5 * HOUR]))
    endpoints = flight_info(server, stored.id, endpoint_rows=2).endpoints
    before = [pull(server.addresses["flight"], endpoint.ticket) for endpoint in endpoints]
    server.stop()
    server.start()
    server.put("weather", weather([("R2", NOON, 9.0, 9.0, "late")]))
    after = [pull(server.addresses["flight"], endpoint.ticket) for endpoint in endpoints]
    assert [part.num_rows for part in after] == [2, 1]
    assert all(one.equals(other) for one, other in zip(before, after))


@pytest.mark.parametrize(
    "ticket", [b"", b"nonsense", b"HTK1" + bytes(64), bytes(100_000)], ids=["empty", "text", "head", "long"]
)
def test_a_made_up_ticket_is_refused_and_the_server_goes_on(store, ticket):
    with pytest.raises(pa.ArrowInvalid, match="ticket"):
        store.flight.do_get(flight.Ticket(ticket)).read_all()
    with pytest.raises(pa.ArrowInvalid, match="ticket"):
        list(store.flight.do_action(flight.Action("training_set.progress", ticket)))
    assert [action.type for action in store.flight.list_actions()] == ["training_set.progress"]


def test_a_saved_training_set_is_pulled_by_its_name(store):
    store.put("weather", weather([("saved1", NOON, 3.0, 4.0, "a")]))
    stored = store_spine(store, spine(["saved1", None, "saved1"], [NOON, NOON, NOON - 1]))
    fields = {"name": "saved_here", "services": ["weather_model"], "spine": stored.id, "event_time": "asked_at"}
    *told, last = store.api.stream("hydrant.v1.TrainingSetService", "CreateTrainingSet", **fields)
    created = last.created.training_set
    assert (created.name, created.version, created.rows) == ("saved_here", 1, 3)
    assert told and all(message.HasField("progress") for message in told)
    store.put("weather", weather([("saved1", NOON - 1, 5.0, 6.0, "late")]))
    info = store.flight.get_flight_info(store.command(training_set={"name": "saved_here@1", "endpoint_rows": 1}))
    parts = [pull(store.addresses["flight"], endpoint.ticket) for endpoint in info.endpoints]
    table = pa.concat_tables(parts)
    assert table["airport_weather__temp"].to_pylist() == [3.0, None, None]
    # Whoever knows its name needs no message of Hydrant's.
    [endpoint] = store.flight.get_flight_info(flight.FlightDescriptor.for_path("training_set", "saved_here")).endpoints
    assert pull(store.addresses["flight"], endpoint.ticket).equals(table.combine_chunks())
    prepared = store.api.message("hydrant.v1.PreparedTrainingSet").FromString(info.app_metadata)
    assert (prepared.training_set, prepared.content_hash) == ("saved_here@1", created.content_hash)
    *_, verified = store.api.stream("hydrant.v1.TrainingSetService", "VerifyTrainingSet", name="saved_here")
    assert verified.verified.is_same


def test_many_workers_that_hang_up_leave_no_place_taken(store):
    stored = store_spine(store, rows("left", 20_000))
    endpoints = flight_info(store, stored.id, endpoint_rows=1_000).endpoints

    def hang_up(endpoint):
        with flight.connect(f"grpc://{store.addresses['flight']}") as client:
            reader = client.do_get(endpoint.ticket)
            threading.Thread(target=reader.cancel).start()

    with ThreadPoolExecutor(8) as workers:
        list(workers.map(hang_up, endpoints))
    parts = [pull(store.addresses["flight"], endpoint.ticket) for endpoint in endpoints]
    assert sum(part.num_rows for part in parts) == 20_000
