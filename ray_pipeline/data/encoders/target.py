"""Target encoding: a category's value as the label's mean among the rows that have it.

Smoothed as in Micci-Barreca (2001), "A preprocessing scheme for high-cardinality categorical
attributes in classification and prediction problems", SIGKDD Explorations 3(1): the mean of n rows
and the overall mean are mixed as n to m, `smoothing`. A training row must not read its own label
in the encoding: the rows are in FOLDS folds by their hash, and the encoding of a row is learned
from the other folds. All other rows read the encoding that all training rows teach.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.data.encoders import category
from ray_pipeline.data.encoders.build import Build
from ray_pipeline.data.hashing import row_hashes
from ray_pipeline.data.statistics import (
    UNKNOWN,
    CategoryStatistics,
    LabelStatistics,
)
from ray_pipeline.schema import Column, Schema

FOLDS = 5
_SEED = 4

Encodings = NDArray[np.float64]


class Learned(NamedTuple):
    """A column with its `encodings`, and those [FOLDS, size, K] for the rows of each fold."""

    column: CategoryStatistics
    folds: Encodings


def folds_of(rows: pa.Table, schema: Schema) -> NDArray[np.int64]:
    """The fold [N] of each row, by the hash of its features: rows that are equal share it."""
    names = [column.name for column in schema.features]
    return (row_hashes(rows, names, seed=_SEED) % np.uint64(FOLDS)).astype(np.int64)


def counted(
    values: pa.ChunkedArray, labels: pa.ChunkedArray, folds: NDArray[np.int64], label: Column
) -> pa.Table:
    """How often each `value` has each `label` in each `fold`: a mergeable part of what is learned.

    `count` are rows; of a regression `label` is null, and `sum` that of the labels.
    """
    rows = np.ones(len(folds))
    table = pa.table({"value": values, "fold": folds, "label": labels, "count": rows})
    if label.kind in ("integer", "number"):
        summed = table.group_by(["value", "fold"]).aggregate([("label", "sum"), ("count", "sum")])
        sums = pc.cast(summed["label_sum"], pa.float64())
        names = pa.nulls(len(summed), pa.string())
    else:
        texts = pc.cast(table["label"], pa.string())
        table = table.set_column(2, "label", texts)
        summed = table.group_by(["value", "fold", "label"]).aggregate([("count", "sum")])
        names, sums = summed["label"], pa.nulls(len(summed), pa.float64())
    columns = {"value": summed["value"], "fold": summed["fold"], "label": names}
    return pa.table(columns | {"count": summed["count_sum"], "sum": sums})


def fitted(
    column: CategoryStatistics, found: pa.Table, label: LabelStatistics, smoothing: float
) -> Learned:
    """What all parts `found`, one after the other, teach about `column`."""
    counts, sums = _totals(column, found, label)
    whole = _mixed(counts.sum(0), sums.sum(0), smoothing)
    folds = np.stack(
        [
            _mixed(counts.sum(0) - counts[fold], sums.sum(0) - sums[fold], smoothing)
            for fold in range(FOLDS)
        ]
    )
    weights = counts.sum(0)[:, None] / max(counts.sum(), 1)
    center = (weights * whole).sum(0)
    spread = np.sqrt((weights * np.square(whole - center)).sum(0))
    learned = column.model_copy(
        update={
            "encodings": tuple(tuple(row) for row in whole.tolist()),
            "center": tuple(center.tolist()),
            "spread": tuple(np.where(spread > 1e-12, spread, 1.0).tolist()),
        }
    )
    return Learned(learned, folds)


def _totals(
    column: CategoryStatistics, found: pa.Table, label: LabelStatistics
) -> tuple[Encodings, Encodings]:
    """Rows [FOLDS, size] and summed labels [FOLDS, size, K] by fold and index.

    K is the number of classes, whose labels are 0 or 1; but 1 for two classes (the second) and
    for a regression.
    """
    codes = category.coding(column, ())(found["value"])
    folds, counted = found["fold"].to_numpy(), found["count"].to_numpy()
    counts = np.zeros((FOLDS, column.size))
    np.add.at(counts, (folds, codes), counted)
    if label.classes is None:
        sums = np.zeros((FOLDS, column.size, 1))
        np.add.at(sums[:, :, 0], (folds, codes), found["sum"].to_numpy())
        return counts, sums
    classes = pc.index_in(found["label"], pa.array(label.classes, pa.string())).to_numpy()
    sums = np.zeros((FOLDS, column.size, len(label.classes)))
    np.add.at(sums, (folds, codes, classes), counted)
    return counts, sums[:, :, 1:] if len(label.classes) == 2 else sums


def _mixed(counts: Encodings, sums: Encodings, smoothing: float) -> Encodings:
    """The encoding [size, K] of each index; the overall mean for what occurs too rarely."""
    overall = sums.sum(0) / max(counts.sum(), 1)
    rows = counts[:, None] + smoothing
    mixed = (sums + smoothing * overall) / np.where(rows > 0, rows, 1)
    encodings: Encodings = np.where(rows > 0, mixed, overall)
    encodings[UNKNOWN] = overall
    return encodings


def scaled(encodings: Encodings, column: CategoryStatistics) -> NDArray[np.float32]:
    """Encodings [..., K] as a model reads them."""
    scores = (encodings - np.array(column.center)) / np.array(column.spread)
    singles: NDArray[np.float32] = scores.astype(np.float32)
    return singles


def encoding(
    column: CategoryStatistics, folds: Encodings | None, missing: tuple[str, ...]
) -> Callable[[pa.ChunkedArray, NDArray[np.int64] | None], NDArray[np.float32]]:
    """A function from texts [N], and with `folds` the fold of each, to encodings [N, K]."""
    coded = category.coding(column, missing)
    whole = scaled(np.array(column.encodings), column)
    apart = None if folds is None else scaled(folds, column)

    def encoded(texts: pa.ChunkedArray, fold: NDArray[np.int64] | None) -> NDArray[np.float32]:
        codes = coded(texts)
        found: NDArray[np.float32] = whole[codes] if apart is None else apart[fold, codes]
        return found

    return encoded


def encoded_node(build: Build, column: CategoryStatistics, missing: tuple[str, ...]) -> str:
    """[N, K] float, each text's encoding."""
    table = scaled(np.array(column.encodings), column)
    codes = category.coded_node(build, column, missing)
    return build.node("Gather", build.constant(table, np.float32), codes, axis=0)
