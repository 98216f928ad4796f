"""JSON Lines: texts, a line at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
from upath import UPath

from ray_pipeline.data import sources
from ray_pipeline.data.readers.rows import Bad, faulty, numbered
from ray_pipeline.data.sources import Piece
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data

BLOCK = 8 << 20
"""Bytes read at a time."""


def names(path: UPath, data: Data) -> list[str]:
    """The keys of the first rows of a JSON Lines file, in the order in which they appear."""
    keys: dict[str, None] = {}
    with sources.opened(path) as file:
        for line in islice(file, 1000):
            row = _json_row(line)
            keys |= dict.fromkeys(row if isinstance(row, dict) else ())
    if not keys:
        raise DataError("no line is a JSON object", where=str(path), expected='{"column": value}')
    return list(keys)


def tables(piece: Piece, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of JSON Lines; a line that is no JSON object becomes an `_error`.

    Parsed a line at a time: Arrow's JSON reader refuses a whole file for one bad line or one text
    in a column of numbers, and turns texts that look like dates into dates.
    """
    for lines, before in sources.chunks_of_lines(piece, BLOCK):
        good, numbers, bad = [], [], []
        for number, line in enumerate(lines, start=before + 1):
            row = _json_row(line)
            if isinstance(row, dict):
                good.append(row)
                numbers.append(number)
            elif line.strip():
                found = line.decode(errors="backslashreplace").rstrip("\r\n")
                bad.append(Bad(number, row, found))
        texts = {
            name: pa.array([_text(row.get(name)) for row in good], pa.string()) for name in names
        }
        yield numbered(pa.table(texts), numbers)
        if bad:
            yield faulty(names, bad)


def _json_row(line: bytes) -> dict[str, Any] | str:
    """The object on a line, its numbers as they are written; or what is wrong with the line."""
    try:
        row = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
    except ValueError:  # not JSON, or not UTF-8
        return "expected JSON"
    return row if isinstance(row, dict) else "expected a JSON object"


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
