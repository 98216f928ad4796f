"""What an endpoint counts, and its Prometheus text.

A replica counts in plain integers and sends what is new once a second (board.py adds it up), so
that a request pays for a few additions and nothing else.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypedDict

from ray_pipeline.deploy.guard import Flag

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Upper bounds of the latency histogram, in seconds; one more bucket holds the rest."""


_LATEST = 1000
_DRIFT = "How far a column is from what the model was made for, by question (docs/watching.md)."


class Counts(TypedDict):
    """Figures that add up over replicas and time."""

    requests: dict[int, int]
    """By HTTP status."""
    rows: int
    seconds: float
    buckets: list[int]
    """Requests by latency, one for each of BOUNDS and one above."""
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
        "flagged": 0,
        "flags": {},
        "logged": 0,
        "log_left_out": 0,
        "labels": 0,
    }


def add(total: Counts, more: Counts) -> None:
    """Add `more` to `total`, in place."""
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
    total["buckets"] = [a + b for a, b in zip(total["buckets"], more["buckets"], strict=True)]


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


def exposition(endpoints: Mapping[str, Mapping[str, Any]]) -> str:
    """Prometheus text for endpoints by name: `counts`, `in_flight`, `replicas`, `version`."""
    return "\n".join([*_families(endpoints), ""])


def _families(endpoints: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for suffix, kind, meaning, samples in (
        ("requests_total", "counter", "Requests answered, by HTTP status.", _requests),
        ("rows_total", "counter", "Rows predicted.", _of("rows")),
        ("flagged_rows_total", "counter", "Rows unlike the training rows.", _of("flagged")),
        ("flags_total", "counter", "The columns that rows were flagged for.", _flags),
        ("logged_rows_total", "counter", "Rows in the request log.", _of("logged")),
        (
            "log_left_out_rows_total",
            "counter",
            "Rows that the request log had no room or no storage for.",
            _of("log_left_out"),
        ),
        ("feedback_labels_total", "counter", "Labels that were told afterwards.", _of("labels")),
        ("drift_size", "gauge", _DRIFT, _drifts("size")),
        ("drift_chance", "gauge", "The chance of that where nothing drifts.", _drifts("chance")),
        ("drift_bound", "gauge", "The size from which on it is an alarm.", _drifts("bound")),
        ("drift_alarms", "gauge", "Alarms of the latest look.", _watched("alarms")),
        (
            "drift_look_timestamp_seconds",
            "gauge",
            "When `watch` has last looked.",
            _watched("looked"),
        ),
        ("request_seconds", "histogram", "Time to answer a request in a replica.", _seconds),
        ("in_flight", "gauge", "Requests being answered.", _in_flight),
        ("replicas", "gauge", "Replicas that are running.", _replicas),
        ("model_info", "gauge", "The version that is live; always 1.", _info),
    ):
        name = f"ray_pipeline_{suffix}"
        yield f"# HELP {name} {meaning}"
        yield f"# TYPE {name} {kind}"
        for endpoint, figures in endpoints.items():
            for tail, value in samples(f'endpoint="{endpoint}"', figures):
                yield f"{name}{tail} {value}"


Samples = Iterator[tuple[str, float]]


def _requests(label: str, figures: Mapping[str, Any]) -> Samples:
    for status, count in sorted(figures["counts"]["requests"].items()):
        yield f'{{{label},code="{status}"}}', count


def _drifts(what: str) -> Callable[[str, Mapping[str, Any]], Samples]:
    """Samples of what was found of each column."""

    def samples(label: str, figures: Mapping[str, Any]) -> Samples:
        for one in figures.get("watched", {}).get("findings", ()):
            where = f'column="{_shown(one["column"])}",question="{one["question"]}"'
            yield f"{{{label},{where}}}", one[what]

    return samples


def _watched(what: str) -> Callable[[str, Mapping[str, Any]], Samples]:
    def samples(label: str, figures: Mapping[str, Any]) -> Samples:
        if what in (watched := figures.get("watched", {})):
            yield f"{{{label}}}", watched[what]

    return samples


def _of(what: str) -> Callable[[str, Mapping[str, Any]], Samples]:
    """Samples of a count that has no further label."""

    def samples(label: str, figures: Mapping[str, Any]) -> Samples:
        yield f"{{{label}}}", figures["counts"][what]

    return samples


def _flags(label: str, figures: Mapping[str, Any]) -> Samples:
    for column, count in sorted(figures["counts"]["flags"].items()):
        yield f'{{{label},column="{_shown(column)}"}}', count


def _shown(value: str) -> str:
    """A label's value as Prometheus' text has it."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _seconds(label: str, figures: Mapping[str, Any]) -> Samples:
    counts, below = figures["counts"], 0
    for bound, count in zip((*BOUNDS, "+Inf"), counts["buckets"], strict=True):
        below += count
        yield f'_bucket{{{label},le="{bound}"}}', below
    yield f"_sum{{{label}}}", counts["seconds"]
    yield f"_count{{{label}}}", below


def _in_flight(label: str, figures: Mapping[str, Any]) -> Samples:
    yield f"{{{label}}}", figures["in_flight"]


def _replicas(label: str, figures: Mapping[str, Any]) -> Samples:
    yield f"{{{label}}}", figures["replicas"]


def _info(label: str, figures: Mapping[str, Any]) -> Samples:
    yield f'{{{label},version="{figures["version"]}"}}', 1
