"""Prepared columns as arrays: what a network reads of N rows, by the names of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Matrices = Mapping[str, NDArray[Any]]

INPUTS = (
    *("numbers", "categories", "tokens", "targets", "image"),
    *("question", "passage", "negative"),
)
"""What a network may read. Rows of a table have both of the first two, be they of no width."""

LISTS = ("tokens", "targets", "question", "passage", "negative")
"""Those that are texts, of which each row has as many tokens as it has."""

_TYPES: dict[str, type[np.generic]] = {"numbers": np.float32, "categories": np.int32}

PADDING = -1
"""What stands after a text's last token."""


def matrices(table: pa.Table) -> dict[str, NDArray[Any]]:
    """A prepared table's columns: `numbers` [N, F] float32, `categories` [N, C] int32, `tokens`
    and the other LISTS [N, T] int32, each padded to its longest, `image` [N, H, W, C] uint8,
    `label` [N], or [N, K] uint8 where a row may have several, and `weight` [N].

    Those that the table lacks are left out; but where it has neither tokens nor an image, or has
    one of numbers and categories, an absent one of these is a matrix of no width.
    """
    names = set(table.column_names)
    found: dict[str, NDArray[Any]] = {}
    if names & {"numbers", "categories"} or not names & {"tokens", "image", "question"}:
        found |= {name: _fixed(table, name, kind) for name, kind in _TYPES.items()}
    for name in LISTS:
        if name in names:
            found[name] = padded(table[name].combine_chunks())
    if "image" in names:
        found["image"] = table["image"].combine_chunks().to_numpy_ndarray()
    if "label" in names:
        found["label"] = labels(table)
    return found | ({"weight": table["weight"].to_numpy()} if "weight" in names else {})


def labels(table: pa.Table) -> NDArray[Any]:
    """A prepared table's `label`: class indices or values [N], or 0 and 1 by class [N, K] uint8."""
    kind = table["label"].type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_fixed_size_binary(kind):
        return _fixed(table, "label", np.uint8)
    found: NDArray[Any] = table["label"].to_numpy()
    return found


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


def packed(table: pa.Table) -> pa.Table:
    """`table` as it is stored: a row's numbers, its categories, and its labels if they are
    several, are one piece of bytes each.

    Parquet would count the items of a list: twice the time to write, four times to read. A matrix
    of no width is left out.
    """
    for name in {*_TYPES, "label"} & {*table.column_names}:
        place, lists = table.column_names.index(name), table[name].combine_chunks()
        if not pa.types.is_fixed_size_list(lists.type):
            continue
        table = table.remove_column(place)
        if lists.type.list_size:
            table = table.add_column(place, name, _bytes(lists))
    return table


def row_bytes(schema: pa.Schema) -> int:
    """What a row takes in memory, but for its tokens."""
    return sum(_width(field.type) for field in schema if not pa.types.is_list(field.type))


def _width(kind: pa.DataType) -> int:
    if isinstance(kind, pa.FixedShapeTensorType):
        return _width(kind.storage_type)
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size) * _width(kind.value_type)
    return int(kind.bit_width) // 8


def _bytes(lists: pa.FixedSizeListArray) -> pa.Array:
    size, start = lists.type.list_size, lists.offset * lists.type.list_size
    values = lists.values.slice(start, len(lists) * size).to_numpy()  # `flatten` would copy
    width = size * values.itemsize
    return pa.Array.from_buffers(pa.binary(width), len(lists), [None, pa.py_buffer(values)])


def _fixed(table: pa.Table, name: str, dtype: type[np.generic]) -> NDArray[Any]:
    if name not in table.column_names:
        return np.empty((len(table), 0), dtype)
    column = table[name].combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        values = column.flatten().to_numpy()
        return np.asarray(values).reshape(len(table), column.type.list_size)
    start, width = column.offset * column.type.byte_width, column.type.byte_width
    held = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width, start)
    return held.view(dtype).reshape(len(table), -1)
