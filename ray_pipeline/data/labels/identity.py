"""Which row it is: a digest of its values, by which tasks go out to annotators and come back.

The columns that it is of are sent along, so that a column added to the job later does not part
rows from their annotations. Rows with equal values are one item: they are asked about once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_pipeline.data.hashing import digests
from ray_pipeline.schema import Schema

DIGITS = 32
"""Hexadecimal digits of an item's id."""


def columns(schema: Schema) -> list[str]:
    """The columns that new ids are of: the features, whatever their order."""
    return sorted(column.name for column in schema.features)


def ids(rows: pa.Table, columns: Sequence[str]) -> NDArray[np.object_]:
    """The id [N] of each row: 128 bits of the values in `columns`, in that order."""
    high, low = digests(rows, columns)
    pairs = zip(high.tolist(), low.tolist(), strict=True)
    return np.array([f"{first:016x}{second:016x}" for first, second in pairs], dtype=object)


def is_id(text: Any) -> TypeGuard[str]:
    """Whether a value has the form of an id."""
    return isinstance(text, str) and len(text) == DIGITS and not set(text) - set("0123456789abcdef")


def met(rows: pa.Table, columns: Sequence[str], items: Mapping[str, Any]) -> dict[int, str]:
    """The rows that are among `items`: their places, and their ids. Few rows are looked at twice:
    half of an id tells nearly all apart."""
    high, low = digests(rows, columns)
    wanted = np.array([int(item[:16], 16) for item in items], np.uint64)
    places = np.flatnonzero(np.isin(high, wanted)).tolist()
    found = {place: f"{int(high[place]):016x}{int(low[place]):016x}" for place in places}
    return {place: item for place, item in found.items() if item in items}
