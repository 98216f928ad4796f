"""Quotes that are opened and not closed: they swallow the rows after them, up to the next quote.

Arrow takes such a file as it is, so it is looked at again, slowly, where what Arrow read gives
reason to: the rows that were swallowed are within a value.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from ray_pipeline.data import sources
from ray_pipeline.errors import DataError

LONGEST = 8 << 20
"""Characters of a field at most, as in a block of Arrow's reader."""


def suspicious(table: pa.Table) -> bool:
    """Whether a value holds a line end, and a quote too or is in the last row.

    Only quoted values hold line ends. A value that ran on to another value's quote holds that
    quote; one that ran on to the end of the file is in its last row.
    """
    for column in table.itercolumns():
        if not any(map(_has_line_end, column.chunks)):
            continue
        ends = pc.match_substring(column, "\n")
        both = pc.and_(ends, pc.match_substring(column, '"'))
        if pc.any(both).as_py() or ends[-1].as_py():
            return True
    return False


def _has_line_end(texts: pa.Array) -> bool:
    """Looks at the bytes of all values at once, which costs next to nothing."""
    values = texts.buffers()[2]
    return values is not None and bool((np.frombuffer(values, np.uint8) == ord("\n")).any())


def check(path: UPath, delimiter: str) -> None:
    """Raises DataError, with the line, where a row of several lines has a quote left open."""
    before = csv.field_size_limit(LONGEST)
    try:
        line = _left_open(path, delimiter)
    finally:
        csv.field_size_limit(before)
    if line:
        raise DataError(
            f"the row that begins in line {line} opens a quote and does not close it",
            where=str(path),
            expected='a `"` at the field\'s end, and `""` for a quote within it',
            hint="correct the line and run again",
        )


def _left_open(path: UPath, delimiter: str) -> int | None:
    with sources.opened(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        held: list[str] = []
        begun = 1
        try:
            for _ in csv.reader(_kept(text, held), delimiter=delimiter):
                if len(held) > 1 and not _closed(held, delimiter):
                    return begun
                begun += len(held)
                held.clear()
        except csv.Error:  # a field without an end
            return begun
    return None


def _kept(lines: Iterator[str], held: list[str]) -> Iterator[str]:
    for line in lines:
        held.append(line)
        yield line


def _closed(lines: Sequence[str], delimiter: str) -> bool:
    try:
        return bool(list(csv.reader(lines, delimiter=delimiter, strict=True)))
    except csv.Error:
        return False
