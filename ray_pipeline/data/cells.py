"""Rows counted by group and class: what weights and the bias report start from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from ray_pipeline.data import parts
from ray_pipeline.schema import Schema

NO_VALUE = "(missing)"
"""How a group is called whose value is missing."""
SUMS = ("rows", "absent", "sum", "squares")


def counted(files: Sequence[UPath], groups: Sequence[str], schema: Schema) -> pa.Table:
    """The cells of the rows in parquet `files`; one execution, a task per file.

    A cell is a combination of values. Columns: the groups' values as texts, named `0`, `1`, … in
    the order of `groups`; `class`, where the label has classes; `rows`; `absent`, the missing
    values among the rows' features; and where the label is a number `sum` and `squares` of it.
    """
    return added(parts.results(files, partial(_counted, groups=tuple(groups), schema=schema)))


def added(tables: Iterable[pa.Table], keys: Sequence[str] | None = None) -> pa.Table:
    """Cells of the same columns added up, by all their keys or by `keys` alone, in key order."""
    whole = pa.concat_tables(tables)
    sums = [name for name in SUMS if name in whole.column_names]
    by = [name for name in whole.column_names if name not in sums] if keys is None else list(keys)
    found = whole.group_by(by).aggregate([(name, "sum") for name in sums])
    found = found.rename_columns([name.removesuffix("_sum") for name in found.column_names])
    return found.sort_by([(name, "ascending") for name in by]) if by else found


def by(found: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Cells as if counted by the group columns `keys` alone, which are then named `0`, `1`, …"""
    summed = added([found], [*keys, *(["class"] if "class" in found.column_names else [])])
    names = [str(index) for index in range(len(keys))]
    return summed.rename_columns([*names, *summed.column_names[len(keys) :]])


def texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values of a group column as texts, those that are missing as NO_VALUE."""
    return pc.fill_null(pc.cast(values, pa.string()), NO_VALUE)


def _counted(path: UPath, groups: tuple[str, ...], schema: Schema) -> pa.Table:
    return cells_of(parts.read(path), groups, schema)


def cells_of(table: pa.Table, groups: Sequence[str], schema: Schema) -> pa.Table:
    """`counted` for rows in memory."""
    absent = np.zeros(len(table), np.int64)
    for column in schema.features:
        missing = pc.is_null(table[column.name], nan_is_null=True)
        absent += missing.to_numpy(zero_copy_only=False)
    columns = {str(index): texts(table[name]) for index, name in enumerate(groups)}
    label = table[schema.label.name]
    if schema.label.kind in {"integer", "number"}:
        values = pc.cast(label, pa.float64(), safe=False)
        columns |= {"sum": values, "squares": pc.multiply(values, values)}
    else:
        columns["class"] = pc.cast(label, pa.string())
    columns |= {"rows": pa.repeat(1, len(table)), "absent": pa.array(absent)}
    return added([pa.table(columns)])
