"""Arrow Flight by pyarrow: spines of every shape go up and come back joined, rows are ingested, and
what there is can be listed. The client is pyarrow's own; only the command is Hydrant's.
"""

import decimal
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight
import pytest

from columns import HOUR, INSTANT, NOON, spine, strings, cells, weather
from server import PATIENCE


def statuses(table, feature) -> list:
    return table[f"{feature}__status"].to_pylist()


def train(store, table, **command):
    return store.training_set(table, **{"services": ["weather_model"], "with_status": True} | command)


# The spine comes back


def test_a_spine_comes_back_in_its_order_with_the_value_and_status_of_every_cell(store):
    store.put(
        "weather",
        weather(
            [
                ("F01", NOON, 10.0, 1.0, "a"),
                ("F01", NOON + HOUR, None, None, None),
                ("F01", NOON + 2 * HOUR, 12.0, 3.0, "c"),
            ]
        ),
    )
    asked = [
        ("F01", NOON + 5 * HOUR + 1, None, "EXPIRED"),
        ("F01", NOON - 1, None, "NOT_FOUND"),
        ("F01", NOON, 10.0, "PRESENT"),
        (None, NOON, None, "NOT_FOUND"),
        ("F01", NOON + HOUR, None, "NULL"),
        ("F01", NOON + HOUR - 1, 10.0, "PRESENT"),
        ("F01", NOON + 5 * HOUR, 12.0, "PRESENT"),  # both ends of the ttl are included
        ("nowhere", NOON, None, "NOT_FOUND"),
        ("F01", NOON, 10.0, "PRESENT"),
    ]
    origins, times, temps, expected = zip(*asked)
    sent = spine(origins, times, row=pa.array(range(len(asked))))
    table, report = train(store, sent, with_event_time=True)

    assert table.select(sent.column_names).equals(sent)
    assert table.column_names[3:6] == [
        "airport_weather__temp",
        "airport_weather__temp__status",
        "airport_weather__temp__event_time",
    ]
    assert table["airport_weather__temp"].to_pylist() == list(temps)
    assert statuses(table, "airport_weather__temp") == list(expected)
    found = pc.cast(table["airport_weather__temp__event_time"], pa.int64()).to_pylist()
    assert found == [
        NOON + 2 * HOUR, None, NOON, None, NOON + HOUR, NOON, NOON + 2 * HOUR, None, NOON,
    ]  # fmt: skip
    # The default fills what is missing, never what was written as null.
    assert table["airport_weather__wind"].to_pylist() == [0.0, 0.0, 1.0, 0.0, None, 1.0, 3.0, 0.0, 1.0]
    assert statuses(table, "airport_weather__wind") == list(expected)

    assert (report.rows, report.row_view_pairs, list(report.services)) == (9, 9, ["weather_model@1"])
    assert report.spine_hash and report.content_hash
    assert {found.feature: found.nulls for found in report.features} == {
        "airport_weather__temp": 5,
        "airport_weather__wind": 1,
        "airport_weather__note": 5,
    }


def test_a_spine_in_many_small_batches_gives_what_it_gives_in_one(store):
    store.put("weather", weather([("F02", NOON + minute, float(minute), 0.0, "n") for minute in range(50)]))
    sent = spine(["F02", "F02x"] * 600, [NOON + row % 60 for row in range(1_200)], row=pa.array(range(1_200)))
    whole, report = train(store, sent)
    small, small_report = train(store, sent.to_batches(max_chunksize=1), schema=sent.schema)
    assert small.equals(whole)
    assert (small_report.spine_hash, small_report.rows) == (report.spine_hash, 1_200)
    again = train(store, sent.to_batches(max_chunksize=7), schema=sent.schema, cutoff=report.cutoff)[1]
    assert again.content_hash == report.content_hash


def test_a_spine_without_rows_comes_back_with_its_columns_and_no_rows(store):
    empty = spine([], [])
    without_rows = pa.RecordBatch.from_pylist([], empty.schema)
    for batches in ([], [without_rows], [without_rows] * 3):
        table, report = train(store, batches, schema=empty.schema)
        assert (table.num_rows, report.rows) == (0, 0)
        assert table.column_names[:3] == ["origin", "asked_at", "airport_weather__temp"]


