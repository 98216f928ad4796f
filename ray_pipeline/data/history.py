"""Aggregates of the past as columns of the rows, joined by key, each as of its row's own time.

Rows and past are parted by a hash of their key, and one task joins one part: what it holds is the
past of its keys and one file of rows, whatever the size of the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from ray_pipeline.data import clean, collect, parts, windows
from ray_pipeline.data.hashing import row_hashes
from ray_pipeline.errors import JobError
from ray_pipeline.files import clear
from ray_pipeline.job import Data, History
from ray_pipeline.schema import Column, Schema

SIDES = ("rows", "test")
ROWS = 250_000
"""Rows of a part, about."""
_MOST_PARTS = 64


class _Parted(NamedTuple):
    """What parting one piece of the past found; `newest` is its last moment, if it has any."""

    rows: int
    quarantined: int
    newest: datetime | None


def extended(schema: Schema, history: tuple[History, ...]) -> Schema:
    """The schema of the rows once they have the columns of `history`, which are features.

    Raises:
        JobError: a key or time column that is not there or not a date, or a name that is taken.
    """
    columns = list(schema)
    for index, past in enumerate(history):
        where = f"data.history[{index}]"
        for key, name in (("key", past.key), ("time", past.time)):
            if name not in schema.names:
                raise JobError(f"there is no column `{name}`", where=f"{where}.{key}")
        if schema[past.time].kind != "date":
            raise JobError(
                f"`{past.time}` is of the kind {schema[past.time].kind}",
                where=f"{where}.time",
                expected="date",
                hint=f"say so under `data.columns`: {{{past.time}: date}}",
            )
        for name, (_, aggregate, _) in past.columns().items():
            if name in {column.name for column in columns}:
                raise JobError(f"there is a column `{name}` already", where=where)
            counted = aggregate == "count"
            columns.append(Column(name=name, kind="integer" if counted else "number"))
    return schema.model_copy(update={"columns": tuple(columns)})


def fingerprint(data: Data) -> list[str]:
    """Digests of what the past is, other when it is another. Raises DataError."""
    return [collect.fingerprint(_read_as(data, past)) for past in data.history]


def write(cleaned: UPath, data: Data, schema: Schema, out: UPath) -> dict[str, Any]:
    """Write `rows/` and `test/` as in `cleaned`, with the columns of `data.history`.

    For the online store, `latest<index>/` has each key's aggregates just after the newest moment
    of that past, which the record tells as `as_of`.

    `schema` is that of the rows without them. Rows of the past that cannot be used go to
    `quarantine/`; the record has their number, by source, under `past`.

    Raises:
        DataError: a source of the past is missing or has not a column that the job names.
    """
    files = [(side, path) for side in SIDES for path in parts.files(cleaned / side)]
    rows = sum(parts.row_count(path) for _, path in files)
    past = []
    for index, history in enumerate(data.history):
        join = _Join(
            history,
            _schema(history, schema),
            parts=min(rows // ROWS + 1, _MOST_PARTS),
            scratch=out / f"scratch{index}",
            quarantine=out / "quarantine",
            latest=out / f"latest{index}",
            out=out if index == len(data.history) - 1 else out / f"joined{index}",
        )
        past.append({"source": str(history.source), **_joined(files, data, join)})
        clear(join.scratch)
        files = [(side, path) for side in SIDES for path in parts.files(join.out / side)]
    for index in range(len(data.history) - 1):
        clear(out / f"joined{index}")
    kept = sum(parts.row_count(path) for _, path in files)
    assert kept == rows, f"{rows:,} rows became {kept:,}"
    return {"rows_in": rows, "rows_out": kept, "rows_quarantined": 0, "past": past}


@dataclass(frozen=True)
class _Join:
    """One join: its settings, the `schema` of the past, in how many `parts`, and its folders."""

    history: History
    schema: Schema
    parts: int
    scratch: UPath
    quarantine: UPath
    latest: UPath
    out: UPath


def _joined(files: list[tuple[str, UPath]], data: Data, join: _Join) -> dict[str, Any]:
    """Write the rows of `files` with their aggregates; how many rows of the past there are."""
    parts.results(files, partial(_part_rows, join=join))
    source = join.history.source
    pieces, read = collect.reading(source, _read_as(data, join.history), join.schema)
    found = parts.results(list(enumerate(pieces)), partial(_part_past, read=read, join=join))
    newest = max((part.newest for part in found if part.newest), default=None)
    parts.results(range(join.parts), partial(_join, join=join, newest=newest))
    return {
        "rows": sum(part.rows for part in found),
        "quarantined": sum(part.quarantined for part in found),
        "as_of": newest.isoformat() if newest else None,
    }


def _read_as(data: Data, history: History) -> Data:
    """The settings to read the past with: its own source, and the job's texts for `missing`.

    What `data.privacy` says of a column of that name holds here too: keys are hashed alike.
    """
    privacy = data.privacy
    if privacy is not None:
        names = {history.key, history.time, *history.aggregates}
        treated = {name: value for name, value in privacy.columns.items() if name in names}
        subject = privacy.subject if privacy.subject in names else None
        kept = {"columns": treated, "subject": subject, "quasi_identifiers": ()}
        privacy = privacy.model_copy(update=kept)
    read = Data(source=history.source, label=history.key, missing=data.missing)
    return read.model_copy(update={"privacy": privacy})


def _schema(history: History, schema: Schema) -> Schema:
    """The columns of the past that are read."""
    key = Column(name=history.key, kind=schema[history.key].kind)
    values = [Column(name=name, kind="number") for name in history.aggregates]
    columns = (key, Column(name=history.time, kind="date"), *values)
    return Schema(columns=columns, missing=schema.missing)


def _part_rows(file: tuple[str, UPath], join: _Join) -> None:
    side, path = file
    for part, table in _parted(parts.read(path), join):
        parts.written(table, join.scratch / f"{part}" / side / path.name)


def _part_past(numbered: tuple[int, Any], read: Any, join: _Join) -> _Parted:
    index, piece = numbered
    rows = quarantined = 0
    moments: list[datetime] = []
    for number, table in enumerate(read(piece)):
        usable, aside = clean.typed(table, join.schema)
        name = f"{index:06d}-{number:06d}.parquet"
        for part, some in _parted(usable, join):
            parts.written(some, join.scratch / f"{part}" / "past" / name)
        if len(aside):
            parts.written(aside, join.quarantine / f"{join.scratch.name}-{name}")
        rows, quarantined = rows + len(usable), quarantined + len(aside)
        moments += filter(None, [pc.max(usable[join.history.time]).as_py()])
    return _Parted(rows, quarantined, max(moments, default=None))


def _parted(table: pa.Table, join: _Join) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each part that there are any of, by the hash of the key's text."""
    key = join.history.key
    texts = pa.table({key: pc.cast(table[key], pa.string())})
    part = row_hashes(texts, [key]) % np.uint64(join.parts)
    for index in np.unique(part).tolist():
        yield int(index), table.filter(pa.array(part == index))


def _join(part: int, join: _Join, newest: datetime | None) -> None:
    """Write the rows of one part with their aggregates, and each key's latest ones."""
    folder = join.scratch / f"{part}"
    tables = [parts.read(path) for path in parts.files(folder / "past")]
    past = pa.concat_tables([join.schema.arrow().empty_table(), *tables])
    if newest and len(past):
        at = newest + timedelta(microseconds=1)  # so that the newest row is of the past
        now = windows.latest(past, join.history, at).drop_columns([join.history.time])
        parts.written(now, join.latest / f"{part:02d}.parquet")
    for side in SIDES:
        for path in parts.files(folder / side):
            joined = windows.added(parts.read(path), past, join.history)
            parts.written(joined, join.out / side / f"{part:02d}-{path.name}")
