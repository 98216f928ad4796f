"""Figures by group against scikit-learn on each group's rows; gaps against fairlearn's own."""

from __future__ import annotations

import math

import fairlearn.metrics
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


@pytest.mark.parametrize("positive", [0, 1])
def test_gaps_are_fairlearns(positive: int) -> None:
    rng = np.random.default_rng(2)
    codes = rng.choice(3, 900, p=[0.6, 0.3, 0.1])
    labels = (rng.random(900) < np.array([0.2, 0.4, 0.3])[codes]).astype(int)
    predicted = np.where(rng.random(900) < 0.8, labels, rng.integers(0, 2, 900))
    found = fairness.classification_groups(
        codes, NAMES, (labels, predicted), classes=2, positive=positive
    )
    assert set(fairness.GAPS) == found.keys() - {"values", "intervals"}
    for gap in fairness.GAPS:
        name = gap.replace("accuracy_", "accuracy_score_")
        expected = getattr(fairlearn.metrics, name)(
            labels == positive, predicted == positive, sensitive_features=codes
        )
        assert found[gap] == pytest.approx(expected), gap


def test_intervals_are_those_of_rows_drawn_again() -> None:
    """fairlearn draws the rows themselves; here their counts are drawn."""
    rng = np.random.default_rng(3)
    codes, labels = rng.integers(0, 2, 600), rng.integers(0, 2, 600)
    predicted = np.where(rng.random(600) < 0.6 + 0.2 * codes, labels, 1 - labels)
    found = fairness.classification_groups(
        codes, ("a", "b"), (labels, predicted), classes=2, positive=1, resamples=4000
    )
    frame = fairlearn.metrics.MetricFrame(
        metrics=fairlearn.metrics.selection_rate,
        y_true=labels,
        y_pred=predicted,
        sensitive_features=codes,
        n_boot=150,
        ci_quantiles=[0.025, 0.975],
        random_state=0,
    )
    assert found["intervals"].keys() == set(fairness.GAPS)
    expected = [float(bound) for bound in frame.difference_ci()]
    assert found["intervals"]["demographic_parity_difference"] == pytest.approx(expected, abs=0.02)
    low, high = found["intervals"]["accuracy_difference"]
    assert low < found["accuracy_difference"] < high


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
    assert found.keys() == {"values", "accuracy_difference", "intervals"}
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
