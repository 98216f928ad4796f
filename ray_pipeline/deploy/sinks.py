"""One output file, written a table at a time, there whole or not at all."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from upath import UPath

from ray_pipeline.errors import UsageError


class Sink(Protocol):
    """What pyarrow's writers have in common."""

    def write_table(self, table: pa.Table) -> None: ...
    def close(self) -> None: ...


class _Csv:
    """CSV with a header; nested values as JSON, bytes in base64."""

    def __init__(self, file: Any, schema: pa.Schema) -> None:
        self._writer = pacsv.CSVWriter(file, _flat(schema.empty_table()).schema)

    def write_table(self, table: pa.Table) -> None:
        self._writer.write_table(_flat(table))

    def close(self) -> None:
        self._writer.close()


class _JsonLines:
    """One JSON object a row."""

    def __init__(self, file: Any, _schema: pa.Schema) -> None:
        self._file = file

    def write_table(self, table: pa.Table) -> None:
        self._file.writelines(msgspec.json.encode(row) + b"\n" for row in table.to_pylist())

    def close(self) -> None:
        self._file.flush()


SINKS: dict[str, Callable[[Any, pa.Schema], Sink]] = {
    ".parquet": pq.ParquetWriter,
    ".csv": _Csv,
    ".jsonl": _JsonLines,
}


def check(target: UPath) -> None:
    """Raises UsageError if the extension of `target` is none of ours."""
    if target.suffix not in SINKS:
        raise UsageError(
            f"cannot write `{target.suffix}` files" if target.suffix else "has no extension",
            where=str(target),
            expected=", ".join(SINKS),
        )


@contextmanager
def whole(target: UPath) -> Iterator[Callable[[pa.Table], int]]:
    """A function that writes tables of one schema to `target` and returns their rows.

    The file gets its name at the end; an error before that leaves nothing, and what was there
    before as it was. If no table was written, there is no file, nor one of an earlier time.
    """
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("wb") as file:
            sinks: list[Sink] = []

            def write(table: pa.Table) -> int:
                if not sinks:
                    sinks.append(SINKS[target.suffix](file, table.schema))
                sinks[0].write_table(table)
                return len(table)

            try:
                yield write
            finally:
                for sink in sinks:
                    sink.close()
        if sinks:
            part.fs.mv(part.path, target.path)
        elif target.exists():
            target.unlink()
    finally:
        if part.exists():
            part.unlink()


def _flat(table: pa.Table) -> pa.Table:
    """`table` with its nested columns as JSON texts, and bytes in base64 as JSON has them."""
    for index, field in enumerate(table.schema):
        if pa.types.is_binary(field.type):
            encoded = [value and b64encode(value).decode() for value in table[index].to_pylist()]
            table = table.set_column(index, field.name, pa.array(encoded, pa.string()))
        elif pa.types.is_nested(field.type):
            texts = [
                None if value is None else msgspec.json.encode(value).decode()
                for value in table[index].to_pylist()
            ]
            table = table.set_column(index, field.name, pa.array(texts, pa.string()))
    return table