@pytest.mark.parametrize(
    "key_type",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.uint32(), pa.large_string()),
    ],
    ids=str,
)
def test_keys_in_every_encoding_of_strings_find_the_same_rows(store, key_type):
    store.put("weather", weather([("F03", NOON, 1.5, 0.0, "ä"), ("", NOON, 2.5, 0.0, "the empty string is a key")]))
    plain = pa.array(["F03", None, "", "nowhere", "F03"], pa.string())
    keys = plain.dictionary_encode() if pa.types.is_dictionary(key_type) else plain
    sent = pa.table({"origin": keys.cast(key_type), "asked_at": pa.array([NOON] * 5, INSTANT)})
    table, _ = train(store, sent)
    assert table.schema.field("origin").type == key_type
    assert table["origin"].to_pylist() == plain.to_pylist()
    assert table["airport_weather__temp"].to_pylist() == [1.5, None, 2.5, None, 1.5]


def test_dictionaries_may_change_from_batch_to_batch(store):
    """Each batch has a dictionary of its own, together more words than its index type can count."""
    store.put("weather", weather([(f"D{number:03}", NOON, float(number), 0.0, "n") for number in range(400)]))
    batches = []
    for start in range(0, 400, 100):
        words = [f"D{number:03}" for number in range(start, start + 100)]
        keys = pa.DictionaryArray.from_arrays(pa.array(range(99, -1, -1), pa.int8()), pa.array(words))
        batches.append(pa.record_batch({"origin": keys, "asked_at": pa.array([NOON] * 100, INSTANT)}))
    table, _ = train(store, batches)
    assert table["origin"].to_pylist() == [word for batch in batches for word in batch["origin"].to_pylist()]
    assert [f"D{int(temp):03}" for temp in table["airport_weather__temp"].to_pylist()] == table["origin"].to_pylist()


