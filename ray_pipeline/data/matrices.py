"""Prepared columns as arrays: what a network reads of N rows, by the names of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Matrices = Mapping[str, NDArray[Any]]

INPUTS = ("numbers", "categories", "tokens", "image")
"""What a network may read. Rows of a table have both of the first two, be they of no width."""

PADDING = -1
"""What stands after a text's last token."""


def matrices(table: pa.Table) -> dict[str, NDArray[Any]]:
    """A prepared table's columns: `numbers` [N, F] float32, `categories` [N, C] int32, `tokens`
    [N, T] int32, padded to the longest, `image` [N, H, W, C] uint8, `label` [N] and `weight` [N].

    Those that the table lacks are left out; but where it has neither tokens nor an image, or has
    one of numbers and categories, an absent one of these is a matrix of no width.
    """
    names = set(table.column_names)
    found: dict[str, NDArray[Any]] = {}
    if names & {"numbers", "categories"} or not names & {"tokens", "image"}:
        found["numbers"] = _fixed(table, "numbers", np.float32)
        found["categories"] = _fixed(table, "categories", np.int32)
    if "tokens" in names:
        found["tokens"] = padded(table["tokens"].combine_chunks())
    if "image" in names:
        found["image"] = table["image"].combine_chunks().to_numpy_ndarray()
    return found | {n: table[n].to_numpy() for n in ("label", "weight") if n in names}


def padded(lists: pa.ListArray) -> NDArray[np.int32]:
    """Lists of integers as one matrix [N, longest], filled up with PADDING."""
    lengths = lists.value_lengths().to_numpy()
    matrix = np.full((len(lists), lengths.max(initial=0)), PADDING, np.int32)
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = lists.flatten().to_numpy()
    return matrix


def pictures(pixels: NDArray[np.uint8]) -> pa.Array:
    """Images [N, H, W, C] as the column `image`, which knows their shape."""
    kind = pa.fixed_shape_tensor(pa.uint8(), pixels.shape[1:])
    size = int(np.prod(pixels.shape[1:]))
    flat = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), size)
    return pa.ExtensionArray.from_storage(kind, flat)


def _fixed(table: pa.Table, name: str, dtype: type[np.generic]) -> NDArray[Any]:
    if name not in table.column_names or not table[name].type.list_size:
        return np.empty((len(table), 0), dtype)
    return np.asarray(table[name].combine_chunks().flatten()).reshape(len(table), -1)
