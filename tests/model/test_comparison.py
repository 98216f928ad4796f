"""Differences of two models' metrics against a bootstrap done row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference

from ray_pipeline.model import comparison, judgement


def drawn(classes: int, rows: int = 400, seed: int = 0) -> tuple[Any, Any, Any]:
    """Labels, and two models' probabilities, which are wrong on much the same rows."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    shared = rng.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[labels]
    logits = [shared + 0.5 * rng.normal(size=shared.shape) for _ in range(2)]
    ours, theirs = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in logits)
    return labels, ours, theirs


def resampled_plainly(labels: Any, ours: Any, theirs: Any, positive: int | None) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(400):
        rows = rng.integers(0, len(labels), len(labels))
        own = judgement.key_metrics(labels[rows], ours[rows], positive)
        other = judgement.key_metrics(labels[rows], theirs[rows], positive)
        found.append({name: own[name] - other[name] for name in own})
    return {name: np.quantile([f[name] for f in found], [0.025, 0.975]) for name in found[0]}


@pytest.mark.parametrize(("classes", "positive"), [(2, 1), (4, None), (1, None)])
def test_intervals_as_a_plain_paired_bootstrap(classes: int, positive: int | None) -> None:
    labels, ours, theirs = drawn(max(classes, 2))
    if classes == 1:
        rng = np.random.default_rng(3)
        labels = rng.normal(size=400)
        ours, theirs = (labels + size * rng.normal(size=400) for size in (0.5, 0.6))
    found = comparison.differences(labels, ours, theirs, positive, resamples=1000)
    expected = resampled_plainly(labels, ours, theirs, positive)
    names = {2: {"accuracy", "f1", "roc_auc", "pr_auc", "log_loss"}, 4: {"f1_macro", "brier"}}
    assert found["intervals"].keys() >= names.get(classes, {"rmse", "mae", "r2"})
    for name, (low, high) in found["intervals"].items():
        reach = expected[name][1] - expected[name][0]
        assert (low, high) == pytest.approx(tuple(expected[name]), abs=0.17 * reach), name
        assert low <= found[name] <= high


def test_differences_are_those_of_scikit_learn() -> None:
    labels, ours, theirs = drawn(2)
    found = comparison.differences(labels, ours, theirs, 1, resamples=0)
    area = reference.roc_auc_score
    assert found["roc_auc"] == pytest.approx(area(labels, ours[:, 1]) - area(labels, theirs[:, 1]))
    assert found["intervals"] == {}


def test_a_model_differs_from_itself_in_nothing() -> None:
    labels, ours, _ = drawn(2)
    found = comparison.differences(labels, ours, ours, 1, resamples=100)
    assert all(span == (0, 0) for span in found["intervals"].values())
    assert all(value == 0 for name, value in found.items() if name != "intervals")


def test_pairing_makes_intervals_narrow() -> None:
    labels, ours, theirs = drawn(2, rows=2000)
    found = comparison.differences(labels, ours, theirs, 1, resamples=300)
    alone = judgement.intervals(labels, ours, 1, 300)["accuracy"]
    low, high = found["intervals"]["accuracy"]
    assert high - low < 1.2 * (alone[1] - alone[0])  # unpaired, it would be 1.41 times as wide
