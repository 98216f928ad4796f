"""What smaller and faster forms of a model cost, and which of them earns its place here."""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.model import metrics, multilabel
from ray_pipeline.model.metrics import Floats
from ray_pipeline.model.multilabel import Thresholds

Columns = dict[str, NDArray[Any]]
Predict = Callable[[Columns], NDArray[Any]]
Objective = Literal["latency", "size", "quality"]

BATCH, SMALL_BATCH = 256, 32
SLOW_ROW_US = 1_000.0
"""A network that needs longer than this for a row is measured with batches of 32."""
MIN_GAIN = 1.3
"""How many times faster, or smaller, a lossy form must be: less than this may be the noise of a
busy machine, and is not worth predictions that differ with their neighbours in a batch."""
RESAMPLES = 1_000


@dataclass(frozen=True)
class Candidate:
    """A form of the model and what was measured of it on this machine."""

    name: str
    bytes: int
    packed: int
    """Bytes once compressed (zlib), as the model travels: weights of 0 cost next to nothing."""
    row_us: float
    """Median microseconds for one row, and for `batch` rows."""
    batch_us: float
    batch: int
    score: float
    """Validation accuracy, or R², or micro F1 of several labels, or MRR of an embedding."""
    interval: tuple[float, float]
    """95 % bootstrap interval of the score."""


@dataclass(frozen=True)
class Latency:
    """Median microseconds for one row, and for a batch of `batch` rows."""

    row_us: float
    batch_us: float
    batch: int


def candidate(  # noqa: PLR0917 - a form and what it says
    name: str,
    model: bytes,
    latency: Latency,
    outputs: NDArray[Any],
    labels: NDArray[Any],
    thresholds: Thresholds = (),
) -> Candidate:
    """What is known of the serialised `model` that puts out `outputs` for rows with `labels`."""
    return measured(name, model, latency, *scored(outputs, labels, thresholds))


def measured(
    name: str, model: bytes, latency: Latency, score: float, interval: tuple[float, float]
) -> Candidate:
    """What is known of the serialised `model` that has a `score`."""
    return Candidate(
        name=name,
        bytes=len(model),
        packed=len(zlib.compress(model)),
        score=score,
        interval=interval,
        **asdict(latency),
    )


def mean_scored(scores: Floats) -> tuple[float, tuple[float, float]]:
    """The mean of scores [N], and its 95 % bootstrap percentile interval."""
    means = metrics.resampled_means(scores[:, None], RESAMPLES, np.random.default_rng(0))
    return float(scores.mean()), metrics.percentiles(means[:, 0])


def scored(
    outputs: NDArray[Any], labels: NDArray[Any], thresholds: Thresholds = ()
) -> tuple[float, tuple[float, float]]:
    """Accuracy of probabilities [N, K] for class indices [N], or R² of values [N], or of several
    labels [N, K] with their `thresholds` micro F1, and its 95 % bootstrap percentile interval."""
    if labels.ndim == 2:
        rows = multilabel.row_figures(labels, outputs.astype(float), thresholds)
        drawn = multilabel.sampled(rows, RESAMPLES, np.random.default_rng(0))["f1_micro"]
        score = multilabel.sampled_figures(rows.mean(0, keepdims=True))["f1_micro"]
        return float(score[0]), metrics.percentiles(drawn)
    if outputs.ndim == 1:
        values, found = labels.astype(float), outputs.astype(float)
        intervals = metrics.regression_intervals(values, found, RESAMPLES)
        return metrics.regression(values, found)["r2"], intervals["r2"]
    right = int((outputs.argmax(1) == labels).sum())
    counts = np.array([right, len(labels) - right])
    again = metrics.resampled(counts, RESAMPLES, np.random.default_rng(0))
    return right / len(labels), metrics.percentiles(again[:, 0] / len(labels))


def latencies(
    forms: Mapping[str, Predict], columns: Columns, seconds: float = 0.5
) -> dict[str, Latency]:
    """Median times of each form, over `seconds` in all for each.

    The forms take turns, so that whatever else the machine does meets them alike.
    """
    row = {name: column[:1] for name, column in columns.items()}
    for predict in forms.values():
        predict(row)
    slowest = max(_microseconds(predict, row) for predict in forms.values())
    size = SMALL_BATCH if slowest > SLOW_ROW_US else BATCH
    index = np.arange(size) % len(next(iter(columns.values())))
    batch = {name: column[index] for name, column in columns.items()}
    for predict in forms.values():
        predict(batch)
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in forms}
    end = time.perf_counter() + seconds * len(forms)
    while True:
        for name, predict in forms.items():
            times[name][0].extend(_microseconds(predict, row) for _ in range(20))
            times[name][1].append(_microseconds(predict, batch))
        if time.perf_counter() >= end:
            break
    return {
        name: Latency(statistics.median(rows), statistics.median(batches), size)
        for name, (rows, batches) in times.items()
    }


