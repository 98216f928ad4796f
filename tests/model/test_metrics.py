"""Metrics against scikit-learn; intervals against a bootstrap done row by row."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from ray_pipeline.model import metrics


def drawn(classes: int, rows: int, seed: int, ties: bool = False) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.7), rows)
    if ties:
        probabilities = np.round(probabilities, 1) + 1e-3
        probabilities /= probabilities.sum(1, keepdims=True)
    cumulative = probabilities.cumsum(1)
    labels = (cumulative < rng.random((rows, 1))).sum(1).clip(0, classes - 1)
    return labels.astype(np.int64), probabilities


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 300), st.integers(0, 10**6), st.booleans(), st.integers(0, 1))
def test_two_classes_as_scikit_learn(rows: int, seed: int, ties: bool, positive: int) -> None:
    labels, probabilities = drawn(2, rows, seed, ties)
    labels[:2] = 0, 1
    found = metrics.classification(labels, probabilities, positive)
    predicted, score, is_positive = (
        probabilities.argmax(1),
        probabilities[:, positive],
        labels == positive,
    )
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    for name in ("precision", "recall", "f1"):
        function = getattr(reference, f"{name}_score")
        expected = function(labels, predicted, pos_label=positive, zero_division=0)
        assert found[name] == pytest.approx(expected)
    macro = reference.f1_score(labels, predicted, average="macro", zero_division=0)
    assert found["f1_macro"] == pytest.approx(macro)
    micro = reference.f1_score(labels, predicted, average="micro", zero_division=0)
    assert found["f1_micro"] == pytest.approx(micro)
    assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(is_positive, score))
    average = reference.average_precision_score(is_positive, score)
    assert found["pr_auc"] == pytest.approx(average)
    assert found["log_loss"] == pytest.approx(reference.log_loss(labels, probabilities))
    assert found["brier"] == pytest.approx(reference.brier_score_loss(is_positive, score))


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 6), st.integers(30, 300), st.integers(0, 10**6), st.booleans())
def test_more_classes_as_scikit_learn(classes: int, rows: int, seed: int, ties: bool) -> None:
    labels, probabilities = drawn(classes, rows, seed, ties)
    labels[:classes] = np.arange(classes)
    found = metrics.classification(labels, probabilities, None)
    predicted = probabilities.argmax(1)
    for name in ("precision", "recall", "f1"):
        function = getattr(reference, f"{name}_score")
        expected = function(labels, predicted, average="macro", zero_division=0)
        assert found[name] == pytest.approx(expected)
    area = reference.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert found["roc_auc"] == pytest.approx(area)
    one_hot = np.eye(classes)[labels]
    average = reference.average_precision_score(one_hot, probabilities, average="macro")
    assert found["pr_auc"] == pytest.approx(average)
    assert found["brier"] == pytest.approx(reference.brier_score_loss(labels, probabilities))
    assert found["log_loss"] == pytest.approx(reference.log_loss(labels, probabilities))


def test_a_class_that_never_occurs_takes_no_part_in_averages() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.2, 0.7, 0.1]])
    found = metrics.classification(labels, probabilities, None)
    assert found["f1_macro"] == pytest.approx(
        reference.f1_score(labels, [0, 1, 1, 1], average="macro")
    )
    assert found["roc_auc"] == pytest.approx(
        np.mean([reference.roc_auc_score(labels == k, probabilities[:, k]) for k in (0, 1)])
    )


def test_areas_over_one_class_are_undefined() -> None:
    found = metrics.classification(np.zeros(5, dtype=np.int64), np.full((5, 2), 0.5), 1)
    assert math.isnan(found["roc_auc"])
    assert math.isnan(found["pr_auc"])


def test_confusion_and_per_class_as_scikit_learn() -> None:
    labels, probabilities = drawn(4, 500, seed=3)
    predicted = probabilities.argmax(1)
    counts = metrics.confusion(labels, predicted, 4)
    assert np.array_equal(counts, reference.confusion_matrix(labels, predicted))
    expected = reference.classification_report(
        labels, predicted, target_names=list("abcd"), output_dict=True
    )
    for name, row in metrics.per_class(counts, tuple("abcd")).items():
        assert row["precision"] == pytest.approx(expected[name]["precision"])
        assert row["recall"] == pytest.approx(expected[name]["recall"])
        assert row["f1"] == pytest.approx(expected[name]["f1-score"])
        assert row["support"] == expected[name]["support"]


def test_calibration_bins_hold_every_row_and_give_the_error() -> None:
    rng = np.random.default_rng(5)
    probability = np.append(rng.random(4000), [0.0, 1.0])
    happened = rng.random(4002) < probability**2
    bins = metrics.calibration(probability, happened)
    assert sum(bin_["rows"] for bin_ in bins) == 4002
    index = np.minimum(np.floor(probability * 15), 14)
    expected = sum(
        (index == b).mean() * abs(probability[index == b].mean() - happened[index == b].mean())
        for b in range(15)
    )
    assert metrics.calibration_error(bins) == pytest.approx(expected)
    assert expected > 0.1  # p² is not p


def test_regression_as_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    values = 1e6 + rng.normal(size=400)
    predicted = values + rng.normal(scale=0.5, size=400)
    found = metrics.regression(values, predicted)
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(values, predicted))
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(values, predicted))
    assert found["r2"] == pytest.approx(reference.r2_score(values, predicted))
    assert math.isnan(metrics.regression(np.ones(3), np.zeros(3))["r2"])


def by_rows(rows: int, resamples: int, figures: Any) -> dict[str, Any]:
    """Percentile intervals of a plain bootstrap, as a reference."""
    rng = np.random.default_rng(11)
    samples = [figures(rng.integers(0, rows, rows)) for _ in range(resamples)]
    return {
        name: np.quantile([sample[name] for sample in samples], [0.025, 0.975])
        for name in samples[0]
    }


@pytest.mark.parametrize(("classes", "positive"), [(2, 1), (3, None)])
def test_intervals_as_a_plain_bootstrap(classes: int, positive: int | None) -> None:
    labels, probabilities = drawn(classes, 2500, seed=7)
    found = metrics.classification_intervals(labels, probabilities, positive, 2000)
    expected = by_rows(
        2500,
        600,
        lambda rows: metrics.classification(labels[rows], probabilities[rows], positive),
    )
    del expected["calibration_error"]
    assert found.keys() == expected.keys()
    for name, (low, high) in expected.items():
        # Both ends carry the noise of their own resampling: about a tenth of the width.
        tolerance = 0.2 * (high - low)
        assert found[name][0] == pytest.approx(low, abs=tolerance), name
        assert found[name][1] == pytest.approx(high, abs=tolerance), name


def test_regression_intervals_as_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=800)
    predicted = values + rng.standard_t(4, size=800)
    found = metrics.regression_intervals(values, predicted, 2000)
    expected = by_rows(800, 2000, lambda rows: metrics.regression(values[rows], predicted[rows]))
    for name, (low, high) in expected.items():
        assert np.allclose(found[name], (low, high), atol=0.15 * (high - low)), name


def test_an_interval_holds_the_figure_and_shrinks_with_rows() -> None:
    widths = []
    for rows in (400, 6400):
        labels, probabilities = drawn(2, rows, seed=1)
        figures = metrics.classification(labels, probabilities, 1)
        spans = metrics.classification_intervals(labels, probabilities, 1, 500)
        assert all(low < figures[name] < high for name, (low, high) in spans.items())
        widths.append(spans["roc_auc"][1] - spans["roc_auc"][0])
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.3)  # √16


def test_intervals_are_the_same_each_time() -> None:
    labels, probabilities = drawn(2, 300, seed=9)
    first, second = (
        metrics.classification_intervals(labels, probabilities, 1, 100) for _ in range(2)
    )
    assert first == second


def test_a_thousand_resamples_of_the_adult_test_set_are_quick() -> None:
    labels, probabilities = drawn(2, 16_281, seed=6)
    begun = time.process_time()
    metrics.classification_intervals(labels, probabilities, 1, 1000)
    assert time.process_time() - begun < 3  # 0.6 s of one quiet core
