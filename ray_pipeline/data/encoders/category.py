"""Categories: an index into the vocabulary or of a hash, or 0 and 1 for each value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from onnx import TensorProto

from ray_pipeline.data import murmur
from ray_pipeline.data.encoders.build import ML, RUNTIME, Build
from ray_pipeline.data.statistics import FIRST_VALUE, MISSING, UNKNOWN, CategoryStatistics
from ray_pipeline.data.summary import Counts
from ray_pipeline.job import Features

Codes = NDArray[np.int32]


def fitted(name: str, counts: Counts, features: Features) -> CategoryStatistics:
    """The statistics of a column, but for those of `encode: target`."""
    settings = features.of(name)
    often = [pair for pair in counts.ranked() if pair[1] >= features.min_count]
    kept = often if settings.encode == "target" else often[: features.max_categories]
    return CategoryStatistics(
        name=name,
        missing=counts.missing,
        unknown=counts.values.total() - sum(count for _, count in kept),
        values=tuple(value for value, _ in kept),
        counts=tuple(count for _, count in kept),
        encode=settings.encode,
        buckets=settings.buckets if settings.encode == "hash" else 0,
    )


def coding(
    column: CategoryStatistics, missing: tuple[str, ...]
) -> Callable[[pa.ChunkedArray], Codes]:
    """A function from texts [N] to their indices."""
    if column.encode == "hash":
        return lambda texts: _buckets(texts, column.buckets, missing)
    nothing = sorted({"", *missing})
    # MISSING for those texts, UNKNOWN for what the lookup does not find.
    known = pa.array([*nothing, *column.values], pa.string())
    codes = np.array(
        [MISSING] * len(nothing) + list(range(FIRST_VALUE, FIRST_VALUE + len(column.values))),
        np.int32,
    )

    def coded(texts: pa.ChunkedArray) -> Codes:
        if pa.types.is_dictionary(texts.type):
            whole = texts.combine_chunks()
            each = np.append(coded(pa.chunked_array([whole.dictionary])), np.int32(MISSING))
            by_row: Codes = each[pc.fill_null(whole.indices, len(each) - 1).to_numpy()]
            return by_row
        places = pc.fill_null(pc.index_in(texts, known), len(known)).to_numpy()
        found = np.append(codes, np.int32(UNKNOWN))[places]
        return np.where(pc.is_null(texts).to_numpy(zero_copy_only=False), np.int32(MISSING), found)

    return coded


def _buckets(texts: pa.ChunkedArray, buckets: int, missing: tuple[str, ...]) -> Codes:
    """Each different text is hashed once."""
    encoded = pc.fill_null(texts, "").combine_chunks().dictionary_encode()
    codes = (murmur.hashes(encoded.dictionary) % np.uint32(buckets)).astype(np.int32) + FIRST_VALUE
    nothing = pc.is_in(encoded.dictionary, pa.array(sorted({"", *missing}), pa.string()))
    codes[nothing.to_numpy(zero_copy_only=False)] = MISSING
    found: Codes = codes[encoded.indices.to_numpy()]
    return found


def onehot(codes: Codes, size: int) -> NDArray[np.float32]:
    """[N, size], 1 at each row's index."""
    found: NDArray[np.float32] = (codes[:, None] == np.arange(size)).astype(np.float32)
    return found


def coded_node(build: Build, column: CategoryStatistics, missing: tuple[str, ...]) -> str:
    """The index [N] of each text, int64."""
    nothing = sorted({"", *missing})
    if column.encode == "hash":
        return _bucket_node(build, column, nothing)
    codes = range(FIRST_VALUE, FIRST_VALUE + len(column.values))
    return build.node(
        "LabelEncoder",
        column.name,
        domain=ML,
        keys_strings=[*nothing, *column.values],
        values_int64s=[*[MISSING] * len(nothing), *codes],
        default_int64=UNKNOWN,
    )


def _bucket_node(build: Build, column: CategoryStatistics, nothing: list[str]) -> str:
    hashed = build.node("MurmurHash3", column.name, domain=RUNTIME, positive=1, seed=0)
    whole = build.cast(hashed, TensorProto.INT64)
    bucket = build.node("Mod", whole, build.constant(column.buckets, np.int64))
    code = build.node("Add", bucket, build.constant(FIRST_VALUE, np.int64))
    attributes: dict[str, Any] = {
        "keys_strings": nothing,
        "values_int64s": [MISSING] * len(nothing),
        "default_int64": 1,
    }
    present = build.node("LabelEncoder", column.name, domain=ML, **attributes)
    is_there = build.cast(present, TensorProto.BOOL)
    return build.node("Where", is_there, code, build.constant(MISSING, np.int64))


def onehot_node(build: Build, column: CategoryStatistics, missing: tuple[str, ...]) -> str:
    """[N, size] float, 1 at each row's index."""
    codes = coded_node(build, column, missing)
    depth, values = build.constant(column.size, np.int64), build.constant([0, 1], np.float32)
    return build.node("OneHot", codes, depth, values, axis=1)