@pytest.mark.parametrize(
    "time_type",
    [
        pa.timestamp("us"),
        pa.timestamp("us", "UTC"),
        pa.timestamp("us", "America/New_York"),
        pa.timestamp("us", "+05:30"),
        pa.timestamp("ns"),
        pa.timestamp("ns", "Europe/Berlin"),
        pa.dictionary(pa.int16(), pa.timestamp("us", "UTC")),
    ],
    ids=str,
)
def test_event_times_of_any_zone_and_unit_are_instants_in_utc(store, time_type):
    store.put("weather", weather([("F04", NOON, 1.0, 0.0, "a"), ("F04", NOON + 1, 2.0, 0.0, "b")]))
    micros = pa.array([NOON - 1, NOON, NOON + 1, NOON + 2], pa.int64())
    plain = time_type.value_type if pa.types.is_dictionary(time_type) else time_type
    counted = pc.add(pc.multiply(micros, 1_000), 999) if plain.unit == "ns" else micros
    times = counted.cast(plain)
    if plain != time_type:
        times = times.dictionary_encode().cast(time_type)
    sent = pa.table({"origin": ["F04"] * 4, "asked_at": times})
    table, _ = train(store, sent)
    assert table.select(["origin", "asked_at"]).equals(sent), "what was sent comes back to the last nanosecond"
    assert table["airport_weather__temp"].to_pylist() == [None, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_coarse_event_times_are_instants_too(store, unit):
    store.put("weather", weather([("F05", NOON, 1.0, 0.0, "a")]))
    seconds = pa.array([NOON // 1_000_000 - 1, NOON // 1_000_000], pa.timestamp("s")).cast(pa.timestamp(unit))
    table, _ = train(store, pa.table({"origin": ["F05"] * 2, "asked_at": seconds}))
    assert table["airport_weather__temp"].to_pylist() == [None, 1.0]


def test_times_finer_than_a_microsecond_are_floored_before_1970_too(store):
    rows = weather([("F06", 0, 1.0, 0.0, "a")]).drop_columns("event_timestamp")
    # One nanosecond before 1970 lies in the microsecond before it.
    rows = rows.append_column("event_timestamp", pa.array([-1], pa.timestamp("ns")))
    store.put("weather", rows)
    table, _ = train(store, spine(["F06"] * 3, [-2, -1, 0]), with_event_time=True)
    assert table["airport_weather__temp"].to_pylist() == [None, 1.0, 1.0]
    assert pc.cast(table["airport_weather__temp__event_time"], pa.int64()).to_pylist() == [None, -1, -1]


def test_columns_of_any_type_are_carried_through_untouched(store):
    carried = {
        "flag": pa.array([True, None, False]),
        "tiny": pa.array([-1, None, 127], pa.int8()),
        "huge": pa.array([2**64 - 1, None, 0], pa.uint64()),
        "half": pa.array([0.5, None, -0.0], pa.float16()),
        "money": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("-99.99")], pa.decimal128(10, 2)),
        "day": pa.array([0, None, 19_000], pa.date32()),
        "clock": pa.array([1, None, 2], pa.time64("ns")),
        "lasted": pa.array([1, None, 2], pa.duration("ms")),
        "between": pa.array([(1, 2, 3), None, (0, 0, 1)], pa.month_day_nano_interval()),
        "raw": pa.array([b"\x00\xff", None, b""], pa.large_binary()),
        "raw_view": pa.array([b"longer than the twelve bytes that a view holds", None, b""], pa.binary_view()),
        "fixed": pa.array([b"abcd", None, b"efgh"], pa.binary(4)),
        "nothing": pa.nulls(3),
        "list": pa.array([[1, None], None, []], pa.list_(pa.int32())),
        "large_list": pa.array([["a"], None, []], pa.large_list(pa.string())),
        "pair": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        "record": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]),
        "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int64())),
        "word": pa.array(["x", None, "x"]).dictionary_encode(),
        "words": pa.array([{"w": "x"}, None, {"w": "y"}], pa.struct([("w", pa.string())])),
        "runs": pc.run_end_encode(pa.array([7, 7, None])),
        "nan": pa.array([float("nan"), None, -0.0]),
    }
    sent = spine(["F07"] * 3, [NOON] * 3, **carried)
    sent = sent.replace_schema_metadata({"made by": "a notebook"})
    table, _ = train(store, sent)
    back = table.select(sent.column_names)
    assert back.schema.equals(sent.schema, check_metadata=True)
    for name in sent.column_names:
        assert str(back[name].combine_chunks()) == str(sent[name].combine_chunks()), name


@pytest.mark.parametrize("text_type", [pa.string(), pa.string_view(), pa.large_string()], ids=str)
def test_a_long_spine_with_long_texts_comes_back_in_messages_of_moderate_size(store, text_type):
    """Slices of string views share their buffers: sent with each of them, 8 MiB would become gigabytes."""
    count = 40_000
    texts = pa.array([f"{row:0200}" for row in range(count)], text_type)
    descriptor = store.command(historical_features={"features": ["airport_weather:temp"], "event_time": "asked_at"})
    writer, reader = store.flight.do_exchange(descriptor)
    sent = spine(["F12"] * count, [NOON] * count, text=texts)
    row = 0
    with writer:
        writer.begin(sent.schema)
        writer.write_table(sent)
        writer.done_writing()
        while row < count:
            batch = reader.read_chunk().data
            assert batch.schema.field("text").type == text_type
            assert batch.get_total_buffer_size() < 8 << 20
            assert batch["text"].to_pylist() == [f"{row:0200}" for row in range(row, row + batch.num_rows)]
            row += batch.num_rows
        assert reader.read_chunk().app_metadata is not None


