"""What endpoints count (counters.py), as Prometheus' text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ray_pipeline.deploy.counters import BATCH_BOUNDS, BOUNDS, STAGE_BOUNDS, Histogram
from ray_pipeline.run_metrics import escaped

_DRIFT = "How far a column is from what the model was made for, by question (docs/watching.md)."


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
        (
            "request_stage_seconds",
            "histogram",
            "Time that a stage of a request takes in a replica.",
            _stages,
        ),
        ("batch_rows", "histogram", "Rows in a run of the model.", _batches),
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
            where = f'column="{escaped(one["column"])}",question="{one["question"]}"'
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
        yield f'{{{label},column="{escaped(column)}"}}', count


def _seconds(label: str, figures: Mapping[str, Any]) -> Samples:
    counts = figures["counts"]
    return _histogram(label, BOUNDS, {"buckets": counts["buckets"], "sum": counts["seconds"]})


def _stages(label: str, figures: Mapping[str, Any]) -> Samples:
    for stage, histogram in figures["counts"]["stages"].items():
        yield from _histogram(f'{label},stage="{stage}"', STAGE_BOUNDS, histogram)


def _batches(label: str, figures: Mapping[str, Any]) -> Samples:
    return _histogram(label, BATCH_BOUNDS, figures["counts"]["batches"])


def _histogram(label: str, bounds: Sequence[float], histogram: Histogram) -> Samples:
    below = 0
    for bound, count in zip((*bounds, "+Inf"), histogram["buckets"], strict=True):
        below += count
        yield f'_bucket{{{label},le="{bound}"}}', below
    yield f"_sum{{{label}}}", histogram["sum"]
    yield f"_count{{{label}}}", below


def _in_flight(label: str, figures: Mapping[str, Any]) -> Samples:
    yield f"{{{label}}}", figures["in_flight"]


def _replicas(label: str, figures: Mapping[str, Any]) -> Samples:
    yield f"{{{label}}}", figures["replicas"]


def _info(label: str, figures: Mapping[str, Any]) -> Samples:
    yield f'{{{label},version="{figures["version"]}"}}', 1
