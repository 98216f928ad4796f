"""What a source reads from a database: a table, a join of tables, or a query, with its types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from ray_pipeline.data import sql_types
from ray_pipeline.data.databases import table
from ray_pipeline.data.sources import checked_names
from ray_pipeline.errors import DataError
from ray_pipeline.job import Join, Source
from ray_pipeline.job.source import Mark, New

if TYPE_CHECKING:
    import sqlalchemy as sa

MOST_NUMBER = 2**40
"""Row numbers end here."""
_SAMPLE = 10_000


@dataclass(frozen=True)
class Relation:
    """Rows that can be selected from: `rows`, their columns' Arrow types, and the key.

    `numbered`: the key is a whole number, different in each row and in [0, 2⁴⁰), so it is the
    row's number. `unique` are columns that order the rows, beside the key.
    """

    rows: Any
    types: dict[str, pa.DataType]
    key: str | None
    unique: tuple[str, ...] = ()
    numbered: bool = False

    def column(self, name: str | None) -> Any:
        """A column as the driver gives it, without SQLAlchemy's conversions.

        Bounds read from it compare as they stand: SQLite's dates are texts of several forms.
        """
        import sqlalchemy as sa

        return sa.type_coerce(self.rows.c[name], sa.types.NullType())

    def select(self, names: Sequence[str]) -> sa.Select[Any]:
        """The columns as the driver gives them, in order."""
        import sqlalchemy as sa

        raw = [self.column(name).label(None) for name in names]
        return sa.select(*raw).select_from(self.rows)

    def order(self) -> list[Any]:
        return [self.rows.c[name] for name in dict.fromkeys([str(self.key), *self.unique])]

    def totals(self) -> list[Any]:
        """For a fingerprint: the key's bounds, and each column's count and sum of numbers."""
        import sqlalchemy as sa

        bounds = [] if self.key is None else [self.rows.c[self.key]]
        found: list[Any] = [
            bound(column) for column in bounds for bound in (sa.func.min, sa.func.max)
        ]
        for name, column in self.types.items():
            found.append(sa.func.count(self.rows.c[name]))
            if pa.types.is_integer(column) or pa.types.is_decimal(column):
                exact = sa.types.Numeric(38, 6, asdecimal=False)
                found.append(sa.func.sum(sa.cast(self.rows.c[name], exact)))
        return found


def relation(source: Source, connection: sa.Connection) -> Relation:
    """What the source reads, between its marks if it has any.

    Raises DataError: a table or a column is not there, or names clash.
    """
    found = _whole(source, connection)
    return _between(found, source.new, str(source)) if source.new else found


def _between(found: Relation, new: New, where: str) -> Relation:
    """The rows above one mark and up to another, both if they are set."""
    import sqlalchemy as sa

    checked_names(list(found.types), [str(new.column)], where)
    column = found.column(new.column)
    bounds = [column > read_mark(new.above)] if new.above else []
    bounds += [column <= read_mark(new.upto)] if new.upto else []
    if not bounds:
        return found
    taken = sa.select(*found.rows.c).where(*bounds).subquery("taken")
    return replace(found, rows=taken)


def read_mark(mark: Mark) -> Any:
    """The value that a mark is of."""
    kind, value = mark
    known: dict[str, Callable[[str], Any]] = {
        "datetime": datetime.fromisoformat,
        "date": date.fromisoformat,
        "Decimal": Decimal,
    }
    return known[kind](str(value)) if kind in known else value


def marked(value: Any) -> Mark:
    """A value as a mark."""
    kind = type(value).__name__
    if isinstance(value, int | float | str):
        return kind, value
    return kind, value.isoformat() if isinstance(value, date) else str(value)


def _whole(source: Source, connection: sa.Connection) -> Relation:
    if source.query:
        return _queried(source, connection)
    if source.table is None:
        raise DataError(
            "the source does not say what to read",
            where=str(source),
            expected="`table` or `query` beside the `url`",
        )
    base = table(source.table, source, connection)
    types = {column.name: sql_types.arrow_type(column.type) for column in base.columns}
    primary = tuple(column.name for column in base.primary_key.columns)
    key = source.key or (primary[0] if primary else None)
    if key is not None and key in types:
        _check_key(key, types[key], source)
    if source.join:
        rows, types = _joined(base, types, source, connection)
        return Relation(rows, types, key, primary)
    numbered = primary == (key,) and _numbers(base.c[str(key)], types[str(key)], connection)
    return Relation(base, types, key, primary, numbered)


def _check_key(key: str, column: pa.DataType, source: Source) -> None:
    if pa.types.is_floating(column) or pa.types.is_boolean(column) or pa.types.is_binary(column):
        raise DataError(
            f"the key `{key}` holds {column}",
            where=str(source),
            expected="whole numbers, dates or texts",
            hint="name another column under `key`",
        )


def _numbers(key: Any, column: pa.DataType, connection: sa.Connection) -> bool:
    import sqlalchemy as sa

    if not pa.types.is_integer(column):
        return False
    low, high = connection.execute(sa.select(sa.func.min(key), sa.func.max(key))).one()
    return isinstance(low, int) and low >= 0 and high < MOST_NUMBER


def _queried(source: Source, connection: sa.Connection) -> Relation:
    """A query's columns, with the types that its first rows show."""
    import sqlalchemy as sa

    query = str(source.query).strip().rstrip(";").replace(":", r"\:")
    inner = sa.text(query)
    first = sa.select(sa.text("*")).select_from(sa.text(f"({query}) AS queried")).limit(_SAMPLE)
    result = connection.execute(first)
    names = list(result.keys())
    checked_names(names, [], str(source))
    values = list(zip(*result.all(), strict=True)) or [()] * len(names)
    types = {
        name: sql_types.inferred_type(column) for name, column in zip(names, values, strict=True)
    }
    rows = inner.columns(*[sa.column(name) for name in names]).subquery("queried")
    if source.key in types:
        _check_key(str(source.key), types[str(source.key)], source)
    return Relation(rows, types, source.key)