def test_a_view_is_joined_under_two_keys_at_once_beside_another_view(store):
    store.put("weather", weather([("F08", NOON, 1.0, 0.0, "a"), ("F09", NOON, 2.0, 0.0, "b")]))
    sent = pa.table(
        {
            "asked_at": pa.array([NOON, NOON, NOON], INSTANT),
            "origin": ["F08", "F09", None],
            "dest": ["F09", None, "F08"],
            "carrier": ["none", "none", "none"],
        }
    )
    table, report = train(store, sent, services=["route_model"])
    assert table["airport_weather__temp"].to_pylist() == [1.0, 2.0, None]
    assert table["dest_weather__temp"].to_pylist() == [2.0, None, 1.0]
    assert statuses(table, "carrier_delays__minutes") == ["NOT_FOUND"] * 3
    assert report.row_view_pairs == 9
    single, _ = train(store, sent, services=[], features=["airport_weather:note"])
    assert single.column_names[4:] == ["airport_weather__note", "airport_weather__note__status"]


def test_rows_known_later_are_left_out_as_known_and_seen_as_final_and_the_share_is_told(store):
    rows = pa.table(
        {
            "origin": ["F10", "F10"],
            "event_timestamp": pa.array([NOON, NOON + 10], INSTANT),
            "created_timestamp": pa.array([NOON, NOON + HOUR], INSTANT),
            "flights": [1, 2],
        }
    )
    store.put("counts", rows)
    sent = spine(["F10"] * 3, [NOON + 5, NOON + 20, NOON + HOUR])
    as_known, report = train(store, sent, services=["counts_model"])
    assert as_known["airport_counts__flights"].to_pylist() == [1, 1, 2]
    assert (report.differing_rows, report.row_view_pairs, report.final) == (1, 3, False)
    final, report = train(store, sent, services=["counts_model"], final=True)
    assert final["airport_counts__flights"].to_pylist() == [1, 2, 2]
    assert (report.differing_rows, report.final) == (1, True)


# A wrong spine


@pytest.mark.parametrize(
    "change, named",
    [
        pytest.param(
            lambda s: s.drop_columns("origin"), ["origin", "lacks", "join key of view 'airport_weather'"], id="no key"
        ),
        pytest.param(lambda s: s.drop_columns("asked_at"), ["asked_at", "lacks", "event times"], id="no time"),
        pytest.param(
            lambda s: s.set_column(1, "asked_at", pa.array([1, 2])), ["asked_at", "must be a timestamp"], id="number"
        ),
        pytest.param(
            lambda s: s.set_column(0, "origin", pa.array([1.5, 2.5])), ["origin", "keyed by string"], id="key as float"
        ),
        pytest.param(
            lambda s: s.set_column(1, "asked_at", pa.array([NOON, None], INSTANT)), ["asked_at", "rows 1"], id="null time"
        ),
        pytest.param(
            lambda s: s.append_column("airport_weather__temp", pa.array([1, 2])),
            ["airport_weather__temp", "rename it in the spine"],
            id="a name taken twice",
        ),
        pytest.param(
            lambda s: s.append_column("origin", s["origin"]), ["origin", "several columns of this name"], id="two keys"
        ),
    ],
)
def test_a_wrong_spine_is_refused_naming_the_column_and_the_rule(store, change, named):
    wrong = change(spine(["F11", "F11"], [NOON, NOON]))
    with pytest.raises(pa.ArrowInvalid) as refusal:
        train(store, wrong)
    for part in named:
        assert part in str(refusal.value), refusal.value
    assert train(store, spine(["F11"], [NOON]))[1].rows == 1, "the server goes on"


def test_a_null_time_deep_in_a_long_spine_is_refused_by_its_row(store):
    micros = [NOON] * 5_000
    micros[4_321] = None
    with pytest.raises(pa.ArrowInvalid, match=r"4321"):
        train(store, spine(["F11"] * 5_000, micros).to_batches(max_chunksize=1_000))


