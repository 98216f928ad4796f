"""Figures by group against scikit-learn on each group's rows; gaps as fairlearn defines them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from ray_pipeline.model import fairness

NAMES = ("a", "b", "c")


def test_each_group_is_judged_on_its_own_rows() -> None:
    rng = np.random.default_rng(0)
    codes, labels, predicted = (rng.integers(0, high, 600) for high in (3, 2, 2))
    found = fairness.classification_groups(codes, NAMES, (labels, predicted), classes=2, positive=1)
    called, hits, alarms = [], [], []
    for code, name in enumerate(NAMES):
        true, said = labels[codes == code], predicted[codes == code]
        row = found["values"][name]
        assert row["rows"] == len(true)
        assert row["accuracy"] == pytest.approx(accuracy_score(true, said))
        assert row["f1"] == pytest.approx(f1_score(true, said))
        called.append(said.mean())
        hits.append(recall_score(true, said))
        alarms.append(1 - recall_score(true, said, pos_label=0))
        assert row["positive_rate"] == pytest.approx(called[-1])
        assert row["true_positive_rate"] == pytest.approx(hits[-1])
        assert row["false_positive_rate"] == pytest.approx(alarms[-1])
    assert found["demographic_parity_difference"] == pytest.approx(np.ptp(called))
    assert found["equalized_odds_difference"] == pytest.approx(max(np.ptp(hits), np.ptp(alarms)))


def test_a_rate_over_no_rows_is_undefined_and_makes_no_gap() -> None:
    codes = np.array([0, 0, 0, 0, 1, 1])
    labels = np.array([1, 1, 0, 0, 0, 0])  # group b has no positive row
    predicted = np.array([1, 0, 0, 0, 0, 0])
    found = fairness.classification_groups(
        codes, ("a", "b"), (labels, predicted), classes=2, positive=1
    )
    assert math.isnan(found["values"]["b"]["true_positive_rate"])
    assert found["equalized_odds_difference"] == 0.0
    assert found["demographic_parity_difference"] == pytest.approx(0.25)


def test_with_more_classes_there_is_no_positive_rate() -> None:
    rng = np.random.default_rng(1)
    codes, labels, predicted = (rng.integers(0, 3, 200) for _ in range(3))
    found = fairness.classification_groups(
        codes, NAMES, (labels, predicted), classes=3, positive=None
    )
    assert found.keys() == {"values", "accuracy_difference"}
    macro = f1_score(labels[codes == 2], predicted[codes == 2], average="macro")
    assert found["values"]["c"]["f1_macro"] == pytest.approx(macro)


def test_regression_groups_say_who_is_over_and_underestimated() -> None:
    codes = np.array([0, 0, 1, 1])
    values, predicted = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 3.0, 2.0, 4.0])
    found = fairness.regression_groups(codes, ("a", "b"), values, predicted)
    assert found["values"]["a"] == {"rows": 2, "rmse": 1.0, "mae": 1.0, "mean_error": 1.0}
    assert found["values"]["b"]["mean_error"] == pytest.approx(-0.5)
    assert found["values"]["b"]["rmse"] == pytest.approx(math.sqrt(0.5))
    assert found["mae_difference"] == pytest.approx(0.5)
