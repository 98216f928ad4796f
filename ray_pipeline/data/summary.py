"""Mergeable summaries of columns: what a task finds in its rows, added up on the driver."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.data import dates
from ray_pipeline.schema import Column

MOST_VALUES = 100_000
"""Different values of a column that one task counts; beyond them only the most frequent."""
TOP = 10
LARGEST = 1e140
"""Numbers beyond count as this in means and deviations, whose squares must stay finite."""


@dataclass(frozen=True)
class Moments:
    """Count, mean, summed squared deviation and range of finite numbers; `missing` are the rest."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf
    missing: int = 0

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Moments:
        """Moments of `values` [N], where NaN and infinities are missing."""
        finite = values[np.isfinite(values)]
        missing = len(values) - len(finite)
        if not len(finite):
            return cls(missing=missing)
        held = finite.clip(-LARGEST, LARGEST)
        mean = float(held.mean())
        squares = float(np.square(held - mean).sum())
        return cls(len(finite), mean, squares, float(finite.min()), float(finite.max()), missing)

    def __add__(self, other: Moments) -> Moments:
        """Both together; the parallel update of Chan, Golub and LeVeque (1979)."""
        count = self.count + other.count
        missing = self.missing + other.missing
        if not count:
            return Moments(missing=missing)
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * other.count / count,
            self.squares + other.squares + apart * apart * self.count * other.count / count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
            missing,
        )

    @property
    def deviation(self) -> float:
        """The standard deviation of a population (divided by the count), as scikit-learn's."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


@dataclass(frozen=True)
class Counts:
    """How often each text occurs. `cut` says that rare ones were left out."""

    values: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    cut: bool = False

    @classmethod
    def of(cls, texts: pa.ChunkedArray) -> Counts:
        """The counts of `texts`, null counted as missing."""
        present = texts.drop_null()
        counted = pc.value_counts(present)
        if cut := len(counted) > MOST_VALUES:
            most = pc.select_k_unstable(counted.field("counts"), MOST_VALUES, [("", "descending")])
            counted = counted.take(most)
        values, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
        return cls(
            Counter(dict(zip(values, counts, strict=True))), len(texts) - len(present), bool(cut)
        )

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.values + other.values, self.missing + other.missing, self.cut or other.cut
        )

    def ranked(self) -> list[tuple[str, int]]:
        """Values with their counts, most frequent first, equals in the order of their texts."""
        return sorted(self.values.items(), key=lambda pair: (-pair[1], pair[0]))


Summary = Moments | Counts


def summarised(values: pa.ChunkedArray, column: Column) -> Summary:
    """The summary of a typed column: of a date its seconds since 1970, of a text its length, of an
    image its bytes."""
    if column.kind in {"integer", "number", "date"}:
        return Moments.of(as_doubles(values))
    if column.kind == "text":
        return Moments.of(as_doubles(pc.utf8_length(values)))
    if column.kind == "image":
        return Moments.of(as_doubles(pc.binary_length(values)))
    return Counts.of(pc.cast(values, pa.string()))


def as_doubles(values: pa.ChunkedArray) -> NDArray[np.float64]:
    """Integers, numbers, booleans, or times in seconds, as doubles [N], null as NaN.

    Integers beyond 2^53 go to the nearest double.
    """
    if pa.types.is_timestamp(values.type):
        return dates.seconds(values)
    doubles = pc.cast(values, pa.float64(), safe=False)
    found: NDArray[np.float64] = doubles.to_numpy(zero_copy_only=False)
    return found


def merged(summaries: Iterable[dict[str, Summary]]) -> dict[str, Summary]:
    """The summaries of the same columns added up; empty if there are none."""
    found = [summary for summary in summaries if summary]
    names = found[0] if found else {}
    return {name: reduce(operator.add, (summary[name] for summary in found)) for name in names}


def described(summary: Summary) -> dict[str, Any]:
    """A summary as the report shows it."""
    if isinstance(summary, Moments):
        if not summary.count:
            return {"missing": summary.missing}
        return {
            "missing": summary.missing,
            "min": summary.minimum,
            "mean": summary.mean,
            "max": summary.maximum,
            "deviation": summary.deviation,
        }
    distinct = {"at_least" if summary.cut else "distinct": len(summary.values)}
    return {"missing": summary.missing, **distinct, "top": summary.ranked()[:TOP]}