@pytest.mark.parametrize(
    "command, error, named",
    [
        ({"services": ["nobody"]}, pa.ArrowKeyError, "nobody"),
        ({"services": ["weather_model@7"]}, pa.ArrowKeyError, "7"),
        ({"services": [], "features": ["airport_weather:rain"]}, pa.ArrowKeyError, "rain"),
        ({"services": [], "features": ["airport_weather"]}, pa.ArrowInvalid, "view:feature"),
        ({"services": []}, pa.ArrowInvalid, ""),
        ({"event_time": "when"}, pa.ArrowInvalid, "when"),
    ],
)
def test_a_wrong_command_is_refused_naming_what_is_not_there(store, command, error, named):
    with pytest.raises(error) as refusal:
        train(store, spine(["F11"], [NOON]), **command)
    assert named in str(refusal.value)


# Rows go in


def test_each_batch_put_is_acknowledged_and_the_same_again_changes_nothing(store):
    rows = [weather([("F20", NOON + n, float(n), 0.0, "n"), ("F20x", NOON + n, 0.0, 0.0, "n")]) for n in range(3)]
    batches = [batch for table in rows for batch in table.to_batches()]
    applied = store.api.enum("hydrant.v1.IngestResponse.Outcome")
    answers = store.put("weather", batches, producer="pyarrow", first_sequence=5)
    assert [answer.outcome for answer in answers] == [applied["APPLIED"]] * 3
    assert [answer.rows for answer in answers] == [2, 2, 2]
    assert [(view.view, view.rows, view.null_keys) for view in answers[0].views] == [("airport_weather", 2, 0)]
    again = store.put("weather", batches, producer="pyarrow", first_sequence=5)
    assert [answer.outcome for answer in again] == [applied["ALREADY_APPLIED"]] * 3
    assert [answer.position for answer in again] == [answer.position for answer in answers]
    with pytest.raises(pa.ArrowException, match="sequence"):
        store.put("weather", batches[1:], producer="pyarrow", first_sequence=5)


def test_rows_put_by_path_and_in_odd_encodings_are_read_online(store):
    rows = pa.table(
        {
            "note": pa.array(["n", None]).dictionary_encode(),
            "origin": pa.array(["F21", "F22"], pa.string_view()),
            "event_timestamp": pa.array([NOON * 1_000 + 999] * 2, pa.timestamp("ns", "Asia/Tokyo")),
            "temp": pa.array([1, 2], pa.int16()),
        }
    )
    writer, reader = store.flight.do_put(flight.FlightDescriptor.for_path("source", "weather"), rows.schema)
    with writer:
        writer.write_table(rows)
        writer.done_writing()
        acknowledged = store.api.message("hydrant.v1.IngestResponse").FromString(reader.read().to_pybytes())
        assert reader.read() is None
    answer = store.api.online(
        services=["weather_model"],
        entities=[strings("origin", ["F21", "F22"])],
        at=NOON,
        at_least=acknowledged.position,
    )
    assert cells(answer, "airport_weather__temp") == [(1.0, "PRESENT"), (2.0, "PRESENT")]
    assert cells(answer, "airport_weather__note") == [("n", "PRESENT"), ("", "NULL")]
    # A feature column missing from a row is NULL, and no default fills that.
    assert [status for _, status in cells(answer, "airport_weather__wind")] == ["NULL", "NULL"]


