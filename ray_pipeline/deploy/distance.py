"""How far a row is from the training rows as a whole, where each column alone may be as usual.

What is compared are the numbers that the model reads: scaled numbers, parts of dates, encoded
categories, terms, vectors of sentences. Their Mahalanobis distance counts a step in a direction in
which the training rows differ little for more than one in which they differ much.

A row is far if its distance is above that of 99 in 100 validation rows, which the model has not
learned from. So of n rows like them, whatever their distribution, one in 100 is flagged on
average: the bound is the (n + 1) · 0.99th of n distances (a split conformal bound). How many test
rows are flagged is measured besides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ray_pipeline.bundle import Bundle

FILE = "distance.json"


class Distance(BaseModel):
    """What is known of the training rows' D numbers, and what was measured of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[float, ...]
    whitening: tuple[tuple[float, ...], ...]
    """[D, D]: what numbers less their mean are multiplied by."""
    bound: float
    """A row of a larger distance is far from the training rows."""
    false_alarms: float
    """The share of rows like the validation rows that are flagged, on average."""
    validation_rows: int
    test_rows: int = 0
    test_false_alarms: float | None = None
    """The share of test rows that are flagged; None where there are none."""


class Far:
    """Tells rows that are far from the training rows."""

    def __init__(self, known: Distance) -> None:
        self._mean = np.array(known.mean)
        self._whitening, self._bound = np.array(known.whitening), known.bound

    def far(self, numbers: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether each row of `numbers` [N, D] is."""
        found: NDArray[np.bool_] = distances(numbers, self._mean, self._whitening) > self._bound
        return found


def distances(
    numbers: NDArray[np.float32], mean: NDArray[np.float64], whitening: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The Mahalanobis distance [N] of numbers [N, D]."""
    apart = (numbers - mean) @ whitening
    found: NDArray[np.float64] = np.sqrt((apart * apart).sum(axis=1))
    return found


def known(opened: Bundle) -> Far | None:
    """What a bundle knows of it; None of one that does not."""
    if FILE not in opened.manifest.files:
        return None
    text = (opened.path / FILE).read_text(encoding="utf-8")
    return Far(Distance.model_validate_json(text))
