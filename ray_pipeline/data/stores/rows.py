"""What the stores share: the address, a check of keys, rows as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.data.credentials import login
from ray_pipeline.errors import DataError
from ray_pipeline.job import Source, Store


def address(settings: Store) -> str:
    """A server's URL with user and password from the environment: to connect by, not to show.

    Raises:
        DataError: the URL names a variable that is not set.
    """
    return login(Source(url=settings.url, table=settings.table)).url


def unique(keys: pa.ChunkedArray, settings: Store) -> None:
    """Raises DataError where a key is missing or stands twice."""
    where = f"stores, {settings.kind} {settings.table}, column {settings.key}"
    if keys.null_count:
        raise DataError(f"{keys.null_count:,} rows have no key", where=where)
    counted = pc.value_counts(keys)
    twice = pc.greater(counted.field("counts"), 1)
    if pc.any(twice).as_py():
        raise DataError(
            f"{pc.sum(twice).as_py():,} keys stand twice",
            where=where,
            expected="a column that tells rows apart",
            hint="choose another `key`, or clean with `expect: [{unique: …}]`",
        )


def table(found: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows that may lack columns, as a table with all of them."""
    names = dict.fromkeys(name for row in found for name in row)
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in found])
