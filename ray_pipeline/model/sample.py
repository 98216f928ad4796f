"""Some rows of a side, with what it takes to judge the model on them again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.matrices import labels
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.model.metrics import Floats
from ray_pipeline.model.multilabel import Thresholds, row_f1
from ray_pipeline.model.predictions import Answers

Z = 1.959964  # 97.5 % of a standard normal lie below


@dataclass(frozen=True)
class Sample:
    """Raw, typed `rows`, their labels [N] (class indices, or values) or [N, K] (0 and 1, with
    `thresholds`) and the model."""

    rows: pa.Table
    labels: NDArray[Any]
    answers: Answers
    thresholds: Thresholds | None = None

    def row_scores(self, outputs: Floats) -> Floats:
        """What each row adds to the score, times N: [N].

        Of classes 1 where the most probable is right, else 0: the mean is accuracy. Of values 1
        less the squared error over the labels' variance: the mean is R². Of several labels a row's
        F1.
        """
        if self.thresholds is not None:
            return row_f1(self.labels, outputs, self.thresholds)
        if outputs.ndim == 2:
            right: Floats = (outputs.argmax(1) == self.labels).astype(float)
            return right
        variance = float(np.var(self.labels))
        errors: Floats = (outputs - self.labels) ** 2
        return 1 - errors / variance if variance else np.full(len(errors), np.nan)

    def scores(self, rows: pa.Table) -> Floats:
        """`row_scores` of the model's outputs for these rows in the place of `rows`."""
        return self.row_scores(self.answers(rows))


def drawn(
    folder: UPath,
    count: int,
    statistics: Statistics,
    answers: Answers,
    seed: int = 0,
    *,
    thresholds: Thresholds | None = None,
) -> Sample:
    """At most `count` random rows, in their order, of the parquet files in `folder`."""
    dataset = pads.dataset(folder.path, filesystem=folder.fs, format="parquet")
    total = dataset.count_rows()
    chosen = np.random.default_rng(seed).permutation(total)[:count]
    rows = dataset.take(pa.array(np.sort(chosen)))
    ready = compiled_arrow(statistics)(rows)
    return Sample(rows, labels(ready), answers, thresholds)


def mean_interval(values: Floats) -> tuple[float, float, float]:
    """The mean of N independent values, and the ends of its 95 % normal interval.

    Of the same rows' differences, that is the interval of a paired comparison.
    """
    mean = float(values.mean())
    reach = Z * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return mean, mean - reach, mean + reach


def replaced(rows: pa.Table, name: str, values: Any) -> pa.Table:
    """The rows with another column in the place of the one called `name`."""
    return rows.set_column(rows.column_names.index(name), rows.schema.field(name), values)
