"""Small prepared rows with a rule to learn, written as `features.write` lays them out."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from upath import UPath

from ray_pipeline.data.statistics import (
    CategoryStatistics,
    LabelStatistics,
    NumberStatistics,
    Statistics,
)

NUMBERS, CATEGORIES = 3, 2
VALUES = ("a", "b", "c")


def written(
    folder: UPath,
    task: str = "classification",
    rows: int = 600,
    files: int = 2,
    weighted: bool = False,
) -> UPath:
    """`folder` with `rows` training rows, a third as many for validation, and statistics.

    A weighted training row weighs what `weight_of` says of its numbers.
    """
    generator = np.random.default_rng(7)
    for side, count in (("train", rows), ("validation", rows // 3 + 1)):
        (folder / side).mkdir(parents=True)
        numbers = generator.normal(size=(count, NUMBERS)).astype(np.float32)
        categories = generator.integers(0, len(VALUES) + 2, size=(count, CATEGORIES))
        signal = numbers[:, 0] - numbers[:, 1] + 2.0 * (categories[:, 0] == 3)
        label = (signal > 0.5).astype(np.int64)
        if task == "regression":
            label = (50 + 10 * signal + generator.normal(size=count)).astype(np.float32)
        table = table_of(numbers, categories.astype(np.int32), label)
        if weighted and side == "train":
            table = table.append_column("weight", pa.array(weight_of(numbers)))
        step = -(-count // files)
        for file, start in enumerate(range(0, count, step)):
            path = folder / side / f"{file}.parquet"
            pq.write_table(table.slice(start, step), str(path), row_group_size=40)
    statistics(task, label).write(folder)
    return folder


def weight_of(numbers: np.ndarray) -> np.ndarray:
    """Weights [N] that follow from the rows' numbers [N, F], so that no row can get another's."""
    return np.exp(numbers[:, 2]).astype(np.float32)


def table_of(numbers: np.ndarray, categories: np.ndarray, label: np.ndarray) -> pa.Table:
    def lists(matrix: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])

    return pa.table({"numbers": lists(numbers), "categories": lists(categories), "label": label})


def lines(batches) -> np.ndarray:
    """Batches as one sorted array, a line for each row."""
    parts = [
        torch.cat([b.inputs["numbers"], b.inputs["categories"], b.label[:, None]], 1).numpy()
        for b in batches
    ]
    whole = np.concatenate(parts)
    return whole[np.lexsort(whole.T)]


class Written(Statistics):
    def write(self, folder: UPath) -> None:
        (folder / "statistics.json").write_text(json.dumps(self.model_dump(mode="json")))


def statistics(task: str = "classification", label: np.ndarray | None = None) -> Written:
    number = {"missing": 0, "mean": 0, "deviation": 1, "median": 0, "minimum": -4, "maximum": 4}
    regression = task == "regression" and label is not None
    return Written(
        rows=600,
        numbers=tuple(NumberStatistics(name=f"n{i}", **number) for i in range(NUMBERS)),
        categories=tuple(
            CategoryStatistics(name=f"c{i}", missing=0, unknown=0, values=VALUES, counts=(1, 1, 1))
            for i in range(CATEGORIES)
        ),
        label=LabelStatistics(
            name="y",
            classes=None if regression else ("no", "yes"),
            mean=float(label.mean()) if regression else 0.0,
            deviation=float(label.std()) if regression else 1.0,
        ),
    )
