"""The demo's training set, 336,776 rows of it, compared cell by cell with an independent
computation: DuckDB's ASOF joins over the same files. Then online reads at random instants, compared
with the training rows of these instants.
"""

import random

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet
import pytest

from columns import HOUR, INSTANT, STATUSES, cells, strings
from server import REPOSITORY, Server

EXAMPLE = REPOSITORY / "examples/nycflights13"
SOURCES = ["departures", "arrivals", "weather", "planes"]
REQUESTS = 336_776

# What `definitions/` says, written down once more and not read from there: view -> (source, keys,
# ttl in microseconds, features as (name, column, default)).
VIEWS = {
    "airport_weather": (
        "weather",
        ["origin"],
        3 * HOUR,
        [
            ("temp", "temp", None),
            ("dewp", "dewp", None),
            ("humid", "humid", None),
            ("wind_dir", "wind_dir", None),
            ("wind", "wind_speed", None),
            ("gust", "wind_gust", None),
            ("precip", "precip", None),
            ("pressure", "pressure", None),
            ("visib", "visib", None),
        ],
    ),
    "airport_departures": (
        "departures",
        ["origin"],
        None,
        [("dep_delay", "dep_delay", None), ("last_carrier", "carrier", None), ("last_dest", "dest", None)],
    ),
    "carrier_departures": (
        "departures",
        ["carrier"],
        None,
        [("dep_delay", "dep_delay", None), ("last_origin", "origin", None)],
    ),
    "carrier_arrivals": (
        "arrivals",
        ["carrier"],
        None,
        [("arr_delay", "arr_delay", None), ("air_time", "air_time", None)],
    ),
    "plane_departures": (
        "departures",
        ["tailnum"],
        None,
        [
            ("dep_delay", "dep_delay", None),
            ("last_origin", "origin", None),
            ("last_dest", "dest", None),
            ("last_distance", "distance", None),
        ],
    ),
    "route_departures": (
        "departures",
        ["origin", "dest"],
        None,
        [("dep_delay", "dep_delay", None), ("last_carrier", "carrier", None), ("distance", "distance", None)],
    ),
    "plane_register": ("planes", ["tailnum"], None, [("built", "built", None), ("seats", "seats", 0)]),
}
COLUMNS = [f"{view}__{name}" for view, (_, _, _, features) in VIEWS.items() for name, _, _ in features]
KEYS = ["origin", "carrier", "tailnum", "dest"]


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    """A server that has a year of flights, and what DuckDB needs to know of it."""
    server = Server(tmp_path_factory.mktemp("flights")).start()
    try:
        server.apply(EXAMPLE / "definitions")
        for source in SOURCES:
            rows = parquet.read_table(EXAMPLE / f"data/{source}.parquet")
            answers = server.put(source, rows.combine_chunks().to_batches(max_chunksize=25_000), rows.schema)
            assert sum(answer.rows for answer in answers) == rows.num_rows
        yield server
        server.stop()
    finally:
        server.close()


def computed(spine: pa.Table, event_time: str) -> pa.Table:
    """The same by DuckDB: for each spine row and view the row with the greatest event time at or
    before the spine row's; of several at one time the last in the file; unless older than the ttl.
    """
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    connection.register("sent", spine.append_column("ordinal", pa.array(range(spine.num_rows))))
    connection.execute(f"create table spine as select *, epoch_us({event_time}) as at from sent")
    joined, selected = [], []
    for view, (source, keys, ttl, features) in VIEWS.items():
        key_list = ", ".join(keys)
        columns = ", ".join(f"{column} as f_{name}" for name, column, _ in features)
        # Known time is event time here, so that of equal event times the log's order decides.
        connection.execute(
            f"""
            create table {view} as
            select {key_list}, epoch_us(event_timestamp) as happened, {columns}
            from read_parquet('{EXAMPLE}/data/{source}.parquet', file_row_number = true)
            where {" and ".join(f"{key} is not null" for key in keys)}
            qualify row_number() over (partition by {key_list}, event_timestamp order by file_row_number desc) = 1
            """
        )
        connection.execute(
            f"""
            create table joined_{view} as
            select spine.ordinal, {view}.happened,
                   case when {view}.happened is null then 'NOT_FOUND'
                        when {f"spine.at - {view}.happened > {ttl}" if ttl else "false"} then 'EXPIRED' end as missing,
                   {", ".join(f"{view}.f_{name}" for name, _, _ in features)}
            from spine asof left join {view}
              on {" and ".join(f"spine.{key} = {view}.{key}" for key in keys)} and spine.at >= {view}.happened
            """
        )
        joined.append(f"join joined_{view} using (ordinal)")
        for name, _, default in features:
            filled = "null" if default is None else str(default)
            value = f"joined_{view}.f_{name}"
            missing = f"joined_{view}.missing"
            selected += [
                f"case when {missing} is null then {value} else {filled} end as {view}__{name}",
                f"coalesce({missing}, case when {value} is null then 'NULL' else 'PRESENT' end) as {view}__{name}__status",
                f"case when {missing} is distinct from 'NOT_FOUND' then joined_{view}.happened end"
                f" as {view}__{name}__event_time",
            ]
    query = f"select {', '.join(selected)} from spine {' '.join(joined)} order by spine.ordinal"
    return connection.sql(query).to_arrow_table()


