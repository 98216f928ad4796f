"""CSV and TSV: texts, in blocks of bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from upath import UPath

from ray_pipeline.data import sources
from ray_pipeline.data.readers import quotes
from ray_pipeline.data.readers.rows import Bad, faulty, numbered
from ray_pipeline.data.sources import Piece
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data

BLOCK = 8 << 20
"""Bytes read at a time: also the longest row."""


def names(path: UPath, data: Data) -> list[str]:
    """The first row of a delimited file, or the job's columns where files have no header."""
    if not data.header:
        return list(data.columns)
    return [name.strip() for name in _header(path, _delimiter(path, data))]


def _delimiter(path: UPath, data: Data) -> str:
    return data.delimiter or ("\t" if sources.format_of(path, data) == "tsv" else ",")


def _header(path: UPath, delimiter: str) -> list[str]:
    with sources.opened(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            header: list[str] = next(csv.reader(text, delimiter=delimiter), [])
        except UnicodeDecodeError as error:
            raise _unreadable(path, error, delimiter) from None
    if not header:
        raise DataError("the file has no header", where=str(path), hint="set `data.header: false`")
    return header


def tables(piece: Piece, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of CSV or TSV; one with too few or too many fields becomes an `_error`."""
    where, delimiter = str(piece.path), _delimiter(piece.path, data)
    raw_names = _header(piece.path, delimiter) if data.header else list(names)
    present = [name.strip() for name in raw_names]
    sources.checked_names(present, names, where)
    bad: list[Bad] = []
    with _streamed(piece) as (stream, before):
        if stream is None:
            return
        headed = data.header and not before
        last, sound = before + headed, False
        try:
            for batch in _parsed(stream, delimiter, raw_names, headed, bad):
                table = pa.Table.from_batches([batch]).rename_columns(present)
                sound = sound or _sound(piece.path, delimiter, table, bad)
                numbers = _numbers(last, len(table), [row.number + before for row in bad])
                last = int(numbers[-1]) if len(numbers) else last
                yield numbered(table.select(list(names)), numbers)
        except pa.ArrowInvalid as error:
            raise _unreadable(piece.path, error, delimiter) from None
    if bad:
        if not sound:
            _sound(piece.path, delimiter, None, bad)
        yield faulty(names, [row._replace(number=row.number + before) for row in bad])


def _parsed(
    stream: IO[bytes], delimiter: str, names: list[str], headed: bool, bad: list[Bad]
) -> Iterator[pa.RecordBatch]:
    """Blocks of rows as texts; those with another number of fields than `names` go to `bad`."""

    def keep(row: Any) -> str:
        error = f"expected {row.expected_columns} fields, found {row.actual_columns}"
        bad.append(Bad(row.number, error, row.text))
        return "skip"

    yield from pacsv.open_csv(
        stream,
        read_options=pacsv.ReadOptions(
            use_threads=False, block_size=BLOCK, column_names=None if headed else names
        ),
        parse_options=pacsv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=keep
        ),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    )


def _sound(path: UPath, delimiter: str, table: pa.Table | None, bad: Sequence[Bad]) -> bool:
    """Whether the file's quotes were looked at and are closed; raises DataError if not."""
    odd = any("\n" in row.raw for row in bad) or (table is not None and quotes.suspicious(table))
    if odd:
        quotes.check(path, delimiter)
    return odd


@contextmanager
def _streamed(piece: Piece) -> Iterator[tuple[IO[bytes] | None, int]]:
    """A piece's bytes as a file (None if no line begins in it), and the lines before them."""
    if piece.end is None:
        with sources.opened(piece.path) as file:
            yield file, 0
    else:
        text, before = sources.lines_of(piece)
        yield io.BytesIO(text) if text else None, before


def _numbers(last: int, count: int, bad: Sequence[int]) -> Any:
    """The `count` row numbers after `last` not among `bad`: the parser tells only those."""
    numbers = np.arange(last + 1, last + 1 + count + len(bad))
    return numbers[~np.isin(numbers, bad)][:count]


def _unreadable(path: UPath, error: Exception, delimiter: str) -> DataError:
    """What to say of a file that the parser gave up on."""
    with sources.opened(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return DataError(
                    f"line {number} is not UTF-8 text",
                    where=str(path),
                    hint="convert the file, say with iconv",
                )
    quotes.check(path, delimiter)
    return DataError(f"the file cannot be parsed: {error}", where=str(path))
