"""READERS: one function per format from a piece of a file to tables of texts.

Each yields tables with the columns `names`, as texts, and the row's number `_row`; for a row that
does not parse, the columns are null, `_error` says why and `_raw` holds it as it stood. Numbers
count from 1, a header included, blank lines not.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from upath import UPath

from ray_pipeline.data import sources
from ray_pipeline.data.sources import Format, Piece
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data

BLOCK = 8 << 20
"""Bytes read at a time: also the longest row."""


class Reader(NamedTuple):
    """`names` of a file's columns; `tables` of a piece, with the columns asked for."""

    names: Callable[[UPath, Data], list[str]]
    tables: Callable[[Piece, Data, Sequence[str]], Iterator[pa.Table]]


class _Bad(NamedTuple):
    number: int
    error: str
    raw: str


def delimited_names(path: UPath, data: Data) -> list[str]:
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
            names: list[str] = next(csv.reader(text, delimiter=delimiter), [])
        except UnicodeDecodeError as error:
            raise _unreadable(path, error) from None
    if not names:
        raise DataError("the file has no header", where=str(path), hint="set `data.header: false`")
    return names


def delimited_tables(piece: Piece, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of CSV or TSV; one with too few or too many fields becomes an `_error`."""
    where, delimiter = str(piece.path), _delimiter(piece.path, data)
    raw_names = _header(piece.path, delimiter) if data.header else list(names)
    present = [name.strip() for name in raw_names]
    sources.checked_names(present, names, where)
    bad: list[_Bad] = []

    def keep(row: Any) -> str:
        error = f"expected {row.expected_columns} fields, found {row.actual_columns}"
        bad.append(_Bad(row.number, error, row.text))
        return "skip"

    with _streamed(piece) as (stream, before):
        if stream is None:
            return
        headed = data.header and not before
        last = before + headed
        try:
            for batch in pacsv.open_csv(
                stream,
                read_options=pacsv.ReadOptions(
                    use_threads=False, block_size=BLOCK, column_names=None if headed else raw_names
                ),
                parse_options=pacsv.ParseOptions(
                    delimiter=delimiter, newlines_in_values=True, invalid_row_handler=keep
                ),
                convert_options=pacsv.ConvertOptions(
                    column_types=dict.fromkeys(raw_names, pa.string()), strings_can_be_null=False
                ),
            ):
                table = pa.Table.from_batches([batch]).rename_columns(present).select(list(names))
                numbers = _numbers(last, len(table), [row.number + before for row in bad])
                last = int(numbers[-1]) if len(numbers) else last
                yield _numbered(table, numbers)
        except pa.ArrowInvalid as error:
            raise _unreadable(piece.path, error) from None
    if bad:
        yield _errors(names, [row._replace(number=row.number + before) for row in bad])


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


def _numbered(table: pa.Table, numbers: Any) -> pa.Table:
    nothing = pa.nulls(len(table), pa.string())
    table = table.append_column("_row", pa.array(numbers, pa.int64()))
    return table.append_column("_error", nothing).append_column("_raw", nothing)


def _errors(names: Sequence[str], rows: Sequence[_Bad]) -> pa.Table:
    nothing = pa.nulls(len(rows), pa.string())
    return pa.table(
        dict.fromkeys(names, nothing)
        | {
            "_row": pa.array([row.number for row in rows], pa.int64()),
            "_error": pa.array([row.error for row in rows], pa.string()),
            "_raw": pa.array([row.raw for row in rows], pa.string()),
        }
    )


def _unreadable(path: UPath, error: Exception) -> DataError:
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
    return DataError(f"the file cannot be parsed: {error}", where=str(path))


def json_names(path: UPath, data: Data) -> list[str]:
    """The keys of the first rows of a JSON Lines file, in the order in which they appear."""
    names: dict[str, None] = {}
    with sources.opened(path) as file:
        for line in islice(file, 1000):
            row = _json_row(line)
            names |= dict.fromkeys(row if isinstance(row, dict) else ())
    if not names:
        raise DataError("no line is a JSON object", where=str(path), expected='{"column": value}')
    return list(names)


def json_tables(piece: Piece, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
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
                bad.append(_Bad(number, row, found))
        texts = {
            name: pa.array([_text(row.get(name)) for row in good], pa.string()) for name in names
        }
        yield _numbered(pa.table(texts), numbers)
        if bad:
            yield _errors(names, bad)


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


def parquet_names(path: UPath, data: Data) -> list[str]:
    with _parquet(path) as file:
        return list(file.schema_arrow.names)


def parquet_tables(piece: Piece, data: Data, names: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of Parquet, numbered from 1; all types become texts, which for floats are exact."""
    last = 0
    with _parquet(piece.path) as file:
        sources.checked_names(file.schema_arrow.names, names, str(piece.path))
        for batch in file.iter_batches(columns=list(names)):
            texts = [_texts(batch[name], name, piece.path) for name in names]
            numbers = np.arange(last + 1, last + 1 + len(batch))
            last += len(batch)
            yield _numbered(pa.table(texts, names=list(names)), numbers)


@contextmanager
def _parquet(path: UPath) -> Iterator[pq.ParquetFile]:
    with path.open("rb") as file:
        try:
            yield pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise DataError(f"not a Parquet file: {error}", where=str(path)) from None


def _texts(values: pa.Array, name: str, path: UPath) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    try:
        return pc.cast(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(
            f"column `{name}` holds {values.type}",
            where=str(path),
            expected="numbers, texts, booleans or times",
        ) from None


READERS: dict[Format, Reader] = {
    "csv": Reader(delimited_names, delimited_tables),
    "tsv": Reader(delimited_names, delimited_tables),
    "jsonl": Reader(json_names, json_tables),
    "parquet": Reader(parquet_names, parquet_tables),
}
