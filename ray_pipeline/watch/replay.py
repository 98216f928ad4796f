"""Logged rows as a model reads them, so that it can be asked about them again."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.bundle import Manifest
from ray_pipeline.deploy import pictures
from ray_pipeline.deploy.halves import Columns
from ray_pipeline.schema import TEXTS, Column


def inputs(table: pa.Table) -> pa.Table:
    """The rows' columns, which the log has as one; none where it kept none of them."""
    if "input" not in table.column_names:
        return pa.table({})
    whole = table["input"].combine_chunks()
    fields = [whole.type.field(place).name for place in range(whole.type.num_fields)]
    return pa.table(dict(zip(fields, whole.flatten(), strict=True)))


def columns(table: pa.Table, manifest: Manifest, masked: Collection[str]) -> Columns | None:
    """The columns that a model reads, clean, of logged rows; None where the log has not kept one of
    them whole: those that are `masked`, texts of which it has the lengths, images."""
    rows, found = inputs(table), Columns()
    for column in manifest.schema.features:
        if column.name in masked or column.name not in rows.column_names:
            return None
        values = rows[column.name].combine_chunks()
        if values.type != _kept(column, manifest):
            return None
        found[column.name] = _array(values, column, manifest)
    return found


def _kept(column: Column, manifest: Manifest) -> pa.DataType:
    """As what the log has a column that it keeps whole."""
    if column.kind == "image":
        return pa.binary(math.prod(_shape(manifest)))
    return pa.string() if column.kind in TEXTS else pa.float64()


def _shape(manifest: Manifest) -> tuple[int, int, int]:
    image = pictures.image_of(manifest)
    assert image is not None, "a model reads each image column that its schema has"
    return image.shape


def _array(values: pa.Array, column: Column, manifest: Manifest) -> NDArray[Any]:
    if column.kind in TEXTS:
        texts: NDArray[Any] = pc.fill_null(values, "").to_numpy(zero_copy_only=False)
        return texts
    if column.kind == "image":
        pixels = np.frombuffer(b"".join(values.to_pylist()), np.uint8)
        return pixels.reshape(-1, *_shape(manifest))
    numbers: NDArray[np.float64] = pc.fill_null(values, np.nan).to_numpy(zero_copy_only=False)
    return numbers
