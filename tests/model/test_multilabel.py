"""Labels of which a row has several: figures against scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from ray_pipeline.model import comparison, judgement, multilabel

CLASSES = ("a", "b", "c", "never")


def drawn(rows: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N, 4] and probabilities that lean towards them, some equal; no row has the last."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((rows, 4)) < [0.5, 0.2, 0.05, 0.0]).astype(np.uint8)
    scores = rng.normal(size=(rows, 4)) + 1.5 * labels - 1
    return labels, np.round(1 / (1 + np.exp(-scores)), 2)


THRESHOLDS = (0.5, 0.4, 0.25, 0.9)


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_rates_are_those_of_scikit_learn(average):
    labels, probabilities = drawn()
    found = multilabel.figures(labels, probabilities, THRESHOLDS)
    given = probabilities >= np.array(THRESHOLDS)
    for name in ("precision", "recall", "f1"):
        score = getattr(reference, f"{name}_score")
        wanted = score(labels, given, average=average, zero_division=0)
        assert found[f"{name}_{average}"] == pytest.approx(wanted), name


def test_the_other_figures_are_those_of_scikit_learn():
    labels, probabilities = drawn()
    found = multilabel.figures(labels, probabilities, THRESHOLDS)
    given = probabilities >= np.array(THRESHOLDS)
    assert found["subset_accuracy"] == pytest.approx(reference.accuracy_score(labels, given))
    assert found["hamming_loss"] == pytest.approx(reference.hamming_loss(labels, given))
    there = slice(3)  # no row has the last, which has no area
    average = reference.average_precision_score(labels[:, there], probabilities[:, there])
    assert found["mean_average_precision"] == pytest.approx(average)
    area = reference.roc_auc_score(labels[:, there], probabilities[:, there])
    assert found["roc_auc"] == pytest.approx(area)
    cells = [reference.log_loss(labels[:, k], probabilities[:, k], labels=[0, 1]) for k in range(4)]
    assert found["log_loss"] == pytest.approx(np.mean(cells))


def test_they_are_those_of_torchmetrics_too():
    from torchmetrics.functional.classification import (
        multilabel_average_precision,
        multilabel_exact_match,
        multilabel_f1_score,
        multilabel_hamming_distance,
    )

    labels, probabilities = drawn(seed=3)
    found = multilabel.figures(labels, probabilities, (0.5,) * 4)
    # It calls a row where the probability is above the threshold, we where it is not below.
    given = torch.tensor(np.where(probabilities == 0.5, 0.51, probabilities))
    pair = given, torch.tensor(labels.astype(int))
    for name, function, options in (
        ("f1_micro", multilabel_f1_score, {"average": "micro"}),
        ("subset_accuracy", multilabel_exact_match, {}),
    ):
        wanted = float(function(*pair, num_labels=4, **options))
        assert found[name] == pytest.approx(wanted, abs=2e-3), name
    # A class that no row has counts as 0 there, and here not at all.
    there = given[:, :3], pair[1][:, :3]
    average = float(multilabel_average_precision(*there, num_labels=3))
    assert found["mean_average_precision"] == pytest.approx(average, abs=1e-4)
    wrong = float(multilabel_hamming_distance(*pair, num_labels=4))
    assert found["hamming_loss"] == pytest.approx(wrong)


def test_classes_have_their_own_figures_with_an_interval():
    labels, probabilities = drawn()
    found = multilabel.per_class(labels, probabilities, THRESHOLDS, CLASSES, 500)
    given = probabilities >= np.array(THRESHOLDS)
    for k, name in enumerate(CLASSES):
        wanted = reference.f1_score(labels[:, k], given[:, k], zero_division=0)
        assert found[name]["f1"] == pytest.approx(wanted)
        assert found[name]["f1_low"] <= wanted <= found[name]["f1_high"]
        assert found[name]["support"] == labels[:, k].sum()
    assert np.isnan(found["never"]["average_precision"])


def test_the_best_thresholds_are_those_that_a_search_of_all_finds():
    labels, probabilities = drawn()
    found = multilabel.best_thresholds(labels, probabilities)
    assert found[3] == multilabel.HALF
    for k in range(3):
        f1 = [
            reference.f1_score(labels[:, k], probabilities[:, k] >= at, zero_division=0)
            for at in [*np.unique(probabilities[:, k]), found[k]]
        ]
        assert f1[-1] == pytest.approx(max(f1[:-1]))


def test_intervals_hold_the_figures_and_shrink_with_more_rows():
    widths = []
    for rows in (200, 3200):
        labels, probabilities = drawn(rows)
        figures = multilabel.figures(labels, probabilities, THRESHOLDS)
        found = multilabel.intervals(labels, probabilities, THRESHOLDS, 400)
        assert set(found) == set(figures) - {"calibration_error"}
        assert set(figures) == set(judgement.KEYS["multilabel"])
        for name, (low, high) in found.items():
            assert low <= figures[name] <= high, name
        widths.append(np.subtract(*found["f1_micro"][::-1]))
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.35)  # a root of 16


def test_drawn_rows_keep_their_labels_together():
    """A row's labels hang together here: the share of rows that are wholly right then varies as a
    share of rows does, whatever K is."""
    right = np.arange(400) % 4 > 0
    labels = np.repeat(right[:, None], 5, axis=1).astype(np.uint8)
    low, high = multilabel.intervals(labels, np.ones((400, 5)), (0.5,) * 5, 2000)["hamming_loss"]
    deviation = (0.25 * 0.75 / 400) ** 0.5
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.1)


def test_a_rows_f1_is_that_of_scikit_learn():
    labels, probabilities = drawn()
    found = multilabel.row_f1(labels, probabilities, THRESHOLDS)
    given = probabilities >= np.array(THRESHOLDS)
    wanted = reference.f1_score(labels, given, average="samples", zero_division=1)
    assert found.mean() == pytest.approx(wanted)


def test_a_model_is_as_good_as_itself_and_better_than_noise():
    labels, ours = drawn(1000)
    noise = np.random.default_rng(9).random(ours.shape)
    at = {"theirs_at": (0.5,) * 4, "resamples": 300}
    same = comparison.differences(labels, ours, ours, THRESHOLDS, resamples=300)
    assert same["f1_micro"] == 0
    assert same["intervals"]["f1_micro"] == (0, 0)
    other = comparison.differences(labels, ours, noise, THRESHOLDS, **at)
    assert other["intervals"]["f1_micro"][0] > 0
    assert other["f1_micro"] == pytest.approx(
        multilabel.figures(labels, ours, THRESHOLDS)["f1_micro"]
        - multilabel.figures(labels, noise, (0.5,) * 4)["f1_micro"]
    )
