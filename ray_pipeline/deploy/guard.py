"""Rows that are unlike those the model was trained on, by what the bundle knows of each column.

A number or date is flagged outside the range of the training rows, a category where its value is
not among theirs, and a column that always had a value where it has none. With n training rows, a
row like them is outside a number's range with a chance of 2 / (n + 1). What is told is the column
and the reason, and neither the value nor the bound, which are somebody's. A row may be far from
the training rows as a whole, too (distance.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.bundle import Bundle
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.deploy import distance
from ray_pipeline.deploy.distance import Far
from ray_pipeline.deploy.example import statistics

BELOW = "below the range of the training rows"
ABOVE = "above the range of the training rows"
UNKNOWN = "not among the values that the model knows"
FAR = "far from the training rows as a whole"
ABSENT = "no value, and each training row had one"


class Flag(NamedTuple):
    """Why a row is unlike the training rows."""

    row: int
    column: str
    """Empty where it is the row as a whole."""
    why: str

    @property
    def where(self) -> str:
        """Its place in a request."""
        return f"rows[{self.row}].{self.column}".rstrip(".")


def guard(opened: Bundle, wanted: str) -> Guard | None:
    """The guard of a bundle's model; None where the job's `serve.guard` is off."""
    return None if wanted == "off" else Guard(statistics(opened), distance.known(opened))


class Guard:
    """Compares rows with the training statistics.

    Args:
        statistics: those of the bundle.
        far: tells rows that are far from the training rows, if the bundle knows it.
    """

    def __init__(self, statistics: Statistics, far: Far | None = None) -> None:
        self._far = far
        numbers = [*statistics.numbers, *(date.seconds for date in statistics.dates)]
        names = [*(n.name for n in statistics.numbers), *(d.name for d in statistics.dates)]
        self._numbers = names
        self._lowest = np.array([[column.minimum] for column in numbers])
        self._highest = np.array([[column.maximum] for column in numbers])
        self._whole = np.array([[column.missing == 0] for column in numbers], bool)
        # A hashed column keeps no vocabulary: none of its values is unknown.
        self._values = {
            column.name: {*column.values} | ({""} if column.missing else set())
            for column in statistics.categories
            if column.values
        }
        self._texts = [column.name for column in statistics.texts if column.missing == 0]

    @property
    def by_distance(self) -> bool:
        """Whether it looks at the numbers that the model reads, too."""
        return self._far is not None

    def flags(
        self, columns: Mapping[str, NDArray[Any]], numbers: NDArray[np.float32] | None = None
    ) -> list[Flag]:
        """The flags of cleaned columns [N], as the model reads them, in the rows' order; and of
        its `numbers` [N, D]."""
        found: list[Flag] = []
        if self._far is not None and numbers is not None:
            found += [Flag(int(row), "", FAR) for row in np.flatnonzero(self._far.far(numbers))]
        if self._numbers:
            found += self._of_numbers(np.stack([columns[name] for name in self._numbers]))
        for name, known in self._values.items():
            found += [
                Flag(row, name, UNKNOWN if text else ABSENT)
                for row, text in enumerate(columns[name])
                if text not in known
            ]
        for name in self._texts:
            found += [Flag(row, name, ABSENT) for row, text in enumerate(columns[name]) if not text]
        return sorted(found, key=_place) if found else found

    def _of_numbers(self, values: NDArray[np.float64]) -> list[Flag]:
        """Of numbers [C, N], in the order of the columns."""
        below, above = values < self._lowest, values > self._highest
        absent = np.isnan(values) & self._whole
        if not (below | above | absent).any():
            return []
        return [
            Flag(int(row), self._numbers[column], why)
            for where, why in ((below, BELOW), (above, ABOVE), (absent, ABSENT))
            for column, row in zip(*np.nonzero(where), strict=True)
        ]


def _place(flag: Flag) -> tuple[int, bool, str, str]:
    """Rows in order; what is said of a column before what is said of the whole row."""
    return flag.row, not flag.column, flag.column, flag.why