def chosen(
    candidates: list[Candidate],
    max_drop: float,
    objective: Objective = "latency",
    reference: float | None = None,
    failed: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The table of candidates, each with `chosen` and `why`. The first is the one without loss.
    After them those that `failed`, by name with the reason, and of which nothing was measured.

    Of the forms that score at most `max_drop` less than `reference` (the first one's score if not
    given), that is chosen which is best by `objective`:

    - latency: the fastest, if it gains MIN_GAIN at least. A form is as much faster as it is at the
      worse of two, one row and a batch.
    - size: the smallest once packed, if it gains as much.
    - quality: the one with the highest score that is not slower by as much.
    """
    first = candidates[0]
    bound = (first.score if reference is None else reference) - max_drop
    refused = {form.name: _refusal(form, first, bound, objective) for form in candidates[1:]}
    fit = [form for form in candidates if not refused.get(form.name)]
    best = max(fit, key=lambda form: _merit(form, first, objective))
    rows = []
    for form in candidates:
        if form is best is first:
            why = "no other form is better and within bounds"
        elif form is best:
            why = f"{_said(form, first, objective)}, loses {_drop(form, bound, max_drop)}"
        elif form is first:
            why = f"{best.name} is {_said(best, first, objective)}"
        else:
            why = refused[form.name] or f"{best.name} is {_COMPARED[objective]}"
        entry = {**asdict(form), "interval": list(form.interval)}
        rows.append({**entry, "chosen": form is best, "why": why})
    nothing = dict.fromkeys(asdict(first))
    rows += [
        {**nothing, "name": name, "chosen": False, "why": why}
        for name, why in (failed or {}).items()
    ]
    return rows


def finding(title: str, note: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The table that `chosen` made as a section of the report, with a plot of what it weighs."""
    batch = rows[0]["batch"]
    times = f"µs for {batch} rows"
    columns = ["", "bytes", "packed", "µs for a row", times, "score", "95 % interval", "taken", ""]
    cells = [
        [
            *(row[key] for key in ("name", "bytes", "packed", "row_us", "batch_us", "score")),
            "{:.4f} to {:.4f}".format(*row["interval"]) if row["interval"] else None,
            *(row[key] for key in ("chosen", "why")),
        ]
        for row in rows
    ]
    plots = [
        {
            "kind": "dots",
            "x": x,
            "y": "validation score",
            "dots": [[row["name"], row[key] / unit, row["score"]] for row in rows if row[key]],
        }
        for x, key, unit in ((times, "batch_us", 1), ("kB packed", "packed", 1000))
    ]
    return {
        "title": title,
        "note": note,
        "plots": plots,
        "tables": [{"columns": columns, "rows": cells}],
    }


_COMPARED = {"latency": "faster", "size": "smaller", "quality": "better"}


def _refusal(form: Candidate, first: Candidate, bound: float, objective: Objective) -> str:
    """Why `form` cannot take the place of `first`; empty if it can."""
    if not form.score >= bound:  # a score that is NaN is no score
        return f"scores {form.score:.4f}, less than {bound:.4f}"
    said = _said(form, first, objective)
    if objective == "quality":
        slower = _gain(form, first) < 1 / MIN_GAIN
        return f"{_said(form, first, 'latency')}: too slow" if slower else ""
    return "" if _merit(form, first, objective) >= MIN_GAIN else f"{said}: not worth a loss"


def _merit(form: Candidate, first: Candidate, objective: Objective) -> float:
    """What the objective is to have most of; a ratio to `first`, save for quality."""
    if objective == "quality":
        return form.score
    return _gain(form, first) if objective == "latency" else first.packed / form.packed


def _said(form: Candidate, first: Candidate, objective: Objective) -> str:
    if objective == "quality":
        return f"at {form.score:.4f}, {first.name} at {first.score:.4f}"
    measure = "fast" if objective == "latency" else "small"
    return f"{_merit(form, first, objective):.2f} times as {measure} as {first.name}"


def _drop(form: Candidate, bound: float, max_drop: float) -> str:
    return f"{max(bound + max_drop - form.score, 0):.4f} of at most {max_drop:g}"


def _gain(form: Candidate, first: Candidate) -> float:
    return min(first.row_us / form.row_us, first.batch_us / form.batch_us)


def _microseconds(predict: Predict, columns: Columns) -> float:
    begun = time.perf_counter()
    predict(columns)
    return (time.perf_counter() - begun) * 1e6
