"""What the training rows teach, and rows as a model reads them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data import balance, fitting, parts, quantiles
from ray_pipeline.data.balance import Weights
from ray_pipeline.data.quantiles import Doubles
from ray_pipeline.data.statistics import (
    FIRST_VALUE,
    LARGEST_SCORE,
    MISSING,
    UNKNOWN,
    CategoryStatistics,
    LabelStatistics,
    NumberStatistics,
    Statistics,
)
from ray_pipeline.data.summary import as_doubles
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data
from ray_pipeline.schema import Schema

STATISTICS = "statistics.json"
Transform = Callable[[pa.Table], pa.Table]


def write(split: UPath, data: Data, schema: Schema, out: UPath) -> dict[str, Any]:
    """Write `statistics.json`, and `train/` and `validation/` as `compiled_arrow` makes them.

    `split` is what `split.write` wrote; only its training rows are learned from. A width of 0
    leaves its column out of the files. Two executions, one task per file.

    Raises:
        DataError: there are no rows, no feature, or a class that training lacks.
    """
    statistics = fit(split / "train", data, schema)
    (out / STATISTICS).write_text(statistics.model_dump_json(indent=1))
    items = [
        (side, path)
        for side in ("train", "validation")
        for path in parts.existing_files(split / side)
    ]
    weights = None
    if data.balance is not None:
        weights = balance.fitted(split / "train", data.balance, schema)
    written = parts.results(
        items, partial(_prepared, statistics=statistics, weights=weights, out=out)
    )
    return {
        "rows_in": sum(written),
        "rows_out": sum(written),
        "rows_quarantined": 0,
        "numbers": statistics.number_width,
        "categories": dict(
            zip(
                (column.name for column in statistics.categories),
                statistics.category_sizes,
                strict=True,
            )
        ),
        "method": statistics.method,
        **({"balance": balance.described(weights)} if weights else {}),
    }


def fit(train: UPath, data: Data, schema: Schema) -> Statistics:
    """The statistics of the parquet files in `train`, in one execution. Raises DataError."""
    return fitting.fitted(parts.existing_files(train), data, schema)


def load(path: UPath) -> Statistics:
    """The statistics in the folder that `write` wrote."""
    return Statistics.model_validate_json((path / STATISTICS).read_text())


def _prepared(
    item: tuple[str, UPath], statistics: Statistics, weights: Weights | None, out: UPath
) -> int:
    """Write one file's rows as a model reads them, those of training weighed; their number."""
    side, path = item
    rows = parts.read(path)
    ready = compiled_arrow(statistics)(rows)
    empty = [name for name in ("numbers", "categories") if not ready[name].type.list_size]
    ready = ready.drop_columns(empty)
    if weights is not None and side == "train":
        ready = weights.applied(ready, rows)
    parts.written(ready, out / side / path.name)
    return len(rows)


def read_matrix(path: UPath) -> dict[str, NDArray[Any]]:
    """All rows of a side: `numbers` [N, F] float32, `categories` [N, C] int32, `label` [N].

    And `weight` [N] float32, where `data.balance` gave the training rows one.
    """
    table = pads.dataset(path.path, filesystem=path.fs, format="parquet").to_table()
    return {
        "numbers": _matrix(table, "numbers", np.float32),
        "categories": _matrix(table, "categories", np.int32),
        "label": table["label"].to_numpy(),
        **({"weight": table["weight"].to_numpy()} if "weight" in table.column_names else {}),
    }


def _matrix(table: pa.Table, name: str, dtype: type[np.generic]) -> NDArray[Any]:
    if name not in table.column_names:
        return np.empty((len(table), 0), dtype)
    values: NDArray[Any] = table[name].combine_chunks().flatten().to_numpy()
    return values.reshape(len(table), -1)


