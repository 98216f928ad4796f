"""How many requests came and how long they took, over the last while.

Endpoints count and never forget (counters.py); looked at again and again, the differences tell what
was between two looks. Nothing is stored: Prometheus is for that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from ray_pipeline.charts import Point
from ray_pipeline.deploy.counters import BOUNDS

EVERY_S = 5.0
_KEPT = 720
"""Looks: an hour."""
_RECENT = 12
"""Looks: a minute."""
_DRAWN = 60
"""Points of a curve at most."""


class Rates(NamedTuple):
    """Between two looks: requests a second, the share of them that failed (5xx), and quantiles of
    how long they took in ms; None where there were none."""

    requests: float
    failed: float | None
    p50_ms: float | None
    p99_ms: float | None


class _Look(NamedTuple):
    at: float
    requests: int
    failed: int
    buckets: tuple[int, ...]


class Traffic:
    """That of all endpoints."""

    def __init__(self) -> None:
        self._looks: dict[str, deque[_Look]] = {}

    def seen(self, at: float, figures: Mapping[str, Mapping[str, Any]]) -> None:
        """Note the counts of each endpoint (`Board.figures`) at a moment in seconds."""
        for name in [name for name in self._looks if name not in figures]:
            del self._looks[name]
        for name, figure in figures.items():
            counts = figure["counts"]
            failed = sum(n for status, n in counts["requests"].items() if int(status) >= 500)
            look = _Look(at, sum(counts["requests"].values()), failed, tuple(counts["buckets"]))
            looks = self._looks.setdefault(name, deque(maxlen=_KEPT))
            if looks and look.requests < looks[-1].requests:  # another cluster counts from nothing
                looks.clear()
            looks.append(look)

    def recent(self, name: str) -> Rates | None:
        """Of the last minute; None before there are two looks."""
        looks = list(self._looks.get(name, ()))[-_RECENT - 1 :]
        return _between(looks[0], looks[-1]) if len(looks) > 1 else None

    def curves(self, name: str) -> dict[str, list[Point]]:
        """The fields of Rates over the minutes until now, which are negative."""
        looks = list(self._looks.get(name, ()))
        step = max(1, len(looks) // _DRAWN)
        kept = looks[::-step][::-1]
        drawn: dict[str, list[Point]] = {field: [] for field in Rates._fields}
        for before, after in pairwise(kept):
            rates = _between(before, after)._asdict()
            for field, value in rates.items():
                if value is not None:
                    drawn[field].append(((after.at - looks[-1].at) / 60, value))
        return drawn


def quantile_ms(buckets: Sequence[int], share: float) -> float | None:
    """Of latencies counted [B + 1] by BOUNDS, in ms; None of none.

    Between two bounds it is taken to rise evenly, and above the last to be that, as
    `histogram_quantile` of Prometheus has it.
    """
    total = sum(buckets)
    if not total:
        return None
    wanted, below = share * total, 0
    for count, low, high in zip(buckets, (0.0, *BOUNDS), BOUNDS, strict=False):
        if count and below + count >= wanted:
            return 1000 * (low + (high - low) * (wanted - below) / count)
        below += count
    return 1000 * BOUNDS[-1]


def _between(before: _Look, after: _Look) -> Rates:
    seconds, requests = max(after.at - before.at, 1e-9), after.requests - before.requests
    buckets = [b - a for a, b in zip(before.buckets, after.buckets, strict=True)]
    return Rates(
        requests / seconds,
        (after.failed - before.failed) / requests if requests else None,
        quantile_ms(buckets, 0.5),
        quantile_ms(buckets, 0.99),
    )
