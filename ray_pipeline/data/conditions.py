"""Conditions on columns, as the job file states them: which rows meet them."""

from __future__ import annotations

from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.errors import JobError
from ray_pipeline.job import When
from ray_pipeline.schema import Schema


def check(condition: When, schema: Schema, where: str) -> None:
    """Refuse a condition on a column that is not there, or holds not what it compares. JobError."""
    name = condition.column
    if name not in schema.names:
        raise JobError(
            f"no column is called `{name}`", where=where, expected=", ".join(schema.names)
        )
    number = schema[name].kind in {"integer", "number"}
    if not number and (condition.above is not None or condition.below is not None):
        raise JobError(f"`{name}` is no number", where=where, expected="contains, in …")
    if number and (condition.contains is not None or condition.matches is not None):
        raise JobError(f"`{name}` is a number", where=where, expected="above, below, in")


def holds(condition: When, rows: pa.Table) -> pa.ChunkedArray:
    """Whether the condition holds, for each row; a missing value meets none."""
    values = rows[condition.column]
    texts = values if pa.types.is_string(values.type) else pc.cast(values, pa.string())
    found = []
    if condition.contains is not None:
        found.append(pc.match_substring(texts, condition.contains, ignore_case=True))
    if condition.matches is not None:
        found.append(pc.match_substring_regex(texts, condition.matches))
    if condition.among is not None:
        found.append(pc.is_in(values, pa.array(list(condition.among)).cast(values.type)))
    if condition.above is not None:
        found.append(pc.greater(values, condition.above))
    if condition.below is not None:
        found.append(pc.less(values, condition.below))
    return pc.fill_null(reduce(pc.and_, found), False)
