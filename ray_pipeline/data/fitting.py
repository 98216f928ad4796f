"""The training rows' statistics: each task's mergeable part, and what they add up to."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data import parts, quantiles, summary
from ray_pipeline.data.hashing import row_hashes, shares
from ray_pipeline.data.statistics import (
    CategoryStatistics,
    LabelStatistics,
    NumberStatistics,
    Statistics,
)
from ray_pipeline.data.summary import Counts, Moments, Summary
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data, Features
from ray_pipeline.schema import Column, Schema

SAMPLE = 200_000
"""Quantiles are exact up to this many training rows; beyond, those of about as many sampled."""
_SEED = 2


class Part(NamedTuple):
    """One file's rows: summaries by column, and sampled numbers [n, S], a row per number column."""

    rows: int
    summaries: dict[str, Summary]
    sample: NDArray[np.float64]


def fitted(files: list[UPath], data: Data, schema: Schema) -> Statistics:
    """The statistics of the rows in parquet `files`.

    Counts, means, deviations and ranges are exact at any size. Medians and knots are exact up to
    SAMPLE rows, else of a sample that the rows' hashes choose: the same in any order of work.

    Raises:
        DataError: there is no feature, or the label has one class here.
    """
    rows = sum(_row_count(path) for path in files)
    work = partial(_part, schema=schema, share=min(1.0, SAMPLE / max(rows, 1)))
    found = parts.results(files, work)
    summaries = summary.merged(part.summaries for part in found)
    sample = np.concatenate([part.sample for part in found], axis=1)
    numbers, categories = _numbers(schema), _categories(schema)
    if not numbers and not categories:
        raise DataError("no column is a feature", where="data.columns")
    return Statistics(
        method=data.features.numbers,
        rows=rows,
        numbers=tuple(
            _number(column, cast(Moments, summaries[column.name]), values, data.features)
            for column, values in zip(numbers, sample, strict=True)
        ),
        categories=tuple(
            _category(column, cast(Counts, summaries[column.name]), data.features)
            for column in categories
        ),
        label=_label(schema.label, summaries[schema.label.name]),
        missing=schema.missing,
    )


def _numbers(schema: Schema) -> list[Column]:
    return [column for column in schema.features if column.kind != "category"]


def _categories(schema: Schema) -> list[Column]:
    return [column for column in schema.features if column.kind == "category"]


def _row_count(path: UPath) -> int:
    with path.open("rb") as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def _part(path: UPath, schema: Schema, share: float) -> Part:
    names = [column.name for column in (*schema.features, schema.label)]
    table = parts.read(path, names)
    numbers = [summary.as_doubles(table[column.name]) for column in _numbers(schema)]
    summaries: dict[str, Summary] = {
        column.name: Moments.of(values)
        for column, values in zip(_numbers(schema), numbers, strict=True)
    }
    for column in (*_categories(schema), schema.label):
        summaries[column.name] = summary.summarised(table[column.name], column)
    sample = np.array(numbers).reshape(len(numbers), len(table))
    return Part(len(table), summaries, sample[:, _sampled(table, schema, share)])


def _sampled(table: pa.Table, schema: Schema, share: float) -> NDArray[np.bool_]:
    if share == 1:
        return np.ones(len(table), bool)
    names = [column.name for column in schema.features]
    return shares(row_hashes(table, names, seed=_SEED)) < share


def _number(
    column: Column, moments: Moments, sample: NDArray[np.float64], features: Features
) -> NumberStatistics:
    values = sample[np.isfinite(sample)]
    knots, targets = quantiles.fitted_knots(values)
    if features.numbers == "standard":
        knots, targets = np.empty(0), np.empty(0)
    return NumberStatistics(
        name=column.name,
        missing=moments.missing,
        mean=moments.mean,
        deviation=moments.deviation,
        median=float(np.median(values)) if len(values) else 0.0,
        minimum=moments.minimum if moments.count else 0.0,
        maximum=moments.maximum if moments.count else 0.0,
        knots=tuple(knots.tolist()),
        targets=tuple(targets.tolist()),
    )


def _category(column: Column, counts: Counts, features: Features) -> CategoryStatistics:
    often = [pair for pair in counts.ranked() if pair[1] >= features.min_count]
    kept = often[: features.max_categories]
    return CategoryStatistics(
        name=column.name,
        missing=counts.missing,
        unknown=counts.values.total() - sum(count for _, count in kept),
        values=tuple(value for value, _ in kept),
        counts=tuple(count for _, count in kept),
    )


def _label(column: Column, found: Summary) -> LabelStatistics:
    if isinstance(found, Moments):
        if found.minimum == found.maximum:
            raise _one_class(column, found.minimum)
        return LabelStatistics(
            name=column.name, classes=None, mean=found.mean, deviation=found.deviation
        )
    classes = sorted(found.values.items())
    if len(classes) < 2:
        raise _one_class(column, *found.values)
    return LabelStatistics(
        name=column.name,
        classes=tuple(name for name, _ in classes),
        counts=tuple(count for _, count in classes),
    )


def _one_class(column: Column, value: object = "none") -> DataError:
    return DataError(
        f"every training row has the label `{value}`",
        where=f"column {column.name}",
        expected="two classes or more, or different values",
        hint="lower `data.split.validation`, set another `data.split.seed`, or give more rows",
    )