def _joined(
    base: sa.Table, types: dict[str, pa.DataType], source: Source, connection: sa.Connection
) -> tuple[Any, dict[str, pa.DataType]]:
    """The base table's rows with the columns of the others; a match more repeats a row."""
    import sqlalchemy as sa

    columns: dict[str, Any] = dict(base.columns.items())
    types, joined = dict(types), cast(Any, base)
    for number, join in enumerate(source.join):
        other = table(join.table, source, connection).alias(f"joined_{number}")
        where = f"{source.place} {join.table}"
        pairs = join.on if isinstance(join.on, Mapping) else {name: name for name in join.on}
        checked_names(list(columns), pairs, str(source))
        checked_names(list(other.c.keys()), pairs.values(), where)
        equal = sa.and_(*[columns[mine] == other.c[its] for mine, its in pairs.items()])
        joined = joined.join(other, equal, isouter=join.how == "left")
        for name, new in _taken(join, other, pairs, where).items():
            if new in columns:
                raise DataError(
                    f"`{new}` is a column of both sides of the join",
                    where=where,
                    hint=f"give it a name of its own: `columns: {{{name}: {join.table}_{name}}}`",
                )
            columns[new] = other.c[name]
            types[new] = sql_types.arrow_type(other.c[name].type)
    chosen = [column.label(name) for name, column in columns.items()]
    return sa.select(*chosen).select_from(joined).subquery("joined"), types


def _taken(join: Join, other: Any, pairs: Mapping[str, str], where: str) -> dict[str, str]:
    """Which columns of the other table are taken, and under what names."""
    if join.columns is None:
        return {name: name for name in list(other.c.keys()) if name not in pairs.values()}
    taken = join.columns if isinstance(join.columns, Mapping) else {n: n for n in join.columns}
    checked_names(list(other.c.keys()), taken, where)
    return dict(taken)
