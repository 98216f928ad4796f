"""The job's files as a Ray Dataset of texts, and the schema of their rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset
from upath import UPath

from ray_pipeline.data import parsing, parts, sources
from ray_pipeline.data.readers import READERS
from ray_pipeline.data.sources import Piece, files, fingerprint
from ray_pipeline.errors import DataError
from ray_pipeline.job import ColumnSettings, Data, Source
from ray_pipeline.schema import Column, Kind, Role, Schema

__all__ = ["READERS", "files", "fingerprint", "rows", "schema"]

LINEAGE = ("_source", "_row", "_error", "_raw")
RESERVED = (*LINEAGE, "_reason", "_test")
"""Names that columns beside the file's own have until rows are clean."""
CLASSES = 20
"""A label of whole numbers with no more different values than this is a class, not a quantity."""


def rows(source: Source, data: Data, schema: Schema) -> Dataset:
    """The rows of `source`: the schema's columns as trimmed texts, null where missing, and lineage.

    `_source` is the file, `_row` the row's number in it; where a row does not parse `_error` says
    why and `_raw` holds it, else both are null. Columns that the schema does not name are left
    out. Files are read in parallel, large ones in pieces; errors of a file (DataError: not UTF-8,
    a column not there, two of one name) are raised when the dataset is executed.
    """
    parts.quiet()
    pieces = sources.pieces(sources.listed(source.url), data)
    return parts.pieced(pieces, partial(_texts, data=data, schema=schema))


def _texts(piece: Piece, data: Data, schema: Schema) -> Iterator[pa.Table]:
    for table in READERS[piece.format].tables(piece, data, schema.names):
        columns = {name: cleaned_texts(table[name], schema) for name in schema.names}
        lineage = {"_source": pa.repeat(str(piece.path), len(table))}
        lineage |= {name: table[name] for name in LINEAGE[1:]}
        yield pa.table(columns | lineage)


def cleaned_texts(texts: pa.ChunkedArray, schema: Schema) -> pa.ChunkedArray:
    """Texts without surrounding white space; null where they stand for a missing value."""
    trimmed = pc.utf8_trim_whitespace(texts)
    missing = pc.is_in(trimmed, pa.array(sorted(schema.missing_texts)))
    return pc.if_else(missing, pa.scalar(None, pa.string()), trimmed)


def schema(data: Data) -> Schema:
    """The columns of the job's rows, in the order of the first file.

    Kinds that the job does not give are inferred from the first file's first rows.

    Raises:
        DataError: a file is missing, empty or unreadable, or has not a column that the job names.
    """
    paths = files(data)
    names = _names(paths[0], data)
    named = [*data.columns, *data.clean.replace, *data.split.by, data.label]
    sources.checked_names(names, named, str(paths[0]))
    if clash := [name for name in names if name in RESERVED]:
        raise DataError(f"a column is called `{clash[0]}`", where=str(paths[0]), hint="rename it")
    for path in paths[1:]:
        sources.checked_names(_names(path, data), names, str(path))
    kinds = _kinds(paths[0], data, [name for name in names if name not in data.columns])
    return Schema(columns=tuple(_column(name, data, kinds) for name in names), missing=data.missing)


def _names(path: UPath, data: Data) -> list[str]:
    return READERS[sources.format_of(path, data)].names(path, data)


def _column(name: str, data: Data, kinds: dict[str, Kind]) -> Column:
    given = data.columns.get(name)
    if given is None:
        given = kinds[name]
    role: Role = given.role if isinstance(given, ColumnSettings) else "feature"
    kind = given.kind if isinstance(given, ColumnSettings) else given
    return Column(name=name, kind=kind, role="label" if name == data.label else role)


def _kinds(path: UPath, data: Data, names: Sequence[str]) -> dict[str, Kind]:
    """The kinds of the columns `names`, from the first rows of a file."""
    if not names:
        return {}
    texts = Schema(
        columns=tuple(Column(name=name, kind="category") for name in names), missing=data.missing
    )
    piece = Piece(path, sources.format_of(path, data))
    sample = next(_texts(piece, data, texts), None)
    if sample is None or not pc.any(pc.is_null(sample["_error"])).as_py():
        raise DataError("no row can be read", where=str(path), expected=f"{len(names)} fields")
    kinds = {name: parsing.inferred(sample[name]) for name in names}
    if kinds.get(data.label) == "integer" and _few(sample[data.label]):
        kinds[data.label] = "category"
    return kinds


def _few(texts: pa.ChunkedArray) -> bool:
    return bool(pc.count_distinct(texts).as_py() <= CLASSES)
