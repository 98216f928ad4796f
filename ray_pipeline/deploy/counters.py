"""What an endpoint counts.

A replica counts in plain integers and sends what is new once a second (board.py adds it up), so
that a request pays for a few additions and nothing else.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypedDict

from ray_pipeline.deploy.guard import Flag

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the latency histogram, in seconds; one more bucket holds the rest."""
STAGES = ("body", "read", "wait", "predict", "write")
"""What is done for a request, in turn: the key looked at and the body received, decoded and
checked; its rows waiting for a run of the model, in it, and the answer written and sent."""
STAGE_BOUNDS = (0.00005, 0.0001, 0.00025, 0.0005, *BOUNDS)
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of the histograms of stages, in seconds, and of rows in a run of the model."""

_LATEST = 1000


class Histogram(TypedDict):
    """Observations by size, one bucket for each of some bounds and one above, and their sum."""

    buckets: list[int]
    sum: float


class Counts(TypedDict):
    """Figures that add up over replicas and time."""

    requests: dict[int, int]
    """By HTTP status."""
    rows: int
    seconds: float
    buckets: list[int]
    """Requests by latency, one for each of BOUNDS and one above."""
    stages: dict[str, Histogram]
    """Seconds of each of STAGES, in STAGE_BOUNDS."""
    batches: Histogram
    """Rows in a run of the model, in BATCH_BOUNDS."""
    flagged: int
    """Rows unlike the training rows."""
    flags: dict[str, int]
    """The same by column; a row may be flagged for several."""
    logged: int
    """Rows that the request log has."""
    log_left_out: int
    """Rows that it was to have, and that there was no room or no storage for."""
    labels: int
    """Labels that were told afterwards."""


def no_counts() -> Counts:
    """Nothing counted yet."""
    return {
        "requests": {},
        "rows": 0,
        "seconds": 0.0,
        "buckets": [0] * (len(BOUNDS) + 1),
        "stages": {stage: _none(STAGE_BOUNDS) for stage in STAGES},
        "batches": _none(BATCH_BOUNDS),
        "flagged": 0,
        "flags": {},
        "logged": 0,
        "log_left_out": 0,
        "labels": 0,
    }


def _none(bounds: Sequence[float]) -> Histogram:
    return {"buckets": [0] * (len(bounds) + 1), "sum": 0}


def add(total: Counts, more: Counts) -> None:
    """Add `more` to `total`, in place."""
    for stage, histogram in more["stages"].items():
        _add(total["stages"][stage], histogram)
    _add(total["batches"], more["batches"])
    for status, count in more["requests"].items():
        total["requests"][status] = total["requests"].get(status, 0) + count
    for column, count in more["flags"].items():
        total["flags"][column] = total["flags"].get(column, 0) + count
    total["flagged"] += more["flagged"]
    total["logged"] += more["logged"]
    total["log_left_out"] += more["log_left_out"]
    total["labels"] += more["labels"]
    total["rows"] += more["rows"]
    total["seconds"] += more["seconds"]
    total["buckets"] = _sums(total["buckets"], more["buckets"])


def _add(total: Histogram, more: Histogram) -> None:
    total["buckets"] = _sums(total["buckets"], more["buckets"])
    total["sum"] += more["sum"]


def _sums(some: Sequence[int], others: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(some, others, strict=True)]


def _observe(histogram: Histogram, bounds: Sequence[float], value: float) -> None:
    histogram["buckets"][bisect_left(bounds, value)] += 1
    histogram["sum"] += value


class Counters:
    """A replica's counts since they were last taken, and the requests it has in hand."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._counts = no_counts()
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._requests = self._refused = self._failed = 0
        self._latest: deque[float] = deque(maxlen=_LATEST)

    def done(self, status: int, seconds: float, rows: int) -> None:
        """Count a request that was answered."""
        counts = self._counts
        requests = counts["requests"]
        requests[status] = requests.get(status, 0) + 1
        counts["rows"] += rows
        counts["seconds"] += seconds
        counts["buckets"][bisect_left(BOUNDS, seconds)] += 1
        self._requests += 1
        self._latest.append(seconds)
        if status >= 400:
            if status >= 500:
                self._failed += 1
            else:
                self._refused += 1

    def staged(self, stage: str, seconds: float) -> None:
        """Count how long one of STAGES took for a request."""
        _observe(self._counts["stages"][stage], STAGE_BOUNDS, seconds)

    def ran(self, rows: int) -> None:
        """Count a run of the model for so many rows."""
        _observe(self._counts["batches"], BATCH_BOUNDS, rows)

    def flagged(self, flags: Sequence[Flag]) -> None:
        """Count the flags of one request."""
        counts = self._counts["flags"]
        for flag in flags:
            counts[flag.column] = counts.get(flag.column, 0) + 1
        self._counts["flagged"] += len({flag.row for flag in flags})

    def kept(self, rows: int) -> None:
        """Count rows that the request log has."""
        self._counts["logged"] += rows

    def left_out(self, rows: int) -> None:
        """Count rows that the request log was to have and has not."""
        self._counts["log_left_out"] += rows

    def labelled(self, labels: int) -> None:
        """Count labels that were told afterwards."""
        self._counts["labels"] += labels

    def recent(self) -> dict[str, Any]:
        """How this replica does: requests since it began, and how long the latest took."""
        latest = sorted(self._latest)
        return {
            "since": self._since,
            "requests": self._requests,
            "refused": self._refused,
            "failed": self._failed,
            "in_flight": self.in_flight,
            "p50_ms": _quantile_ms(latest, 0.5),
            "p99_ms": _quantile_ms(latest, 0.99),
        }

    def taken(self) -> Counts:
        """What was counted since the last call."""
        counts, self._counts = self._counts, no_counts()
        return counts


def _quantile_ms(seconds: Sequence[float], share: float) -> float | None:
    """Of sorted latencies, in milliseconds; None where there is none."""
    if not seconds:
        return None
    return round(1000 * seconds[min(len(seconds) - 1, int(share * len(seconds)))], 3)
