"""What `features.fit` learns from the training rows: plain numbers and texts, stored as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

MISSING, UNKNOWN, FIRST_VALUE = 0, 1, 2
"""Category indices: 0 no value, 1 a value not seen in training, 2… `CategoryStatistics.values`."""

LARGEST_SCORE = 1e4
"""Bound on a standardised number's size; no training value of fewer than 10^8 rows reaches it."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NumberStatistics(_Frozen):
    """An integer, number or boolean column (booleans count as 0 and 1). All figures are float64.

    `knots` are K rising, distinct quantiles of the training values and `targets` the K standard
    normal scores they map to; both are empty under the `standard` method.
    """

    name: str
    missing: int
    mean: float
    deviation: float
    median: float
    minimum: float
    maximum: float
    knots: tuple[float, ...] = ()
    targets: tuple[float, ...] = ()


class CategoryStatistics(_Frozen):
    """A category column: its vocabulary, most frequent first, and how often each value was seen."""

    name: str
    missing: int
    unknown: int
    values: tuple[str, ...]
    counts: tuple[int, ...]


class LabelStatistics(_Frozen):
    """The label: its classes in sorted order with their counts, or None for a regression."""

    name: str
    classes: tuple[str, ...] | None
    counts: tuple[int, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0


class Statistics(_Frozen):
    """All that turns a raw row into a model's input.

    The model reads `numbers` [N, number_width] float32: every number column's scaled value, then
    a 0/1 flag for each column of `flagged`; and `categories` [N, len(category_sizes)] int64.
    """

    method: Literal["quantile", "standard"]
    rows: int
    numbers: tuple[NumberStatistics, ...]
    categories: tuple[CategoryStatistics, ...]
    label: LabelStatistics
    missing: tuple[str, ...] = ()

    @property
    def flagged(self) -> tuple[NumberStatistics, ...]:
        """The number columns that had missing values in training."""
        return tuple(column for column in self.numbers if column.missing)

    @property
    def number_width(self) -> int:
        return len(self.numbers) + len(self.flagged)

    @property
    def category_sizes(self) -> tuple[int, ...]:
        return tuple(len(column.values) + FIRST_VALUE for column in self.categories)

    @property
    def task(self) -> Literal["classification", "regression"]:
        return "regression" if self.label.classes is None else "classification"

    @property
    def outputs(self) -> int:
        """Numbers that the model puts out for a row: one per class, or one value."""
        return 1 if self.label.classes is None else len(self.label.classes)