def train(server, spine, **command):
    command = {"services": ["delay_model"], "with_status": True, "with_event_time": True} | command
    return server.training_set(spine.combine_chunks(), event_time="event_timestamp", **command)


def assert_same_cells(trained: pa.Table, expected: pa.Table, spine: pa.Table):
    assert trained.num_rows == expected.num_rows == spine.num_rows
    for name in expected.column_names:
        found, wanted = trained[name], expected[name]
        if name.endswith("__event_time"):
            found = found.cast(pa.int64())
        assert found.type == wanted.type, f"{name}: {found.type}, not {wanted.type}"
        if not found.equals(wanted):
            differ = pc.or_kleene(
                pc.fill_null(pc.not_equal(found, wanted), False), pc.xor(pc.is_null(found), pc.is_null(wanted))
            )
            rows = pc.indices_nonzero(differ).to_pylist()
            shown = [(spine.slice(row, 1).to_pylist()[0], found[row], wanted[row]) for row in rows[:5]]
            raise AssertionError(f"{name}: {len(rows)} cells differ, such as {shown}")


@pytest.fixture(scope="module")
def requests():
    return parquet.read_table(EXAMPLE / "data/requests.parquet")


def test_every_cell_and_status_of_the_year_is_what_duckdb_finds(flights, requests):
    trained, report = train(flights, requests)
    assert trained.select(requests.column_names).equals(requests), "the spine's rows, order and columns are kept"
    features = [name for name in trained.column_names if name not in requests.column_names and name in COLUMNS]
    assert features == COLUMNS, "in the frozen order"
    expected = computed(requests, "event_timestamp")
    assert_same_cells(trained, expected, requests)

    assert (report.rows, report.row_view_pairs, report.differing_rows) == (REQUESTS, 7 * REQUESTS, 0)
    nulls = {found.feature: found.nulls for found in report.features}
    assert nulls == {name: expected[name].null_count for name in COLUMNS}
    # The comparison has seen what it is there for.
    assert set(expected["airport_weather__gust__status"].unique().to_pylist()) == {"PRESENT", "NULL", "EXPIRED"}
    without_tail_number = pc.is_null(requests["tailnum"])
    of_those = expected["plane_departures__dep_delay__status"].filter(without_tail_number)
    assert len(of_those) == 2_512 and pc.unique(of_those).to_pylist() == ["NOT_FOUND"]
    assert pc.sum(pc.equal(expected["plane_register__seats"], 0)).as_py() > 50_000, "defaults were filled in"


def test_both_ends_of_the_ttl_are_included_to_the_microsecond(flights):
    """No request of the year lies exactly three hours after its weather: these do, and just beside."""
    weather = parquet.read_table(EXAMPLE / "data/weather.parquet")
    happened = weather["event_timestamp"].cast(pa.int64())
    offsets = [-1, 0, 3 * HOUR - 1, 3 * HOUR, 3 * HOUR + 1]
    rows = weather.num_rows
    spine = pa.table(
        {
            "origin": pa.chunked_array([chunk for _ in offsets for chunk in weather["origin"].chunks]),
            "event_timestamp": pa.chunked_array(
                [pc.add(chunk, offset) for offset in offsets for chunk in happened.chunks]
            ).cast(INSTANT),
        }
    )
    spine = spine.append_column("carrier", pa.nulls(spine.num_rows, pa.string()))
    spine = spine.append_column("tailnum", pa.nulls(spine.num_rows, pa.string()))
    spine = spine.append_column("dest", pa.nulls(spine.num_rows, pa.string()))
    trained, _ = train(flights, spine)
    expected = computed(spine, "event_timestamp")
    assert_same_cells(trained, expected, spine)
    ages = pc.subtract(spine["event_timestamp"].cast(pa.int64()), expected["airport_weather__temp__event_time"])
    statuses = expected["airport_weather__temp__status"]
    for age, status in [(3 * HOUR, "PRESENT"), (3 * HOUR + 1, "EXPIRED")]:
        at_the_end = pc.and_(pc.equal(ages, age), pc.equal(statuses, status))
        assert pc.sum(at_the_end).as_py() > 0, "the gaps in the weather let rows grow so old"
    assert rows * len(offsets) == trained.num_rows


