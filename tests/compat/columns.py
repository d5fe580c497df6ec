"""Small shapes that the tests share: times, columns of the wire, statuses."""

import datetime

import pyarrow as pa

HOUR = 3_600_000_000
# 2024-03-01T12:00:00Z, in microseconds.
NOON = 1_709_294_400_000_000

INSTANT = pa.timestamp("us", "UTC")

STATUSES = ["UNSPECIFIED", "PRESENT", "NULL", "NOT_FOUND", "EXPIRED", "NOT_READY", "DAMAGED", "MASKED"]


def now() -> int:
    return int(datetime.datetime.now(datetime.UTC).timestamp() * 1_000_000)


def strings(name, values) -> dict:
    return column(name, "strings", values, "")


def doubles(name, values) -> dict:
    return column(name, "float64s", values, 0.0)


def int64s(name, values) -> dict:
    return column(name, "int64s", values, 0)


def times(name, values) -> dict:
    nulls = [value is None for value in values]
    filled = {"micros": [value or 0 for value in values]}
    return {"name": name, "timestamps": filled, "nulls": nulls if any(nulls) else []}


def column(name, kind, values, zero) -> dict:
    """A Column message, as the fields to make it from; None is null."""
    nulls = [value is None for value in values]
    filled = {"values": [zero if value is None else value for value in values]}
    return {"name": name, kind: filled, "nulls": nulls if any(nulls) else []}


def cells(answer, name) -> list:
    """(value, status) of each cell of an answer's column."""
    (found,) = [column for column in answer.columns if column.column.name == name]
    kind = found.column.WhichOneof("values")
    if kind == "lists":
        values = lists(found.column.lists)
    elif kind == "vectors":
        size = found.column.vectors.dimension
        flat = found.column.vectors.values
        values = [list(flat[start : start + size]) for start in range(0, len(flat), size)]
    elif kind == "timestamps":
        values = list(found.column.timestamps.micros)
    else:
        values = list(getattr(found.column, kind).values)
    statuses = [STATUSES[status] for status in found.statuses]
    if len(statuses) == 1:
        statuses *= len(values)
    assert len(statuses) == len(values), "one status a cell, or one for all"
    return list(zip(values, statuses))


def lists(message) -> list:
    elements = message.elements
    values = list(getattr(elements, elements.WhichOneof("values")).values)
    values = [None if null else value for value, null in zip(values, elements.nulls or [False] * len(values))]
    return [values[start:end] for start, end in zip(message.offsets, message.offsets[1:])]


def weather(rows) -> pa.Table:
    """Rows (origin, micros, temp, wind, note) of the source `weather`."""
    origins, micros, temps, winds, notes = zip(*rows)
    return pa.table(
        {
            "origin": pa.array(origins, pa.string()),
            "event_timestamp": pa.array(micros, INSTANT),
            "temp": pa.array(temps, pa.float64()),
            "wind_speed": pa.array(winds, pa.float64()),
            "note": pa.array(notes, pa.string()),
        }
    )


def spine(origins, micros, **more) -> pa.Table:
    columns = {"origin": pa.array(origins, pa.string()), "asked_at": pa.array(micros, INSTANT)}
    return pa.table(columns | more)
