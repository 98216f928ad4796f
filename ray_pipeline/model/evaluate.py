"""How good the trained model is on rows it has not seen."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.parquet as pq
from upath import UPath

from ray_pipeline.data import features as prepared
from ray_pipeline.job import Evaluate
from ray_pipeline.model import (
    baseline,
    behaviour,
    case,
    fairness,
    folds,
    gates,
    judgement,
    language_judgement,
    metrics,
    overfitting,
    retrieval_judgement,
    slices,
)
from ray_pipeline.model.case import Case
from ray_pipeline.model.predictions import Predictions, model_outputs, predicted, table
from ray_pipeline.model.tested import tested
from ray_pipeline.model.unknown import unknown
from ray_pipeline.schema import Schema

Record = dict[str, Any]


def write(
    trained: UPath,
    features: UPath,
    split: UPath,
    schema: Schema,
    settings: Evaluate,
    *,
    out: UPath,
) -> Record:
    """Judge the model in `trained` on the test rows of `split`, or the validation rows if none.

    Writes `metrics.json` and `predictions.parquet`. The record's `metrics` holds the key metrics
    by name, and beside them `about`, `intervals`, `baseline`, `validation`, `training`, `gap`,
    `classes`, `confusion`, `calibration`, `groups`, `slices`, `behaviour`, `robustness` and
    `importance`; of several labels `thresholds`, and no confusion. Undefined figures are null. A
    language model is judged by `language_judgement`, an embedding by `retrieval_judgement`.

    Raises:
        JobError: a group column, the positive class or another named class does not exist.
        DataError: there are no rows to judge on.
    """
    own = {"generation": language_judgement.write, "retrieval": retrieval_judgement.write}
    if (judge := own.get(prepared.load(features).task)) is not None:
        return judge(trained, features, split, settings, out=out)
    judged = case.opened(trained, features, split, schema, settings)
    predictions = predicted(judged.model, judged.statistics, split / judged.side, settings.groups)
    learned, on_learning = _learned(judged, trained, features)
    trials, on_trials = tested(judged)
    found: Record = judgement.defined(
        {
            **judgement.judged(predictions, judged.statistics, judged.focus, settings),
            "about": _about(judged, predictions),
            "baseline": _baseline(judged, predictions),
            "slices": _slices(judged, predictions),
            **learned,
            **trials,
        }
    )
    (out / "metrics.json").write_text(json.dumps(found, indent=1))
    rows = table(predictions, judged.statistics.label.classes, judged.thresholds)
    pq.write_table(rows, (out / "predictions.parquet").path, filesystem=out.fs)
    findings = [
        *on_learning,
        *(multilabel_findings(found["classes"]) if judged.thresholds else ()),
        *fairness.findings(found["groups"]),
        *slices.findings(found["slices"], found),
        *on_trials,
    ]
    return {
        "rows_in": rows.num_rows,
        "rows_out": rows.num_rows,
        "metrics": found,
        "findings": judgement.defined(findings),
    }


def multilabel_findings(classes: Record) -> list[Record]:
    """The report's section on labels of which a row may have several, the commonest first."""
    rows = [
        [
            name,
            row["support"],
            f"{row['threshold']:.3f}",
            *(_shown(row[key]) for key in ("precision", "recall", "f1")),
            f"{_shown(row.get('f1_low'))} to {_shown(row.get('f1_high'))}",
            _shown(row["average_precision"]),
        ]
        for name, row in sorted(classes.items(), key=lambda item: -item[1]["support"])
    ]
    columns = ["label", "rows", "begins at", "precision", "recall", "F1", "95 % interval"]
    note = (
        "Each label is a question of its own: a row has those whose probability is not below the "
    )
    tables = [{"columns": [*columns, "average precision"], "rows": rows}]
    return [{"title": "Label by label", "note": f"{note}label's threshold.", "tables": tables}]


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def check(settings: Evaluate, schema: Schema, paired: bool = False) -> None:
    """Refuse, before anything is trained, settings that evaluation could not follow; of rows that
    are `paired` texts find texts.

    Raises:
        JobError: a group, slice or test is not of the columns, or a gate of nothing measured.
    """
    for name in settings.groups:
        if name not in schema.names:
            raise unknown("column", name, schema.names, "evaluate.groups")
    slices.check(settings.slices, schema)
    behaviour.check(settings.behaviour, schema)
    gates.check(settings, schema, paired)
    folds.check(settings, schema)


def _about(judged: Case, predictions: Predictions) -> Record:
    """What the numbers speak of: the task, the rows, the class of interest, the intervals."""
    classes, positive = judged.statistics.label.classes, judged.positive
    return {
        "task": judged.statistics.task,
        "split": judged.side,
        "rows": len(predictions.labels),
        "positive": None if classes is None or positive is None else classes[positive],
        "resamples": judged.settings.bootstrap,
        "confidence": metrics.CONFIDENCE,
    }


def _baseline(judged: Case, predictions: Predictions) -> Record:
    kind = judged.settings.baseline
    described, outputs = baseline.outputs(kind, judged.statistics, judged.split, judged.side)
    return {**described, **judgement.key_metrics(predictions.labels, outputs, judged.focus)}


def _slices(judged: Case, predictions: Predictions) -> Record:
    parts = slices.masks(judged.split / judged.side, judged.settings.slices)
    own = predictions.labels, predictions.outputs, judged.focus
    return slices.judged(parts, *own, judged.settings.bootstrap)


def _learned(judged: Case, trained: UPath, features: UPath) -> tuple[Record, list[Record]]:
    """The key metrics on `validation` and on some `training` rows, the `gap`, and what of it."""
    label = judged.statistics.label
    held_out = prepared.read_matrix(features / "validation")
    outputs = model_outputs(judged.model, label, held_out)
    seen = judged.sample(overfitting.ROWS, side="train")
    sides = {
        "training": (seen.labels, judged.answers(seen.rows)),
        "validation": (held_out["label"], outputs),
    }
    losses = {side: overfitting.row_losses(*sides[side]) for side in sides}
    found = {side: judgement.key_metrics(*sides[side], judged.focus) for side in sides}
    gap = overfitting.gap(losses["training"], losses["validation"])
    _, ignorant = baseline.prior(judged.statistics, len(outputs))
    prior = float(overfitting.row_losses(held_out["label"], ignorant).mean())
    said = overfitting.verdict(gap, prior, float(losses["validation"].mean()))
    model = json.loads((trained / "model.json").read_text())["model"]
    history = trained / "history.json"
    epochs = json.loads(history.read_text()) if history.exists() else []
    findings = overfitting.findings(gap, found, said, overfitting.advice(gap, model, epochs))
    return {**found, "gap": gap}, findings
