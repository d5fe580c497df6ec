"""The Python of docs/training-sets.md, run as it stands there but for the ports: what a reader copies
has to work.
"""

import re

import pyarrow as pa
import pyarrow.parquet as parquet

from server import REPOSITORY

EXAMPLE = REPOSITORY / "examples/nycflights13"


def blocks(path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def test_the_python_of_the_manual_of_training_sets_runs(serve):
    server = serve()
    server.apply(EXAMPLE / "definitions")
    for source in ["departures", "arrivals", "weather", "planes"]:
        rows = parquet.read_table(EXAMPLE / f"data/{source}.parquet").slice(0, 2_000)
        server.put(source, rows)
    _, by_exchange, by_workers = blocks(REPOSITORY / "docs/training-sets.md")
    names = {"spine": parquet.read_table(EXAMPLE / "data/requests.parquet").slice(0, 120_000)}
    for block in (by_exchange, by_workers):
        block = block.replace("127.0.0.1:7600", server.addresses["grpc"])
        block = block.replace("127.0.0.1:7601", server.addresses["flight"])
        exec(compile(block, "docs/training-sets.md", "exec"), names)
    parts = names["parts"]
    assert [part.num_rows for part in parts] == [50_000, 50_000, 20_000]
    assert pa.concat_tables(parts).equals(names["training_set"])