def test_every_type_goes_in_and_comes_back_to_the_last_bit(store):
    rows = pa.table(
        {
            "hub": pa.array([-(2**63), 0, 2**63 - 1], pa.int64()),
            "label": pa.array([b"", b"\x00", b"\xff\x00\xff"]),
            "scanned_at": pa.array([NOON, NOON, NOON], INSTANT),
            "fragile": pa.array([True, False, None]),
            "pieces": pa.array([-(2**31), 2**31 - 1, None], pa.int32()),
            "cents": pa.array([-(2**63), 2**63 - 1, None], pa.int64()),
            "weight": pa.array([float("nan"), -0.0, None], pa.float32()),
            "volume": pa.array([float("-inf"), 5e-324, None], pa.float64()),
            "town": pa.array(["", "Ærøskøbing \U0001f30a", None]),
            "seal": pa.array([b"", bytes(range(256)), None]),
            "due": pa.array([-1, NOON, None], INSTANT),
            "stops": pa.array([[], [1, None, -3], None], pa.list_(pa.int64())),
            "tags": pa.array([["", None], ["a" * 300], None], pa.list_(pa.string())),
            "embedding": pa.array([[1.0, -0.0, float("nan")], [0.1, 0.2, 0.3], None], pa.list_(pa.float32(), 3)),
        }
    )
    store.put("parcels", rows)
    sent = rows.select(["hub", "label"]).append_column("asked_at", rows["scanned_at"])
    table, _ = train(store, sent, services=["parcel_model"])
    for name in rows.column_names[3:]:
        wanted, found = rows[name].combine_chunks(), table[f"parcel_scans__{name}"].combine_chunks()
        assert bits(found) == bits(wanted), name
        assert statuses(table, f"parcel_scans__{name}") == ["PRESENT", "PRESENT", "NULL"]
        # Children of lists are called differently by different libraries; values are what counts.
        kept = pa.types.is_nested(wanted.type) or found.type == wanted.type
        assert kept, f"{name}: {found.type}"


def bits(array) -> list:
    """Values in which NaN and -0.0 can be told apart."""
    if pa.types.is_floating(array.type):
        view = pa.uint32() if array.type == pa.float32() else pa.uint64()
        return array.view(view).to_pylist()
    if pa.types.is_fixed_size_list(array.type):
        values = [bits(row.values) if row.is_valid else None for row in array]
        return values
    return array.to_pylist()


def test_a_bad_batch_ends_the_stream_naming_it_and_what_was_acknowledged_stays(store):
    good = weather([("F23", NOON, 1.0, 0.0, "n")]).to_batches()[0]
    bad = weather([("F23", NOON + 1, 2.0, 0.0, "n"), ("F23", None, 3.0, 0.0, "n")]).to_batches()[0]
    descriptor = store.command(ingest={"source": "weather"})
    writer, reader = store.flight.do_put(descriptor, good.schema)
    with pytest.raises(pa.ArrowInvalid, match=r"batch 1: 1 of 2 rows.*rows\[1\]\.event_timestamp"):
        with writer:
            writer.write_batch(good)
            assert reader.read() is not None
            writer.write_batch(bad)
            writer.done_writing()
            reader.read()
    table, _ = train(store, spine(["F23"], [NOON + 1]))
    assert table["airport_weather__temp"].to_pylist() == [1.0], "nothing of the bad batch was written"


def test_columns_that_the_source_does_not_declare_are_refused_unless_they_are_to_be_ignored(store):
    rows = weather([("F24", NOON, 1.0, 0.0, "n")]).append_column("rain", pa.array([1.0]))
    with pytest.raises(pa.ArrowInvalid, match="rain"):
        store.put("weather", rows)
    assert store.put("weather", rows, ignore_extra=True)[0].rows == 1
    with pytest.raises(pa.ArrowInvalid, match="event_timestamp"):
        store.put("weather", rows.drop_columns(["rain", "event_timestamp"]))
    with pytest.raises(pa.ArrowKeyError, match="nowhere"):
        store.put("nowhere", rows)


# What there is


def test_flights_are_sources_views_and_services_with_their_schemas(store):
    flights = {b"/".join(info.descriptor.path).decode(): info for info in store.flight.list_flights()}
    assert {"source/weather", "view/airport_weather", "service/weather_model"} <= flights.keys()
    assert flights["source/weather"].schema.names == ["origin", "event_timestamp", "temp", "wind_speed", "note"]
    assert flights["view/airport_weather"].schema.names == ["origin", "temp", "wind", "note"]
    service = flights["service/route_model"].schema
    assert service.field("origin").type == pa.string() and service.field("dest").type == pa.string()
    assert service.field("dest_weather__temp").type == pa.float64()
    for path in (["source", "parcels"], ["view", "parcel_scans"], ["service", "parcel_model@1"]):
        descriptor = flight.FlightDescriptor.for_path(*path)
        schema = store.flight.get_schema(descriptor).schema
        assert store.flight.get_flight_info(descriptor).schema.equals(schema)
    command = store.command(historical_features={"services": ["counts_model"], "event_time": "asked_at"})
    assert store.flight.get_schema(command).schema.names == ["origin", "airport_counts__flights"]


