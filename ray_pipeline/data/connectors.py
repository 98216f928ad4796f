"""CONNECTORS: what `collect` asks of a place that rows come from, by the scheme of its URL.

Files, wherever they lie, are the default. To read from elsewhere, put a Connector under a scheme.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import pyarrow as pa
from upath import UPath

from ray_pipeline.data import readers, sources
from ray_pipeline.data.media import found
from ray_pipeline.data.readers.rows import placed
from ray_pipeline.data.sources import Piece
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data, Source
from ray_pipeline.schema import Kind


def _one(source: Source, data: Data) -> list[str]:
    return [str(source)]


class Connector(NamedTuple):
    """How one kind of place is read; every function may raise DataError.

    `fingerprint(source, data)`: JSON-able, other when the rows are others, without secrets.
    `names(source, data)`: the columns, in order.
    `kinds(source, data)`: what the place itself says of its columns' kinds; may lack any.
    `pieces(source, data)`: picklable parts, one task each, which together hold each row once.
    `tables(piece, data, names)`: tables with the columns `names` of any Arrow type, and `_row`
    (the row's number, unique in its place, 0 to 2⁴⁰), `_error` and `_raw` (texts, null in sound
    rows); `_source` too, if there is more than one place.
    `sample(source, data, names)`: the first rows, as `tables`; of the first piece if absent.
    `places(source, data)`: all that `_source` may say, in order; `str(source)` if absent.
    `aside`: columns that only say which row it is; no features unless the job names them.
    """

    fingerprint: Callable[[Source, Data], Any]
    names: Callable[[Source, Data], list[str]]
    kinds: Callable[[Source, Data], dict[str, Kind]]
    pieces: Callable[[Source, Data], Sequence[Any]]
    tables: Callable[[Any, Data, Sequence[str]], Iterator[pa.Table]]
    sample: Callable[[Source, Data, Sequence[str]], pa.Table | None] | None = None
    places: Callable[[Source, Data], list[str]] = _one
    aside: frozenset[str] = frozenset()


def connector(source: Source, data: Data) -> Connector:
    """The connector for a source's URL, or for files that are documents, images or videos.

    Raises DataError where a database's is not known.
    """
    if source.scheme in CONNECTORS:
        known = CONNECTORS[source.scheme]
        return known if isinstance(known, Connector) else _imported(known)
    if source.table or source.query or source.pattern:
        raise DataError(
            f"no database is known by `{source.scheme}://`",
            where=str(source),
            expected=", ".join(f"{scheme}://" for scheme in CONNECTORS),
        )
    return _imported(_MEDIA) if found.format_of(source, data) else FILES


def _imported(module: str) -> Connector:
    connected: Connector = import_module(module).CONNECTOR
    return connected


def _at(source: Source, data: Data) -> Data:
    """The settings to read `source` with, be it the job's source or its test file."""
    return data.model_copy(update={"source": source})


def _listed(source: Source) -> list[UPath]:
    """The source's files; of one that grows those that are this run's."""
    if source.new is None or source.new.files is None:
        return sources.listed(source.url)
    return [UPath(name) for name in source.new.files]


def _file_names(source: Source, data: Data) -> list[str]:
    paths = _listed(source)
    first, *others = (readers.names(path, _at(source, data)) for path in paths)
    for path, names in zip(paths[1:], others, strict=True):
        sources.checked_names(names, first, str(path))
    return first


def _file_kinds(source: Source, data: Data) -> dict[str, Kind]:
    return readers.kinds(_listed(source)[0], _at(source, data))


def _file_fingerprint(source: Source, data: Data) -> Any:
    paths = _listed(source)
    return [[str(path), readers.version(path, _at(source, data))] for path in paths]


def _file_pieces(source: Source, data: Data) -> list[Piece]:
    return readers.pieces(_listed(source), _at(source, data))


def _file_tables(piece: Piece, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
    for table in readers.tables(piece, data, names):
        yield table.append_column("_source", placed(str(piece.path), len(table)))


def _file_sample(source: Source, data: Data, names: Sequence[str]) -> pa.Table | None:
    path, at = _listed(source)[0], _at(source, data)
    return next(_file_tables(Piece(path, sources.format_of(path, at)), at, names), None)


FILES = Connector(
    fingerprint=_file_fingerprint,
    names=_file_names,
    kinds=_file_kinds,
    pieces=_file_pieces,
    tables=_file_tables,
    sample=_file_sample,
    places=lambda source, data: [str(path) for path in _listed(source)],
)

_MEDIA = "ray_pipeline.data.media.connector"
_SQL = "ray_pipeline.data.sql"
CONNECTORS: dict[str, Connector | str] = {
    "postgresql": _SQL,
    "mysql": _SQL,
    "mariadb": _SQL,
    "sqlite": _SQL,
    "mssql": _SQL,
    "oracle": _SQL,
    "redis": "ray_pipeline.data.redis_keys",
    "rediss": "ray_pipeline.data.redis_keys",
    "mongodb": "ray_pipeline.data.mongo",
}
"""By scheme: a Connector, or the module that has it as CONNECTOR and is imported when needed."""
