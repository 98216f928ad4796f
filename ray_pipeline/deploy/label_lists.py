"""What callers get where a row may have several labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def predicting(
    classes: Sequence[str], thresholds: Sequence[float], digits: int | None = None
) -> Callable[[list[float]], dict[str, Any]]:
    """A function from a row's probabilities to the prediction: all `labels` that it has, in the
    classes' order, and the `probabilities`, with at most `digits` decimals.

    A row has a label whose own probability, before it is rounded, is not below its threshold.
    """

    def predicted(found: list[float]) -> dict[str, Any]:
        begins = zip(classes, found, thresholds, strict=True)
        labels = [name for name, share, least in begins if share >= least]
        shown = found if digits is None else [round(share, digits) for share in found]
        return {"labels": labels, "probabilities": dict(zip(classes, shown, strict=True))}

    return predicted