def test_online_reads_at_random_instants_are_the_training_rows_of_these_instants(flights, requests):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    random_numbers = random.Random(seed)
    instants, keys_per_instant = 6, 25
    times, rows = [], []
    for _ in range(instants):
        asked = requests["event_timestamp"][random_numbers.randrange(REQUESTS)].cast(INSTANT).cast(pa.int64()).as_py()
        times.append(asked + random_numbers.choice([0, 0, -1, 1, random_numbers.randrange(HOUR)]))
        # Keys of that time, which the registers have seen, and of any other.
        rows.append([random_numbers.randrange(REQUESTS) for _ in range(keys_per_instant)])
    picked = requests.take([row for of_instant in rows for row in of_instant]).select(KEYS)
    at = pa.array([time for time in times for _ in range(keys_per_instant)], INSTANT)
    spine = picked.append_column("event_timestamp", at)
    trained, _ = train(flights, spine)

    from_history = 0
    for index, time in enumerate(times):
        of_instant = trained.slice(index * keys_per_instant, keys_per_instant)
        entities = [strings(key, of_instant[key].to_pylist()) for key in KEYS]
        answer = flights.api.online(services=["delay_model"], entities=entities, at=time, include_event_times=True)
        from_history += answer.provenance.rows_from_history
        assert [found.column.name for found in answer.columns] == COLUMNS
        for name in COLUMNS:
            statuses = of_instant[f"{name}__status"].to_pylist()
            values = of_instant[name].to_pylist()
            for row, (value, status) in enumerate(cells(answer, name)):
                place = f"{name}, row {row} of {of_instant.slice(row, 1).to_pylist()}"
                assert status == statuses[row], place
                # A cell without a value holds its type's zero on the wire.
                assert value == (type(value)() if values[row] is None else values[row]), place
        for found in answer.event_times:
            (feature,) = [name for name in COLUMNS if name.startswith(f"{found.view}__")][:1]
            wanted = of_instant[f"{feature}__event_time"].cast(pa.int64()).to_pylist()
            told = [micros if there else None for micros, there in zip(found.micros, found.found)]
            assert told == wanted, found.view
    assert from_history > 0, "most of these instants lie before the newest row"


def test_an_online_read_of_now_is_the_newest_row_and_the_old_weather_has_expired(flights, requests):
    newest = flights.api.registry("GetServerInfo").store_time
    picked = requests.take(list(range(0, REQUESTS, REQUESTS // 200))).select(KEYS)
    spine = picked.append_column("event_timestamp", pa.array([newest] * picked.num_rows, INSTANT))
    trained, _ = train(flights, spine)
    entities = [strings(key, picked[key].to_pylist()) for key in KEYS]
    answer = flights.api.online(services=["delay_model"], entities=entities)
    assert answer.provenance.rows_from_history == 0
    for name in COLUMNS:
        statuses = trained[f"{name}__status"].to_pylist()
        for (value, status), wanted, wanted_status in zip(cells(answer, name), trained[name].to_pylist(), statuses):
            assert (value, status) == (type(value)() if wanted is None else wanted, wanted_status), name
    assert {STATUSES.index("EXPIRED")} == set(answer.columns[0].statuses)


def test_the_training_set_of_a_cut_off_stays_as_it_was_when_corrections_come(flights, requests):
    """Runs last: it changes what later reads would see."""
    spine = requests.slice(100_000, 20_000)
    before, report = train(flights, spine)
    corrections = parquet.read_table(EXAMPLE / "data/departures.parquet").slice(90_000, 30_000)
    corrections = corrections.filter(pc.equal(corrections["origin"], "JFK"))
    delay = corrections.column_names.index("dep_delay")
    corrections = corrections.set_column(delay, "dep_delay", pc.add(corrections["dep_delay"], 1_000.0))
    flights.put("departures", corrections.combine_chunks().to_batches(max_chunksize=25_000), corrections.schema)

    again, told = train(flights, spine, cutoff=report.cutoff)
    assert again.equals(before)
    assert (told.content_hash, told.spine_hash) == (report.content_hash, report.spine_hash)
    after, told = train(flights, spine)
    assert told.content_hash != report.content_hash
    changed = pc.not_equal(after["airport_departures__dep_delay"], before["airport_departures__dep_delay"])
    assert set(spine["origin"].filter(changed).to_pylist()) == {"JFK"}