@pytest.mark.parametrize(
    "path, error, named",
    [
        (["view", "nothing"], pa.ArrowKeyError, "view 'nothing'"),
        (["source", "airport_weather"], pa.ArrowKeyError, "source 'airport_weather'"),
        (["service", "weather_model@9"], pa.ArrowKeyError, "'weather_model' has no version 9"),
        (["table", "weather"], pa.ArrowKeyError, "no kind 'table'"),
        (["weather"], pa.ArrowInvalid, "a path has a kind and a name"),
    ],
)
def test_flights_that_are_not_there_are_refused_by_name(store, path, error, named):
    with pytest.raises(error, match=named):
        store.flight.get_schema(flight.FlightDescriptor.for_path(*path))


def test_what_flight_could_do_and_hydrant_does_not_is_refused_and_not_ignored(store):
    with pytest.raises(pa.ArrowKeyError, match="no action 'anything'"):
        list(store.flight.do_action("anything"))
    with pytest.raises(pa.ArrowInvalid, match="descriptor"):
        store.flight.get_schema(flight.FlightDescriptor.for_command(b"SELECT 1"))
    with pytest.raises(pa.ArrowInvalid, match="no use for"):
        train(store, spine([], []), endpoint_rows=10)


# Clients that go away


# Sends some rows of a spine, says so, and waits to be killed.
HALF_A_SPINE = """
import sys, pyarrow as pa, pyarrow.flight as flight
client = flight.connect(sys.argv[1])
batch = pa.record_batch({"origin": ["F30"] * 1000, "asked_at": pa.array([0] * 1000, pa.timestamp("us", "UTC"))})
writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(bytes.fromhex(sys.argv[2])))
writer.begin(batch.schema)
for _ in range(20):
    writer.write_batch(batch)
print("sent", flush=True)
sys.stdin.read()
"""


def test_clients_that_are_killed_midway_leave_the_server_serving(store):
    """More of them than training sets may be made at a time (`history.max_joins`, 2 here)."""
    command = store.command(historical_features={"services": ["weather_model"], "event_time": "asked_at"})
    address = f"grpc://{store.addresses['flight']}"
    for _ in range(3):
        client = subprocess.Popen(
            [sys.executable, "-c", HALF_A_SPINE, address, command.command.hex()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert client.stdout.readline() == "sent\n"
        finally:
            client.kill()
            client.communicate()
        until_accepted(lambda: train(store, spine(["F30"], [NOON])))


def test_calls_that_are_cancelled_midway_leave_the_server_serving(store):
    long = spine(["F31"] * 200_000, [NOON] * 200_000, text=pa.array(["x" * 100] * 200_000))
    descriptor = store.command(historical_features={"services": ["weather_model"], "event_time": "asked_at"})
    for finish in (False, True, True):
        client = flight.connect(f"grpc://{store.addresses['flight']}")
        writer, reader = client.do_exchange(descriptor)
        writer.begin(long.schema)
        for batch in long.to_batches(max_chunksize=10_000)[: None if finish else 3]:
            writer.write_batch(batch)
        if finish:
            # The first rows are read, the rest never is.
            writer.done_writing()
            assert reader.read_chunk().data.num_rows > 0
        reader.cancel()
        with pytest.raises((flight.FlightCancelledError, pa.ArrowException)):
            writer.close()
        client.close()
        until_accepted(lambda: train(store, spine(["F31"], [NOON])))


def until_accepted(call):
    """That a client is gone is noticed soon, not at once; until then its place may be taken."""
    overdue = threading.Event()
    timer = threading.Timer(PATIENCE, overdue.set)
    timer.start()
    try:
        while True:
            try:
                return call()
            except pa.ArrowException as error:
                if overdue.is_set() or "being made already" not in str(error):
                    raise
    finally:
        timer.cancel()
