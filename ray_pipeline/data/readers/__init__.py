"""READERS: for each format, the columns of a file, what their types say, and its rows as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
from upath import UPath

from ray_pipeline.data.readers import columnar, delimited, jsonl
from ray_pipeline.data.sources import Format, Piece
from ray_pipeline.job import Data
from ray_pipeline.schema import Kind


def untyped(path: UPath, data: Data) -> dict[str, Kind]:
    """The kinds that a text format tells: none."""
    return {}


class Reader(NamedTuple):
    """`names` of a file's columns; `tables` of a piece, with the columns asked for; `kinds`.

    The tables are as readers/rows.py describes; their columns have any Arrow type, text included.
    `kinds` are those that the file's own types say: of all columns, of some, or of none.
    """

    names: Callable[[UPath, Data], list[str]]
    tables: Callable[[Piece, Data, Sequence[str]], Iterator[pa.Table]]
    kinds: Callable[[UPath, Data], dict[str, Kind]] = untyped


READERS: dict[Format, Reader] = {
    "csv": Reader(delimited.names, delimited.tables),
    "tsv": Reader(delimited.names, delimited.tables),
    "jsonl": Reader(jsonl.names, jsonl.tables),
    "parquet": Reader(columnar.names, columnar.tables, columnar.kinds),
}
