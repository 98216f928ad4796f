"""New rows of a table since the last time, each exactly once: read from a high-water mark.

    <folder>/batch-000001.parquet …   the rows of each time, in the order of the column
    <folder>/mark.json                the mark, and which batches are valid

The mark is the greatest value of a column that only grows (a serial number, a time of change). A
batch is stored whole before the mark that makes it valid: whoever is killed in between leaves a
batch that the next time writes again, under the same name.

Values repeat, and a transaction may commit late a value below the mark. So rows are read from
`lag` below the mark, and those taken before are known by their key. A row that commits with a
value more than `lag` below the mark is never seen, nor is one whose column is null: choose a lag
above the longest transaction.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from ray_pipeline import files
from ray_pipeline.data import sql
from ray_pipeline.data.credentials import login
from ray_pipeline.data.databases import connected
from ray_pipeline.data.relations import relation
from ray_pipeline.data.sources import checked_names
from ray_pipeline.errors import DataError
from ray_pipeline.job import Source

MARK = "mark.json"


@dataclass
class Mark:
    """How far a table has been read: the greatest value, and the rows at or just below it."""

    value: Any = None
    seen: Counter[str] = field(default_factory=Counter)
    batch: int = 0

    def low(self, lag: float) -> Any:
        """The least value that is read again. Raises DataError for a lag of texts."""
        if isinstance(self.value, str) and lag:
            raise DataError(
                "a column of texts has no `lag`", expected="numbers or times", where=self.value
            )
        if not lag:
            return self.value
        time = isinstance(self.value, date)  # a datetime too
        return self.value - (timedelta(seconds=lag) if time else lag)


def taken(source: Source, column: str, folder: UPath, *, lag: float = 0) -> dict[str, Any]:
    """Store the rows that are new since the last time; returns how many, and the mark.

    `lag` is in seconds for times and dates, else in the column's own units.
    The record has `rows_in` = `rows_out` + `rows_quarantined`: the latter are in the batch, too,
    with an `_error`. Nothing is written where nothing is new.

    Raises:
        DataError: the database or the column is not there, or the folder's mark cannot be read.
    """
    with files.only_one(folder, str(source)):
        mark = read(folder)
        following = Mark(mark.value, Counter(), mark.batch + 1)
        path = _batch(folder, following.batch)
        rows, faulty = _written(_new(source, column, mark, following, lag), path)
        if rows:
            files.write_whole(folder / MARK, json.dumps(_plain(following)).encode())
    return {
        "rows_in": rows,
        "rows_out": rows - faulty,
        "rows_quarantined": faulty,
        "mark": str(following.value),
        "batch": str(path) if rows else None,
    }


def _written(tables: Iterator[pa.Table], path: UPath) -> tuple[int, int]:
    """How many rows were written to one file, and how many have a fault; no row, no file."""
    first = next(tables, None)
    if first is None:
        return 0, 0
    rows, faulty = 0, 0
    with path.open("wb") as file, pq.ParquetWriter(file, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)
            rows += len(table)
            faulty += len(table) - table["_error"].null_count
    return rows, faulty


def batches(folder: UPath) -> list[UPath]:
    """The valid batches, in order."""
    return [_batch(folder, number) for number in range(1, read(folder).batch + 1)]


def read(folder: UPath) -> Mark:
    """The folder's mark; one that has seen nothing where there is none yet."""
    path = folder / MARK
    if not path.exists():
        return Mark()
    found = json.loads(path.read_text())
    return Mark(_value(*found["value"]), Counter(found["seen"]), found["batch"])


def _batch(folder: UPath, number: int) -> UPath:
    return folder / f"batch-{number:06d}.parquet"


def _new(
    source: Source, column: str, mark: Mark, following: Mark, lag: float
) -> Iterator[pa.Table]:
    """Rows from the mark on that were not seen; `following` becomes the mark after them."""
    entry, count = login(source), 0
    known, window = Counter(mark.seen), list[tuple[Any, str]]()
    with connected(source, entry, stream=True) as connection:
        found = relation(source, connection)
        names = list(found.types)
        checked_names(names, [column], str(source))
        at = found.column(column)
        identity = [names.index(name) for name in found.unique or names]
        statement = found.select(names).where(at.is_not(None)).order_by(at)
        if mark.value is not None:
            statement = statement.where(at >= mark.low(lag))
        whole, place = sql.Range(source, entry, found), names.index(column)
        for rows in connection.execute(statement).partitions(sql.BATCH):
            new = []
            for row in rows:
                key = _identity(row, [*identity, place])
                window.append((row[place], key))
                if known[key]:
                    known[key] -= 1
                else:
                    new.append(row)
            following.value = max(following.value or rows[-1][place], rows[-1][place])
            window = [(value, key) for value, key in window if value >= following.low(lag)]
            if new:
                yield sql.as_table(new, whole, names, count)
                count += len(new)
    following.seen = Counter(key for _, key in window)


def _identity(row: Sequence[Any], places: Sequence[int]) -> str:
    text = json.dumps([str(row[place]) for place in places])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _plain(mark: Mark) -> dict[str, Any]:
    kind = type(mark.value).__name__
    value = mark.value.isoformat() if isinstance(mark.value, date) else mark.value
    return {"value": [kind, value], "seen": mark.seen, "batch": mark.batch}


def _value(kind: str, value: Any) -> Any:
    readers = {"datetime": datetime.fromisoformat, "date": date.fromisoformat}
    return readers[kind](value) if kind in readers else value
