"""How far a model's outputs are from those of the network that was trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.job.providers import Providers
from ray_pipeline.model.multilabel import Thresholds, decided


@dataclass(frozen=True)
class Tried:
    """An execution provider, what was measured of it, and whether it may serve."""

    provider: str
    passed: bool
    why: str
    rows: int = 0
    max_difference: float | None = None
    label_agreement: float | None = None
    row_us: float | None = None
    """Median microseconds for one row, and for `batch` rows."""
    batch_us: float | None = None
    batch: int | None = None


def parity(
    found: NDArray[Any], truth: NDArray[Any], deviation: float, thresholds: Thresholds | None = None
) -> dict[str, Any]:
    """Largest difference (of values: in `deviation`s of the label), and label agreement.

    Both are [N, K] probabilities, or [N] values. An output that is no number is infinitely far.
    With `thresholds` a row may get several labels, and each that it gets or not is compared.
    """
    apart = np.abs(found.astype(float) - truth)
    furthest = float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))
    if found.ndim == 1:
        return {
            "rows": len(found),
            "max_difference": furthest / (deviation or 1.0),
            "label_agreement": None,
        }
    same = found.argmax(1) == truth.argmax(1)
    if thresholds is not None:
        same = decided(found.astype(float), thresholds) == decided(truth.astype(float), thresholds)
    return {
        "rows": len(found),
        "max_difference": furthest,
        "label_agreement": float(same.mean()),
    }


def judged(  # noqa: PLR0917 - two outputs, and by what they are held against each other
    provider: str,
    found: NDArray[Any],
    truth: NDArray[Any],
    deviation: float,
    settings: Providers,
    thresholds: Thresholds | None = None,
) -> Tried:
    """Whether a provider that puts out `found`, where the trained network does `truth`, may
    serve."""
    if found.shape != truth.shape:
        return Tried(provider, False, f"puts out {found.shape}, the trained network {truth.shape}")
    measured = parity(found, truth, deviation, thresholds)
    apart, agreement = measured["max_difference"], measured["label_agreement"]
    reasons = []
    if not apart <= settings.max_difference:
        reasons.append(f"differs by {apart:.3g}, and may by {settings.max_difference:g}")
    if agreement is not None and agreement < settings.min_agreement:
        reasons.append(f"{agreement:.2%} of labels agree, and {settings.min_agreement:.2%} must")
    return Tried(provider, not reasons, "; ".join(reasons), **measured)
