"""How good the trained model is on rows it has not seen, and whether that is good enough."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline import report
from ray_pipeline.data import features as prepared
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.errors import DataError, GateRefused, JobError
from ray_pipeline.job import Bound, Evaluate
from ray_pipeline.model import fairness, metrics, train
from ray_pipeline.model.predictions import (
    Predictions,
    coded,
    model_outputs,
    predicted,
    row_count,
    table,
)
from ray_pipeline.schema import Schema

_KEYS = {
    "classification": (
        *("accuracy", "precision", "recall", "f1", "f1_macro", "roc_auc", "pr_auc"),
        *("log_loss", "brier", "calibration_error"),
    ),
    "regression": ("rmse", "mae", "r2"),
}
_SECTIONS = ("validation", "baseline", "classes", "groups")


def write(
    trained: UPath,
    features: UPath,
    split: UPath,
    schema: Schema,
    settings: Evaluate,
    *,
    out: UPath,
) -> dict[str, Any]:
    """Judge the model in `trained` on the test rows of `split`, or the validation rows if none.

    Writes `metrics.json` and `predictions.parquet`. The record's `metrics` holds the key metrics
    by name, and beside them `about`, `intervals`, `baseline`, `validation`, `classes`,
    `confusion`, `calibration` and `groups`. Undefined figures are null.

    Raises:
        JobError: a group column or the positive class does not exist.
        DataError: there are no rows to judge on.
    """
    statistics = prepared.load(features)
    positive = positive_class(statistics, settings.positive)
    sides = [side for side in ("test", "validation") if row_count(split / side)]
    if not sides:
        raise DataError(
            "no rows to evaluate on",
            where=str(split),
            hint="raise `data.split.test`, or give `data.test`",
        )
    model = train.load(trained)
    predictions = predicted(model, statistics, split / sides[0], settings.groups)
    validation = prepared.read_matrix(features / "validation")
    outputs = model_outputs(
        model, statistics.label, validation["numbers"], validation["categories"]
    )
    found: dict[str, Any] = _defined(
        {
            **_key_metrics(predictions.labels, predictions.outputs, positive),
            "about": {"split": sides[0], **_about(predictions, statistics, positive, settings)},
            "validation": _key_metrics(validation["label"], outputs, positive),
            **_judged(predictions, statistics, positive, settings),
        }
    )
    (out / "metrics.json").write_text(json.dumps(found, indent=1))
    rows = table(predictions, statistics.label.classes)
    pq.write_table(rows, (out / "predictions.parquet").path, filesystem=out.fs)
    return {
        "rows_in": rows.num_rows,
        "rows_out": rows.num_rows,
        "metrics": found,
        "findings": fairness.findings(found["groups"]),
    }


def gate(found: Mapping[str, Any], gates: Mapping[str, Bound]) -> None:
    """Pass if every number that `gates` names, dotted where nested, is within its bound.

    Raises:
        JobError: a gate names no number in `found`.
        GateRefused: numbers outside their bounds, all of them.
    """
    known = report.numbers(found)
    for name in gates:
        if name not in known:
            raise _unknown("metric", name, list(known), "evaluate.gates")
    bounds = {name: bound.model_dump() for name, bound in gates.items()}
    failed = [verdict for verdict in report.verdicts(found, bounds) if not verdict["passed"]]
    if failed:
        raise GateRefused(
            "; ".join(f"{verdict['metric']} is {_shown(verdict['value'])}" for verdict in failed),
            where="evaluate.gates",
            expected="; ".join(f"{v['metric']} {report.bound_text(v)}" for v in failed),
            hint="nothing was deployed; the report shows where the model errs. Search or train "
            "longer, add data, or change the bound if it asks too much",
        )


def check(settings: Evaluate, schema: Schema) -> None:
    """Refuse, before anything is trained, settings that evaluation could not follow.

    Raises:
        JobError: a group is not a column, or a gate names no metric or no group.
    """
    for name in settings.groups:
        if name not in schema.names:
            raise _unknown("column", name, schema.names, "evaluate.groups")
    kind = schema.label.kind
    tasks = (
        ("regression", "classification") if kind in ("integer", "number") else ("classification",)
    )
    keys = [key for task in tasks for key in _KEYS[task]]
    for name in settings.gates:
        if name.partition(".")[0] not in (*keys, *_SECTIONS):
            raise _unknown("metric", name, keys, "evaluate.gates")
        if name.startswith("groups."):
            _check_group_gate(name, settings.groups)


def _check_group_gate(name: str, groups: Sequence[str]) -> None:
    """Refuse `groups.<column>.<gap>` where the column is no group, or the gap is none."""
    gaps = (*fairness.GAPS, "mae_difference")
    known = [f"groups.{group}.{gap}" for group in groups for gap in gaps]
    figures = tuple(f"groups.{group}.values." for group in groups)
    if name not in known and not name.startswith(figures):
        raise _unknown("metric", name, known, "evaluate.gates")


def positive_class(statistics: Statistics, named: str | None) -> int | None:
    """The index of the class of interest: of two, the named or else the rarer; of more, None.

    Raises:
        JobError: `named` is not a class of the label.
    """
    classes = statistics.label.classes
    if named is not None and named not in (classes or ()):
        raise _unknown("class", named, classes or (), "evaluate.positive")
    if classes is None or len(classes) != 2:
        return None
    return classes.index(named) if named is not None else int(np.argmin(statistics.label.counts))


def _key_metrics(
    labels: NDArray[Any], outputs: NDArray[np.float64], positive: int | None
) -> dict[str, Any]:
    if outputs.ndim == 1:
        return metrics.regression(labels.astype(float), outputs)
    return metrics.classification(labels, outputs, positive)


def _intervals(
    predictions: Predictions, positive: int | None, resamples: int
) -> dict[str, tuple[float, float]]:
    labels, outputs = predictions.labels, predictions.outputs
    if not resamples:
        return {}
    if outputs.ndim == 1:
        return metrics.regression_intervals(labels.astype(float), outputs, resamples)
    return metrics.classification_intervals(labels, outputs, positive, resamples)


def _about(
    predictions: Predictions, statistics: Statistics, positive: int | None, settings: Evaluate
) -> dict[str, Any]:
    """What the numbers speak of: the task, the rows, the class of interest, the intervals."""
    classes = statistics.label.classes
    return {
        "task": statistics.task,
        "rows": len(predictions.labels),
        "positive": None if classes is None or positive is None else classes[positive],
        "resamples": settings.bootstrap,
        "confidence": metrics.CONFIDENCE,
    }


def _judged(
    predictions: Predictions, statistics: Statistics, positive: int | None, settings: Evaluate
) -> dict[str, Any]:
    """All of the report beside the key metrics."""
    labels, outputs = predictions.labels, predictions.outputs
    if outputs.ndim == 1:
        return _judged_values(predictions, statistics, settings)
    classes = statistics.label.classes or ()
    counts = np.asarray(statistics.label.counts, dtype=float)
    prior = np.broadcast_to(counts / counts.sum(), outputs.shape)
    confusion = metrics.confusion(labels, outputs.argmax(1), len(classes))
    return {
        "intervals": _intervals(predictions, positive, settings.bootstrap),
        "baseline": {
            "predicts": classes[int(counts.argmax())],
            **metrics.classification(labels, prior, positive),
        },
        "classes": metrics.per_class(confusion, classes),
        "confusion": {"classes": list(classes), "counts": confusion.tolist()},
        "calibration": metrics.calibration(*metrics.event(labels, outputs, positive)),
        "groups": {
            name: fairness.classification_groups(
                *coded(predictions.groups[name]),
                (labels, outputs.argmax(1)),
                classes=len(classes),
                positive=positive,
                resamples=settings.bootstrap,
            )
            for name in settings.groups
        },
    }


def _judged_values(
    predictions: Predictions, statistics: Statistics, settings: Evaluate
) -> dict[str, Any]:
    values, outputs = predictions.labels.astype(float), predictions.outputs
    mean = statistics.label.mean
    return {
        "intervals": _intervals(predictions, None, settings.bootstrap),
        "baseline": {
            "predicts": f"the training mean, {mean:.6g}",
            **metrics.regression(values, np.full_like(values, mean)),
        },
        "groups": {
            name: fairness.regression_groups(*coded(predictions.groups[name]), values, outputs)
            for name in settings.groups
        },
    }


def _defined(value: Any) -> Any:
    """`value` with NaN and infinities as None: JSON has no other word for them."""
    if isinstance(value, Mapping):
        return {key: _defined(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _unknown(
    what: Literal["metric", "column", "class"], name: str, known: Sequence[str], where: str
) -> JobError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return JobError(
        f"no {what} is called `{name}`",
        where=where,
        expected="one of " + ", ".join(list(known)[:12]) if known else "nothing: this job has none",
        hint=f"did you mean `{near[0]}`?" if near else "",
    )
