"""Sheets of Excel and OpenDocument files, through calamine: cells as texts."""

from __future__ import annotations

import datetime
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pyarrow as pa
from upath import UPath

from ray_pipeline.data import sources
from ray_pipeline.data.faults import missing
from ray_pipeline.data.readers.rows import numbered
from ray_pipeline.data.sources import Piece
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data

ROWS = 50_000
"""Rows of a table: a sheet has up to a million."""


def names(path: UPath, data: Data) -> list[str]:
    """The first row of the sheet, or the job's columns where it has no header."""
    if not data.header:
        return list(data.columns)
    with _rows(path, data.source.sheet) as rows:
        return _header(next(rows, (1, []))[1], path)


def pieces(path: UPath, data: Data) -> list[Piece]:
    """The sheet, whole."""
    return [Piece(path, "excel", part=data.source.sheet)]


def tables(piece: Piece, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of the piece's sheet, or else the job's, or the first, by the numbers that Excel shows.

    A cell has its own type, whatever its column: cells become texts (numbers exact, dates in ISO
    8601) and empty ones null, as do formulas without a value. Rows of empty cells are left out.
    """
    with _rows(piece.path, str(piece.part) if piece.part else data.source.sheet) as rows:
        present = _header(next(rows, (1, []))[1], piece.path) if data.header else list(data.columns)
        sources.checked_names(present, names, str(piece.path))
        places = [present.index(name) for name in names]
        while some := list(islice(rows, ROWS)):
            columns = [
                pa.array([_text(cells[i]) if i < len(cells) else None for _, cells in some])
                for i in places
            ]
            texts = pa.table([column.cast(pa.string()) for column in columns], list(names))
            yield numbered(texts, [number for number, _ in some])


@contextmanager
def _rows(path: UPath, sheet: str | None) -> Iterator[Iterator[tuple[int, list[Any]]]]:
    """The sheet's rows with any value, and their numbers, which count from 1."""
    try:
        import python_calamine as calamine
    except ImportError:
        raise missing("python-calamine", "excel", str(path)) from None
    with path.open("rb") as file:
        content = io.BytesIO(file.read())  # a sheet's parts are all over the file
    try:
        book = calamine.CalamineWorkbook.from_filelike(content)
        sheet = sheet or book.sheet_names[0]
        if sheet not in book.sheet_names:
            raise DataError(
                f"there is no sheet `{sheet}`",
                where=str(path),
                expected=f"one of {', '.join(book.sheet_names)}",
            )
        found = book.get_sheet_by_name(sheet)
    except calamine.PasswordError:
        raise DataError("the file is protected by a password", where=str(path)) from None
    except calamine.CalamineError as error:
        raise DataError(
            f"not an Excel file: {error}", where=str(path), hint="save it again as .xlsx"
        ) from None
    first = (found.start or (0, 0))[0] + 1
    yield (
        (number, cells)
        for number, cells in enumerate(found.iter_rows(), first)
        if any(cell != "" for cell in cells)
    )


def _header(cells: Sequence[Any], path: UPath) -> list[str]:
    found = [(_text(cell) or "").strip() for cell in cells]
    while found and not found[-1]:
        found.pop()
    if not found:
        raise DataError("the sheet is empty", where=str(path), expected="a row of names, then rows")
    if "" in found:
        raise DataError(f"column {found.index('') + 1} has no name", where=str(path))
    return found


def _text(cell: Any) -> str | None:
    if cell == "" or cell is None:
        return None
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))  # Excel keeps every number as a double
    if isinstance(cell, datetime.datetime | datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell)
