"""The gap between training and validation rows, and what is advised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from ray_pipeline.model import overfitting


def losses(model: Any, rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Row losses of a model fitted to the first half, for both halves."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2 * rows, 5))
    labels = (features[:, 0] + rng.normal(size=2 * rows) > 0).astype(int)
    model.fit(features[:rows], labels[:rows])
    halves = [slice(0, rows), slice(rows, None)]
    found = [
        overfitting.row_losses(labels[h], np.clip(model.predict_proba(features[h]), 0.01, 0.99))
        for h in halves
    ]
    return found[0], found[1]


def test_a_forest_learns_by_heart_and_a_line_does_not() -> None:
    forest = overfitting.gap(*losses(RandomForestClassifier(50, random_state=0)))
    line = overfitting.gap(*losses(LogisticRegression()))
    assert forest["low"] > 0
    assert forest["share"] > 0.5
    assert line["low"] < 0 < line["high"]
    mlp = {"name": "mlp", "dropout": 0.2, "width": 128}
    keys = [key for key, _, _ in overfitting.advice(forest, mlp, [])]
    assert keys[:2] == ["model.dropout", "train.weight_decay"]
    trees = {"name": "trees", "trees": {"leaves": 31, "min_rows": 20, "l2": 0.0}}
    assert overfitting.advice(forest, trees, [])[0][:2] == ("model.trees.leaves", "below 31")
    assert overfitting.advice(line, mlp, []) == []
    assert "by heart" in overfitting.verdict(forest, 10.0, 0.5)
    assert "no sign" in overfitting.verdict(line, 10.0, 0.5)
    assert "no better" in overfitting.verdict(forest, 0.4, 0.5)


def test_row_losses_have_the_mean_of_scikit_learn() -> None:
    labels = np.array([0, 2, 1, 1])
    outputs = np.random.default_rng(0).dirichlet([1, 1, 1], 4)
    found = overfitting.row_losses(labels, outputs)
    assert found.mean() == pytest.approx(log_loss(labels, outputs, labels=[0, 1, 2]))
    values = overfitting.row_losses(np.array([1.0, 2.0]), np.array([1.5, 0.0]))
    assert values.tolist() == [0.25, 4.0]


def test_a_loss_that_still_falls_asks_for_epochs() -> None:
    level = {"loss": 0.0, "low": -1.0, "high": 1.0, "share": 0.0}
    falling = [{"validation_loss": loss} for loss in (0.5, 0.4, 0.3)]
    ((key, how, _),) = overfitting.advice(level, {}, falling)
    assert (key, how) == ("train.epochs", "above 3")
    assert overfitting.advice(level, {}, [*falling, {"validation_loss": 0.31}]) == []
