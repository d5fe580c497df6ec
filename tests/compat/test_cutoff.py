"""The same request with the same cut-off gives the same rows and values, bit for bit: after more
was ingested, deleted and landed, and after a restart.
"""

import random

import pyarrow as pa

from columns import HOUR, INSTANT, NOON, strings, weather
from server import DEFINITIONS

ROWS = 5_000


def make_rows(random_numbers, count) -> pa.Table:
    return weather(
        [
            (
                f"C{random_numbers.randrange(50)}",
                NOON + random_numbers.randrange(24 * HOUR),
                random_numbers.choice([None, random_numbers.random()]),
                random_numbers.random(),
                str(random_numbers.randrange(1_000)),
            )
            for _ in range(count)
        ]
    )


def test_a_cut_off_gives_the_same_bytes_over_any_later_state(serve):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    random_numbers = random.Random(seed)
    server = serve()
    server.apply(DEFINITIONS)
    server.put("weather", make_rows(random_numbers, ROWS))
    spine = pa.table(
        {
            "origin": [f"C{random_numbers.randrange(55)}" for _ in range(ROWS)],
            "asked_at": pa.array([NOON + random_numbers.randrange(30 * HOUR) for _ in range(ROWS)], INSTANT),
        }
    )
    request = {"services": ["weather_model"], "with_status": True, "with_event_time": True}
    first, report = server.training_set(spine, **request)
    assert report.tables[0].tail_rows == ROWS and not report.tables[0].HasField("delta_version")
    final, final_report = server.training_set(spine, final=True, cutoff=report.cutoff, **request)

    def assert_nothing_changes(where):
        again, told = server.training_set(spine, cutoff=report.cutoff, **request)
        assert again.equals(first), where
        assert (told.content_hash, told.spine_hash) == (report.content_hash, report.spine_hash), where
        again, told = server.training_set(spine, final=True, cutoff=report.cutoff, **request)
        assert again.equals(final) and told.content_hash == final_report.content_hash, where
        return told.tables[0]

    # Rows of the same keys and times: each would change what is seen.
    server.put("weather", make_rows(random_numbers, ROWS))
    server.api.unary(
        "hydrant.v1.IngestService",
        "Delete",
        view="airport_weather",
        keys=[strings("origin", [f"C{n}" for n in range(25)])],
        event_times=[NOON + 12 * HOUR],
    )
    assert_nothing_changes("after more was ingested and deleted")
    now, told = server.training_set(spine, **request)
    assert told.content_hash != report.content_hash and not now.equals(first)

    server.stop()
    server.options = {"landing__interval": "1s"}
    server.start()
    server.wait_until_landed("airport_weather:temp", key_columns=pa.schema([("origin", pa.string())]))
    table = assert_nothing_changes("after a restart and landing")
    assert table.HasField("delta_version") and table.tail_rows == 0
    landed, told_again = server.training_set(spine, cutoff=told.cutoff, **request)
    assert landed.equals(now) and told_again.content_hash == told.content_hash

    server.put("weather", make_rows(random_numbers, ROWS))
    assert_nothing_changes("with history and a tail beside it")
    server.stop()
