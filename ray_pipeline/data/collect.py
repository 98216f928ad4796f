"""The job's rows as a Ray Dataset, from wherever they are, and the schema of these rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.data import parsing, parts, sources
from ray_pipeline.data.connectors import connector
from ray_pipeline.data.privacy import treatment
from ray_pipeline.data.privacy.treatment import Treat
from ray_pipeline.data.readers import READERS
from ray_pipeline.data.readers.rows import placed
from ray_pipeline.data.sources import files
from ray_pipeline.errors import DataError
from ray_pipeline.job import ColumnSettings, Data, Source
from ray_pipeline.schema import SEPARATOR, Column, Kind, Role, Schema

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["READERS", "files", "fingerprint", "places", "rows", "schema"]

LINEAGE = ("_source", "_row", "_error", "_raw")
RESERVED = (*LINEAGE, "_reason", "_test", treatment.IDENTITY)
"""Names that columns beside the file's own have until rows are clean."""
CLASSES = 20
"""A label of whole numbers with no more different values than this is a class, not a quantity."""


def rows(source: Source, data: Data, schema: Schema) -> Dataset:
    """The rows of `source`: the schema's columns and their lineage.

    Texts are trimmed, and null where they stand for a missing value; values that the source has
    typed keep their type. `_source` is the file or the database, `_row` the row's number in it;
    where a row does not parse `_error` says why and `_raw` holds it, else both are null. Columns
    that the schema does not name are left out. Pieces (files, ranges of bytes or keys) are read
    in parallel; errors of the place (DataError: not UTF-8, a column not there, a table gone) are
    raised when the dataset is executed. What `data.privacy` treats is treated in the task that
    reads it.
    """
    return parts.pieced(*reading(source, data, schema))


def reading(
    source: Source, data: Data, schema: Schema
) -> tuple[Sequence[Any], Callable[[Any], Iterator[pa.Table]]]:
    """The pieces of `source`, and what reads one into the tables of `rows`."""
    pieces = connector(source, data).pieces(source, data)
    treat = treatment.of(data.privacy, schema)
    return pieces, partial(_rows, source=source, data=data, schema=schema, treat=treat)


def _rows(
    piece: Any, source: Source, data: Data, schema: Schema, treat: Treat | None = None
) -> Iterator[pa.Table]:
    names = (*schema.names, *treat.reads) if treat else schema.names
    for table in connector(source, data).tables(piece, data, names):
        cleaned = _cleaned(table, source, names, schema)
        yield treat(cleaned) if treat else cleaned


def _cleaned(table: pa.Table, source: Source, names: Sequence[str], schema: Schema) -> pa.Table:
    several = {column.name for column in schema if column.kind == "labels"}
    missing = schema.missing_texts
    columns = {
        name: parsing.present(table[name], missing - {""} if name in several else missing)
        for name in names
    }
    named = "_source" in table.column_names
    place = table["_source"] if named else placed(str(source), len(table))
    return pa.table(columns | {"_source": place} | {name: table[name] for name in LINEAGE[1:]})


def places(data: Data) -> list[str]:
    """All that `_source` may say, in order: the source's files or database, then the test's."""
    return [place for side in _sides(data) for place in connector(side, data).places(side, data)]


def fingerprint(data: Data) -> str:
    """A digest of what the rows are, other when they are others. Raises DataError."""
    kept = [[str(side), connector(side, data).fingerprint(side, data)] for side in _sides(data)]
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


def _sides(data: Data) -> list[Source]:
    return [data.source] + ([data.test] if data.test else [])


def schema(data: Data, labelled: bool = True) -> Schema:
    """The columns of the job's rows, in the order of the first file, or of the table.

    Where rows are not yet `labelled`, the column that the label will be in may be absent.

    Kinds that the job does not give are what the source says of them, or else inferred from its
    first rows.

    Raises:
        DataError: a source is missing, empty or unreadable, or has not a column that the job
            names.
    """
    source = data.source
    names, where = connector(source, data).names(source, data), places(data)[0]
    named = [*data.columns, *data.clean.replace, *data.split.by]
    named += [data.label] if labelled else []
    named += data.privacy.named if data.privacy else ()
    sources.checked_names(names, named, where)
    if clash := [name for name in names if name in RESERVED]:
        raise DataError(f"a column is called `{clash[0]}`", where=where, hint="rename it")
    if data.test:
        sources.checked_names(
            connector(data.test, data).names(data.test, data), names, str(data.test)
        )
    kinds = _kinds(source, data, [name for name in names if name not in data.columns])
    columns = tuple(_column(name, data, kinds) for name in names)
    return treatment.stored_schema(Schema(columns=columns, missing=data.missing), data.privacy)


def _column(name: str, data: Data, kinds: dict[str, Kind]) -> Column:
    given = data.columns.get(name)
    if given is None:  # a day to predict is one of several, not a point on a line
        given = "category" if name == data.label and kinds[name] == "date" else kinds[name]
    aside = name not in data.columns and name in connector(data.source, data).aside
    role: Role = "ignore" if aside else "feature"
    role = given.role if isinstance(given, ColumnSettings) else role
    kind = given.kind if isinstance(given, ColumnSettings) else given
    separator = given.separator if isinstance(given, ColumnSettings) else SEPARATOR
    role = "label" if name == data.label else role
    return Column(name=name, kind=kind, role=role, separator=separator)


def _kinds(source: Source, data: Data, names: Sequence[str]) -> dict[str, Kind]:
    """The kinds of the columns `names`: as the source says, or else as its first rows show."""
    said = connector(source, data).kinds(source, data)
    kinds = {name: said[name] for name in names if name in said}
    unsaid = [name for name in names if name not in said]
    unsure = [data.label] if kinds.get(data.label) in {"integer", "number"} else []
    if not unsaid + unsure:
        return kinds
    sample = _sample(source, data, unsaid + unsure)
    for name in unsaid:
        kinds[name] = parsing.inferred(sample[name])
    if kinds.get(data.label) in {"integer", "number"} and _few_whole(sample[data.label]):
        kinds[data.label] = "category"
    return kinds


def _sample(source: Source, data: Data, names: Sequence[str]) -> pa.Table:
    """The first rows' values in the columns `names`. Raises DataError where there are none."""
    found = connector(source, data)
    if found.sample:
        table = found.sample(source, data, names)
    else:
        table = next(found.tables(found.pieces(source, data)[0], data, names), None)
    if table is None or not pc.any(pc.is_null(table["_error"])).as_py():
        where = found.places(source, data)[0]
        raise DataError("no row can be read", where=where, expected=f"{len(names)} fields")
    return _cleaned(table, source, names, Schema(columns=(), missing=data.missing))


def _few_whole(values: pa.ChunkedArray) -> bool:
    """Whether these numbers look like the classes of a label: whole, and few different ones."""
    whole = parsing.parsed(values, "integer")[1] is None
    return whole and bool(pc.count_distinct(values).as_py() <= CLASSES)
