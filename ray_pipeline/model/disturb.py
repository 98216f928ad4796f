"""Rows as a careless world would hand them in: noisy numbers, wrong categories, misspelt texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.model.sample import replaced
from ray_pipeline.schema import Kind, Schema

NUMBERS: tuple[Kind, ...] = ("integer", "number")
CATEGORIES: tuple[Kind, ...] = ("category", "boolean")
TEXTS: tuple[Kind, ...] = ("text",)

Random = np.random.Generator


def named(schema: Schema, kinds: tuple[Kind, ...]) -> tuple[str, ...]:
    """The features of these kinds."""
    return tuple(column.name for column in schema.features if column.kind in kinds)


def noisy(rows: pa.Table, schema: Schema, size: float, rng: Random) -> pa.Table:
    """Each number with normal noise of `size` times its column's deviation; integers stay such."""
    for name in named(schema, NUMBERS):
        values = rows[name]
        plain = pc.fill_null(pc.cast(values, pa.float64()), np.nan).to_numpy()
        moved = plain + size * np.nanstd(plain) * rng.normal(size=len(plain))
        if pa.types.is_integer(values.type):
            moved = np.rint(moved)
        found = pa.array(moved, from_pandas=True)  # NaN is no value again
        rows = replaced(rows, name, pc.cast(found, values.type, safe=False))
    return rows


def swapped(rows: pa.Table, schema: Schema, size: float, rng: Random) -> pa.Table:
    """A share `size` of each column's categories replaced by those of other, random rows."""
    for name in named(schema, CATEGORIES):
        others = rows[name].take(pa.array(rng.permutation(len(rows))))
        struck = pa.array(rng.random(len(rows)) < size)
        rows = replaced(rows, name, pc.if_else(struck, others, rows[name]))
    return rows


def misspelt(rows: pa.Table, schema: Schema, size: float, rng: Random) -> pa.Table:
    """A share `size` of the words of texts with two letters swapped, or one lost or doubled."""
    for name in named(schema, TEXTS):
        texts = [_text(text, size, rng) for text in rows[name].to_pylist()]
        rows = replaced(rows, name, pa.array(texts, rows.schema.field(name).type))
    return rows


def cased(rows: pa.Table, schema: Schema, upper: bool) -> pa.Table:
    """All texts in capitals, or without any."""
    change = pc.utf8_upper if upper else pc.utf8_lower
    for name in named(schema, TEXTS):
        rows = replaced(rows, name, change(rows[name]))
    return rows


def _text(text: str | None, share: float, rng: Random) -> str | None:
    return text and " ".join(_misspelt(word, share, rng) for word in text.split(" "))


def _misspelt(word: str, share: float, rng: Random) -> str:
    if len(word) < 2 or rng.random() >= share:
        return word
    at, way = int(rng.integers(len(word) - 1)), rng.integers(3)
    first, second = word[at], word[at + 1]
    middle = (second + first, second, first + first + second)[way]
    return word[:at] + middle + word[at + 2 :]
