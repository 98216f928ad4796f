"""Bounds beyond which numbers are outliers, learnt in one pass that merges in any order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ray_pipeline.data.hashing import row_hashes
from ray_pipeline.data.summary import Moments, as_doubles
from ray_pipeline.job.steps import Limits, Outliers
from ray_pipeline.schema import Schema

SAMPLE = 200_000
"""Quartiles and medians are exact up to this many rows; beyond, those of as many sampled."""
_SEED = 5
_NORMAL = 1.4826  # times the median absolute deviation is a normal distribution's deviation


@dataclass(frozen=True)
class Sampled:
    """Rows of numbers [n, C] with the smallest hashes [n] of all rows seen: a random sample that
    is the same however the rows were divided; with the columns' moments."""

    hashes: NDArray[np.uint64]
    values: NDArray[np.float64]
    moments: tuple[Moments, ...]

    @classmethod
    def of(cls, rows: pa.Table, columns: tuple[str, ...], names: tuple[str, ...]) -> Sampled:
        """Of typed rows, which their values in `names` tell apart."""
        numbers = [as_doubles(rows[column]) for column in columns]
        values = np.array(numbers).reshape(len(columns), len(rows)).T
        moments = tuple(Moments.of(column) for column in numbers)
        return cls(row_hashes(rows, names, seed=_SEED), values, moments).smallest()

    def smallest(self, size: int = SAMPLE) -> Sampled:
        if len(self.hashes) <= size:
            return self
        order = np.argsort(self.hashes, kind="stable")[:size]
        return Sampled(self.hashes[order], self.values[order], self.moments)

    def __add__(self, other: Sampled) -> Sampled:
        both = Sampled(
            np.concatenate([self.hashes, other.hashes]),
            np.concatenate([self.values, other.values]),
            tuple(a + b for a, b in zip(self.moments, other.moments, strict=True)),
        )
        return both.smallest()


def fitted(sample: Sampled, settings: Outliers, schema: Schema) -> list[Limits]:
    """The bounds of each column; a column without a value, or with one only, has none."""
    found = []
    for index, name in enumerate(settings.columns):
        values = sample.values[:, index]
        low, high = bounds(values[np.isfinite(values)], sample.moments[index], settings)
        if low < high:
            whole = schema[name].kind == "integer"
            low, high = (math.ceil(low), math.floor(high)) if whole else (low, high)
            found.append(Limits(column=name, min=low, max=high, outside=settings.outside))
    return found


def bounds(
    values: NDArray[np.float64], moments: Moments, settings: Outliers
) -> tuple[float, float]:
    """The lowest and highest number that is no outlier.

    Quartiles as Tukey's fences (1977); medians as Leys et al. (2013). A spread of 0, where more
    than half of the values are equal, says nothing: there are no bounds then.
    """
    if not len(values):
        return 0.0, 0.0
    distance = settings.bound or (1.5 if settings.method == "iqr" else 3.0)
    if settings.method == "zscore":
        low = high = moments.mean
        spread = moments.deviation
    elif settings.method == "mad":
        low = high = float(np.median(values))
        spread = _NORMAL * float(np.median(np.abs(values - low)))
    else:
        low, high = (float(quartile) for quartile in np.quantile(values, (0.25, 0.75)))
        spread = high - low
    return (low - distance * spread, high + distance * spread) if spread > 0 else (0.0, 0.0)
