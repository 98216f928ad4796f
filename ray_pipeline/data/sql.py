"""Rows of an SQL database: a table, a join made there, or a query, by ranges of a key.

Each range is one statement, streamed by the server in batches. Ranges are cut at the key's
quantiles, which the database finds with window functions, so gaps and heaps do not matter, and
each knows how many rows it has: a table that changes while it is read is an error, not a wrong
set of rows. Rows whose key is null are a range of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ray_pipeline.data import adbc, sql_types
from ray_pipeline.data.connectors import Connector
from ray_pipeline.data.credentials import Login, login
from ray_pipeline.data.databases import connected
from ray_pipeline.data.relations import Relation, relation
from ray_pipeline.data.sources import checked_names
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data, Source
from ray_pipeline.schema import Kind, kind_of

if TYPE_CHECKING:
    import sqlalchemy as sa

BATCH = 10_000
"""Rows fetched at a time, and looked at to tell what a query's columns hold."""
ROWS_A_RANGE = 50_000
"""A range has about as many rows, unless the job says how many ranges there are."""
MOST_RANGES = 64


@dataclass(frozen=True)
class Range:
    """The rows of a relation whose key is in [low, high), or [low, high] if it is the last.

    Without `low` and `nulls`: all rows. `rows` are as many as there were when the range was cut,
    `first` as many as there are before it.
    """

    source: Source
    login: Login
    relation: Relation
    low: Any = None
    high: Any = None
    last: bool = False
    nulls: bool = False
    first: int = 0
    rows: int | None = None


def names(source: Source, data: Data) -> list[str]:
    with connected(source, entry := login(source)) as connection:
        return list(_relation(source, entry, connection).types)


def _relation(source: Source, entry: Login, connection: sa.Connection) -> Relation:
    found = relation(source, connection)
    checked_names(list(found.types), [source.key] if source.key else [], str(source))
    return found


def kinds(source: Source, data: Data) -> dict[str, Kind]:
    with connected(source, entry := login(source)) as connection:
        types = _relation(source, entry, connection).types
    found = {name: kind_of(column) for name, column in types.items()}
    return {name: kind for name, kind in found.items() if kind}


def sample(source: Source, data: Data, names: Sequence[str]) -> pa.Table | None:
    """The first rows that the database gives; None where there is none."""
    entry = login(source)
    with connected(source, entry) as connection:
        found = _relation(source, entry, connection)
        rows = connection.execute(found.select(names).limit(BATCH)).fetchall()
    whole = Range(source, entry, found)
    return as_table(rows, whole, names, 0) if rows else None


def fingerprint(source: Source, data: Data) -> Any:
    """How many rows, the least and greatest key, and the sum of the numbers in each column.

    One pass of the database over the rows. It sees rows that come, go or change a number; it does
    not see a change of texts, dates or booleans only, nor changes that leave every sum as it was.
    A job that must see those names a `query` with a checksum or a time of change of its own.
    """
    import sqlalchemy as sa

    entry = login(source)
    with connected(source, entry) as connection:
        found = _relation(source, entry, connection)
        totals = [sa.func.count(), *found.totals()]
        row = connection.execute(sa.select(*totals).select_from(found.rows)).one()
    return [[str(value) for value in row], {name: str(t) for name, t in found.types.items()}]


def pieces(source: Source, data: Data) -> list[Range]:
    """Ranges of the key; one range with everything where there is no key, or little to read."""
    entry = login(source)
    with connected(source, entry) as connection:
        found = _relation(source, entry, connection)
        whole = Range(source, entry, found)
        if found.key is None or source.partitions == 1:
            return [whole]
        return _ranges(whole, connection) or [whole]


