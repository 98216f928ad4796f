"""Each row's side, decided by a hash of its values: it never changes, and equal rows never part."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data import parts
from ray_pipeline.data.hashing import row_hashes, shares
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data, Split
from ray_pipeline.schema import Schema

SIDES = ("train", "validation", "test")


def write(cleaned: UPath, data: Data, schema: Schema, out: UPath) -> dict[str, Any]:
    """Write `train/`, `validation/` and `test/`, parquet with the schema's columns.

    `cleaned` is what `clean.write` wrote. A separate test file is the test side as it is. One
    execution, one task per file.

    Raises:
        DataError: a side would be empty.
    """
    rows = [(path, False) for path in parts.existing_files(cleaned / "rows")]
    held_out = [(path, True) for path in parts.files(cleaned / "test")]
    by = deciding(data, schema)
    shares_of = data.split.model_copy(update={"test": 0.0}) if held_out else data.split
    work = partial(_parted, by=by, split=shares_of, out=out)
    counts: Counter[str] = sum(parts.results(rows + held_out, work), Counter())
    _check_sides(counts, tested=bool(held_out) or data.split.test > 0)
    total = counts.total()
    return {
        "rows_in": total,
        "rows_out": total,
        "rows_quarantined": 0,
        "rows": {side: counts[side] for side in SIDES},
    }


def deciding(data: Data, schema: Schema) -> tuple[str, ...]:
    """The columns whose values decide a row's side: rows that are equal in them never part."""
    return data.split.by or tuple(column.name for column in schema.features or (schema.label,))


def _parted(
    part: tuple[UPath, bool], by: tuple[str, ...], split: Split, out: UPath
) -> Counter[str]:
    """Write one file's rows to their sides; how many went where."""
    path, held_out = part
    table = parts.read(path)
    if held_out:
        sides = {"test": table}
    else:
        index = side_of(table, by, split)
        sides = {side: table.filter(pa.array(index == i)) for i, side in enumerate(SIDES)}
    for side, rows in sides.items():
        if len(rows):
            parts.written(rows, out / side / path.name)
    return Counter({side: len(rows) for side, rows in sides.items()})


def side_of(table: pa.Table, by: tuple[str, ...], split: Split) -> NDArray[np.int64]:
    """The index in SIDES [N] of each row's side, by the hash of its values in the columns `by`.

    The shares are those of different values, so that rows which share theirs move together.
    """
    place = shares(row_hashes(table, by, seed=split.seed))
    bounds = [split.test, split.test + split.validation]
    order = np.array([SIDES.index(side) for side in ("test", "validation", "train")])
    sides: NDArray[np.int64] = order[np.searchsorted(bounds, place, side="right")]
    return sides


def _check_sides(counts: Counter[str], tested: bool) -> None:
    for side in SIDES:
        if not counts[side] and (side != "test" or tested):
            raise DataError(
                f"the {side} side has no rows",
                where="data.split",
                expected="rows on every side",
                hint="change the shares or `data.split.seed`, group by a column with more "
                "different values under `data.split.by`, or give more rows",
            )
