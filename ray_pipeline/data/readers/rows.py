"""What readers yield: tables of the columns asked for, with each row's number and fault.

`_row` counts from 1, a header included, blank lines not. Where a row does not parse, the columns
are null, `_error` says why and `_raw` holds it as it stood; else both are null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa


class Bad(NamedTuple):
    """A row that does not parse: its number, why, and the row as it stood."""

    number: int
    error: str
    raw: str


def numbered(table: pa.Table, numbers: Any) -> pa.Table:
    """`table` with `_row`, and without a fault in any row."""
    nothing = pa.nulls(len(table), pa.string())
    table = table.append_column("_row", pa.array(numbers, pa.int64()))
    return table.append_column("_error", nothing).append_column("_raw", nothing)


def placed(place: str, count: int) -> pa.Array:
    """One `_source` for `count` rows, as a dictionary of one text."""
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), count), [place])


def faulty(names: Sequence[str], rows: Sequence[Bad]) -> pa.Table:
    """The table of rows that do not parse."""
    nothing = pa.nulls(len(rows), pa.string())
    return pa.table(
        dict.fromkeys(names, nothing)
        | {
            "_row": pa.array([row.number for row in rows], pa.int64()),
            "_error": pa.array([row.error for row in rows], pa.string()),
            "_raw": pa.array([row.raw for row in rows], pa.string()),
        }
    )