def _ranges(whole: Range, connection: sa.Connection) -> list[Range]:
    import sqlalchemy as sa

    key = whole.relation.column(whole.relation.key)
    rows = whole.relation.rows
    total, keyed, greatest = connection.execute(
        sa.select(sa.func.count(), sa.func.count(key), sa.func.max(key)).select_from(rows)
    ).one()
    wanted = whole.source.partitions or min(-(-total // ROWS_A_RANGE), MOST_RANGES)
    if wanted < 2 or not keyed:
        return []
    cuts = _cuts(key, rows, -(-keyed // wanted), connection)
    ranges = [
        replace(whole, low=low, high=high, first=first, rows=end - first)
        for (low, first), (high, end) in zip(cuts, [*cuts[1:], (greatest, keyed)], strict=True)
    ]
    ranges[-1] = replace(ranges[-1], last=True)
    if total > keyed:
        ranges.append(replace(whole, nulls=True, first=keyed, rows=total - keyed))
    return ranges


def _cuts(key: Any, rows: Any, step: int, connection: sa.Connection) -> list[tuple[Any, int]]:
    """Values of the key `step` rows apart, the least first, and how many rows are below each."""
    import sqlalchemy as sa

    numbered = (
        sa.select(
            key.label("key"),
            sa.func.row_number().over(order_by=key).label("place"),
            sa.func.rank().over(order_by=key).label("standing"),
        )
        .select_from(rows)
        .where(key.is_not(None))
        .subquery()
    )
    cut = sa.select(numbered.c.key, numbered.c.standing).where((numbered.c.place - 1) % step == 0)
    found = connection.execute(cut.order_by(numbered.c.place)).all()
    return list({standing: (low, standing - 1) for low, standing in found}.values())


def tables(piece: Range, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
    """The range's rows in batches; `_row` is the key where it is unique, else a row's place.

    Raises:
        DataError: the connection breaks, the table is gone or has another number of rows in the
            range than when it was cut.
    """
    count = 0
    for table in _as_arrow(piece, names) or _as_objects(piece, names):
        yield table
        count += len(table)
    if piece.rows is not None and count != piece.rows:
        raise DataError(
            f"the table changed while it was read: {count:,} rows where there were {piece.rows:,}",
            where=str(piece.source),
            hint="run the same command again, or set `partitions: 1`: one statement sees one state",
        )


def _as_objects(piece: Range, names: Sequence[str]) -> Iterator[pa.Table]:
    """The rows by the database's own driver, which makes each value a Python object."""
    count = 0
    with connected(piece.source, piece.login, stream=True) as connection:
        for rows in connection.execute(_statement(piece, names)).partitions(BATCH):
            yield as_table(rows, piece, names, piece.first + count)
            count += len(rows)


def _as_arrow(piece: Range, names: Sequence[str]) -> Iterator[pa.Table] | None:
    """The rows as the server sends them, without such objects; None where that cannot be."""
    if not adbc.reads(piece.login):
        return None
    found = piece.relation
    columns = [*names, str(found.key)] if found.numbered else list(names)
    wanted = [pa.field(name, found.types[name]) for name in columns]
    batches = adbc.batches(piece.source, piece.login, _statement(piece, names), wanted)
    return None if batches is None else _with_lineage(batches, piece, names)


def _with_lineage(
    batches: Iterator[tuple[pa.Table, list[str | None]]], piece: Range, names: Sequence[str]
) -> Iterator[pa.Table]:
    before = piece.first
    for rows, faults in batches:
        values = dict(zip(names, rows.columns, strict=False))
        numbers = np.arange(before + 1, before + 1 + len(rows))
        numbered = rows.columns[-1] if piece.relation.numbered else pa.array(numbers)
        shown = rows.select(range(len(names)))
        raw = [None if fault is None else _shown(shown, i) for i, fault in enumerate(faults)]
        lineage = {"_error": pa.array(faults, pa.string()), "_raw": pa.array(raw, pa.string())}
        yield pa.table(values | {"_row": numbered} | lineage)
        before += len(rows)


def _shown(rows: pa.Table, place: int) -> str:
    return ",".join(str(column[place].as_py()) for column in rows.columns)


def _statement(piece: Range, names: Sequence[str]) -> Any:
    found = piece.relation
    columns = [*names, str(found.key)] if found.numbered else list(names)
    statement = found.select(columns)
    if found.key is None:
        return statement
    key = found.column(found.key)
    if piece.nulls:
        statement = statement.where(key.is_(None))
    elif piece.low is not None:
        below = key <= piece.high if piece.last else key < piece.high
        statement = statement.where(key >= piece.low, below)
    return statement if found.numbered else statement.order_by(*found.order())


def as_table(rows: Sequence[Any], piece: Range, names: Sequence[str], before: int) -> pa.Table:
    """Rows as Arrow; one with a value that is not of its column's type becomes an `_error`."""
    values = list(zip(*rows, strict=True))
    arrays, faults = {}, dict[int, str]()
    for name, column in zip(names, values, strict=False):
        wanted = piece.relation.types[name]
        arrays[name], misfits = sql_types.array(column, wanted)
        for place, shown in misfits.items():
            faults.setdefault(place, f"{name}: expected {wanted}, found '{shown}'")
    if piece.relation.numbered and len(values) > len(names):
        numbers = pa.array(values[-1], pa.int64())
    else:
        numbers = pa.array(np.arange(before + 1, before + 1 + len(rows)))
    errors = pa.array([faults.get(place) for place in range(len(rows))], pa.string())
    raw = [",".join(map(str, rows[i])) if i in faults else None for i in range(len(rows))]
    return pa.table(
        arrays | {"_row": numbers, "_error": errors, "_raw": pa.array(raw, pa.string())}
    )


CONNECTOR = Connector(fingerprint, names, kinds, pieces, tables, sample)
