"""Mergeable summaries of columns: what a task finds in its rows, added up on the driver."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ray_pipeline.data import dates, label_sets
from ray_pipeline.schema import Column

MOST_VALUES = 100_000
"""Different values of a column that one task counts; beyond them only the most frequent."""
TOP = 10
BINS = 24
"""Of the histograms that the report draws."""
SAMPLED, MOST_SAMPLED = 512, 1 << 14
"""Numbers of a column that one block gives to its histogram, and that are kept in all."""
LARGEST = 1e140
"""Numbers beyond count as this in means and deviations, whose squares must stay finite."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Numbers of a column [S], evenly spaced among its rows, and how many each stands for."""

    values: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    weights: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Sample:
        step = -(-len(values) // SAMPLED)
        chosen = values[::step]
        return cls(chosen.copy(), np.full(len(chosen), len(values) / len(chosen)))

    def __add__(self, other: Sample) -> Sample:
        values = np.concatenate([self.values, other.values])
        weights = np.concatenate([self.weights, other.weights])
        if len(values) <= MOST_SAMPLED:
            return Sample(values, weights)
        thinned = weights[::2]
        return Sample(values[::2], thinned * (weights.sum() / thinned.sum()))

    def histogram(self, low: float, high: float, count: int) -> dict[str, Any]:
        """About how many of `count` numbers between `low` and `high` fall into each of BINS."""
        edges = np.linspace(low, high, BINS + 1) if abs(high - low) < LARGEST else np.empty(0)
        if not len(edges) or not (np.diff(edges) > 0).all():  # too wide for doubles, or too narrow
            return {"edges": [low, high], "counts": [count]}
        weighed, _ = np.histogram(self.values, edges, weights=self.weights)
        rounded = np.rint(weighed * (count / weighed.sum())).astype(int)
        return {"edges": edges.tolist(), "counts": rounded.tolist()}


@dataclass(frozen=True)
class Moments:
    """Count, mean, summed squared deviation and range of finite numbers; `missing` are the rest."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf
    missing: int = 0
    sample: Sample = field(default_factory=Sample, compare=False)

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Moments:
        """Moments of `values` [N], where NaN and infinities are missing."""
        usable = np.isfinite(values)
        finite = values if usable.all() else values[usable]
        missing = len(values) - len(finite)
        if not len(finite):
            return cls(missing=missing)
        low, high = float(finite.min()), float(finite.max())
        held = finite if max(-low, high) <= LARGEST else finite.clip(-LARGEST, LARGEST)
        mean = float(held.mean())
        apart = held - mean
        squares = float(apart @ apart)
        return cls(len(finite), mean, squares, low, high, missing, Sample.of(finite))

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
            self.sample + other.sample,
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
        if pa.types.is_dictionary(texts.type):
            return cls._of_codes(texts)
        present = texts.drop_null()
        counted = pc.value_counts(present)
        if cut := len(counted) > MOST_VALUES:
            most = pc.select_k_unstable(counted.field("counts"), MOST_VALUES, [("", "descending")])
            counted = counted.take(most)
        values, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
        return cls(
            Counter(dict(zip(values, counts, strict=True))), len(texts) - len(present), bool(cut)
        )

    @classmethod
    def _of_codes(cls, texts: pa.ChunkedArray) -> Counts:
        """Of texts in a dictionary, whose entries need not occur, nor be different."""
        whole = texts.combine_chunks()
        codes = whole.indices.drop_null().to_numpy()
        often = np.bincount(codes, minlength=len(whole.dictionary))
        there = np.flatnonzero(often)
        values = whole.dictionary.take(there).to_pylist()
        counts: Counter[str] = Counter()
        for value, count in zip(values, often[there].tolist(), strict=True):
            counts[value] += count
        cut = len(counts) > MOST_VALUES
        return cls(
            Counter(dict(counts.most_common(MOST_VALUES))) if cut else counts,
            len(whole) - len(codes),
            cut,
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
    image its bytes. Of labels each is counted."""
    if column.kind in {"integer", "number", "date"}:
        return Moments.of(as_doubles(values))
    if column.kind == "text":
        return Moments.of(as_doubles(pc.utf8_length(values)))
    if column.kind == "image":
        return Moments.of(as_doubles(pc.binary_length(values)))
    if column.kind == "labels":
        return Counts(label_sets.counted(values, column.separator), values.null_count)
    texts = pa.types.is_dictionary(values.type)
    return Counts.of(values if texts else pc.cast(values, pa.string()))


def as_doubles(values: pa.ChunkedArray) -> NDArray[np.float64]:
    """Integers, numbers, booleans, or times in seconds, as doubles [N], null as NaN.

    Integers beyond 2^53 go to the nearest double.
    """
    if pa.types.is_timestamp(values.type):
        return dates.seconds(values)
    doubles = pc.fill_null(pc.cast(values, pa.float64(), safe=False), math.nan)
    found: NDArray[np.float64] = doubles.to_numpy()
    return found


def merged(summaries: Iterable[dict[str, Summary]]) -> dict[str, Summary]:
    """The summaries of the same columns added up; empty if there are none."""
    found = [summary for summary in summaries if summary]
    names = found[0] if found else {}
    return {name: total([summary[name] for summary in found]) for name in names}


def total(found: Sequence[Summary]) -> Summary:
    """The summaries of one column, at least one, added up."""
    counts = [summary for summary in found if isinstance(summary, Counts)]
    if not counts:
        return reduce(operator.add, found)
    values: Counter[str] = Counter()
    for each in counts:
        values.update(each.values)  # in place: `+` would copy all of them each time
    return Counts(values, sum(c.missing for c in counts), any(c.cut for c in counts))


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
            "histogram": summary.sample.histogram(summary.minimum, summary.maximum, summary.count),
        }
    distinct = {"at_least" if summary.cut else "distinct": len(summary.values)}
    return {"missing": summary.missing, **distinct, "top": summary.ranked()[:TOP]}
