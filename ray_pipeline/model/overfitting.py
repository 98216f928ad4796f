"""Whether the model learned the training rows by heart, and which setting to move if it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.model import multilabel
from ray_pipeline.model.metrics import Floats
from ray_pipeline.model.sample import Z

ROWS = 20_000
"""Training rows that are judged."""
USUAL = 0.1
"""A gap of up to this share of the validation loss is what most good models have."""
_FALLING = 0.005  # share of the loss that the last epoch still took off

_SCORES = (
    "accuracy",
    "f1",
    "f1_micro",
    "f1_macro",
    "mean_average_precision",
    "roc_auc",
    "r2",
    "rmse",
    "log_loss",
)


def row_losses(labels: NDArray[Any], outputs: Floats) -> Floats:
    """Each row's log loss, of several labels their mean, or squared error: [N]."""
    if labels.ndim == 2:
        return multilabel.row_losses(labels, outputs)
    if outputs.ndim == 1:
        errors: Floats = (outputs - labels) ** 2
        return errors
    own = outputs[np.arange(len(labels)), labels]
    losses: Floats = -np.log(np.clip(own, np.finfo(float).eps, 1))
    return losses


def gap(training: Floats, validation: Floats) -> dict[str, float]:
    """The validation rows' mean loss less the training rows', with its 95 % normal interval.

    Of losses [N] and [M] of different rows, whose variances add. `share` is of the former.
    """
    difference = float(validation.mean() - training.mean())
    variance = training.var() / len(training) + validation.var() / len(validation)
    reach = Z * float(variance) ** 0.5
    whole = float(validation.mean())
    return {
        "loss": difference,
        "low": difference - reach,
        "high": difference + reach,
        "share": difference / whole if whole > 0 else 0.0,
    }


def verdict(found: Mapping[str, Any], prior: float, validation: float) -> str:
    """One sentence; `prior` is the validation rows' loss of an answer that looks at no row."""
    if validation >= prior:
        return "The model is no better on validation rows than an answer that looks at no row."
    if found["low"] <= 0:
        return "Training rows are judged no better than validation rows: no sign of overfitting."
    if found["share"] <= USUAL:
        return "Training rows are judged a little better than validation rows, as is usual."
    share = 100 * found["share"]
    return f"The loss on training rows is {share:.0f} % lower: the model knows some by heart."


def advice(
    found: Mapping[str, Any], model: Mapping[str, Any], history: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str]]:
    """Settings to move: (key, how, why). Empty if nothing asks for it.

    `model` is the section of that name, `history` the epochs of training.
    """
    moves = []
    if found["low"] > 0 and found["share"] > USUAL:
        moves += _less_by_heart(model)
    losses = [epoch["validation_loss"] for epoch in history]
    if len(losses) > 1 and losses[-1] == min(losses) and losses[-1] < losses[-2] * (1 - _FALLING):
        why = "the validation loss was still falling in the last epoch"
        moves.append(("train.epochs", f"above {len(losses)}", why))
    return moves


def _less_by_heart(model: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    if model.get("name") == "trees":
        trees = model.get("trees") or {}
        return [
            ("model.trees.leaves", f"below {trees.get('leaves')}", "simpler trees"),
            ("model.trees.min_rows", f"above {trees.get('min_rows')}", "no leaf for a few rows"),
            ("model.trees.l2", f"above {trees.get('l2')}", "smaller leaves"),
        ]
    dropout, width = model.get("dropout"), model.get("width")
    return [
        ("model.dropout", f"above {dropout:g}" if dropout is not None else "up", "no unit alone"),
        ("train.weight_decay", "ten times as much", "smaller weights"),
        ("model.width", f"below {width}" if width else "down", "less room to remember rows"),
        ("train.patience", "down", "stop sooner after the best epoch"),
        (
            "data",
            "more rows, `train.mixup`, or augmentation of images",
            "rows that cannot be remembered",
        ),
    ]


def findings(
    found: Mapping[str, Any],
    sides: Mapping[str, Mapping[str, Any]],
    said: str,
    moves: Sequence[tuple[str, str, str]],
) -> list[dict[str, Any]]:
    """The report's section: `sides` are the key metrics of training, validation and test rows."""
    training = sides["training"]
    shown = [key for key in _SCORES if training.get(key) is not None]
    rows = [
        [key.replace("_", " "), *(_figure(figures.get(key)) for figures in sides.values())]
        for key in shown
    ]
    reach = f"{found['low']:.4f} to {found['high']:.4f}"
    note = (
        f"{said} The gap of the loss is {found['loss']:.4f} (95 % interval {reach}), the model as "
        "it is deployed, without dropout, on both."
    )
    tables: list[dict[str, Any]] = [{"columns": ["figure", *sides], "rows": rows}]
    if moves:
        columns = ["what to try", "", ""]
        tables.append({"columns": columns, "rows": [list(move) for move in moves]})
    title = "Training against validation"
    return [{"title": title, "place": "learned", "note": note, "tables": tables}]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