def compiled_arrow(statistics: Statistics) -> Transform:
    """A function from raw, typed rows to what a model reads.

    `numbers` FixedSizeList<float32>[number_width] and `categories` FixedSizeList<int32>[C], as
    Statistics describes them; and `label`, if the rows have it: the class index int64, or the
    value float32. All in float64 until the last step, as in `feature_graph`.

    Raises (the function): DataError for a class that training lacks, or a label without a value.
    """
    scale = [_scaling(column) for column in statistics.numbers]
    code = [_coding(column, statistics.missing) for column in statistics.categories]

    def transform(rows: pa.Table) -> pa.Table:
        columns = {
            "numbers": _lists(_numbers(rows, statistics, scale), pa.float32()),
            "categories": _lists(_codes(rows, statistics, code), pa.int32()),
        }
        if statistics.label.name in rows.column_names:
            columns["label"] = _label(rows[statistics.label.name], statistics.label)
        return pa.table(columns)

    return transform


def _numbers(
    rows: pa.Table, statistics: Statistics, scale: list[Callable[[Doubles], Doubles]]
) -> NDArray[np.float32]:
    matrix = np.empty((len(rows), statistics.number_width), np.float32)
    flag = len(statistics.numbers)
    for index, column in enumerate(statistics.numbers):
        values = as_doubles(rows[column.name])
        missing = ~np.isfinite(values)
        matrix[:, index] = scale[index](np.where(missing, column.median, values))
        if column.missing:
            matrix[:, flag] = missing
            flag += 1
    return matrix


def _scaling(column: NumberStatistics) -> Callable[[Doubles], Doubles]:
    if not column.knots:
        return partial(_standardised, column=column)
    knots, targets = np.array(column.knots), np.array(column.targets)
    rise = quantiles.slopes(knots, targets)
    return lambda values: quantiles.scored(values, knots, targets, rise)


def _standardised(values: Doubles, column: NumberStatistics) -> Doubles:
    with np.errstate(over="ignore"):
        scores: Doubles = (values - column.mean) / (column.deviation or 1.0)
    return scores.clip(-LARGEST_SCORE, LARGEST_SCORE)


def _codes(
    rows: pa.Table, statistics: Statistics, code: list[Callable[[pa.ChunkedArray], Any]]
) -> NDArray[np.int32]:
    matrix = np.empty((len(rows), len(code)), np.int32)
    for index, column in enumerate(statistics.categories):
        matrix[:, index] = code[index](rows[column.name])
    return matrix


def _coding(column: CategoryStatistics, missing: tuple[str, ...]) -> Callable[..., Any]:
    nothing = sorted({"", *missing})
    # MISSING for those texts, UNKNOWN for what the lookup does not find.
    known = pa.array([*nothing, *column.values], pa.string())
    codes = np.array(
        [MISSING] * len(nothing) + list(range(FIRST_VALUE, FIRST_VALUE + len(column.values))),
        np.int32,
    )

    def coded(texts: pa.ChunkedArray) -> Any:
        places = pc.fill_null(pc.index_in(texts, known), len(known)).to_numpy()
        found = np.append(codes, np.int32(UNKNOWN))[places]
        return np.where(pc.is_null(texts).to_numpy(), MISSING, found)

    return coded


def _label(values: pa.ChunkedArray, label: LabelStatistics) -> pa.ChunkedArray:
    if label.classes is None:
        return pc.cast(values, pa.float32(), safe=False)
    texts = pc.cast(values, pa.string())
    index = pc.index_in(texts, pa.array(label.classes))
    if index.null_count:
        strange = texts.filter(pc.is_null(index))[0].as_py()
        raise DataError(
            f"the label `{strange}` does not occur among the training rows",
            where=f"column {label.name}",
            expected=f"one of {', '.join(label.classes[:10])}",
            hint="join rare classes under `data.clean.replace`, or set another `data.split.seed`",
        )
    return pc.cast(index, pa.int64())


def _lists(matrix: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """A matrix [N, W] as N lists of W; W may be 0, which from_arrays does not allow."""
    items = pa.array(matrix.ravel(), kind)
    lists = pa.list_(kind, matrix.shape[1])
    return pa.Array.from_buffers(lists, len(matrix), [None], children=[items])
