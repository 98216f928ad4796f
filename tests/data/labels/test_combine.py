"""Figures against numbers worked out by hand; Dawid-Skene against planted accuracies."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ray_pipeline.data.labels import combine
from ray_pipeline.errors import DataError

# 10 rows, functions f, g, h
BY_HAND = Counter(
    {
        ("a", "a", None): 4,
        ("a", "b", "a"): 2,
        ("b", None, None): 1,
        (None, "b", "b"): 2,
        (None, None, None): 1,
    }
)


def test_figures_are_those_worked_out_by_hand() -> None:
    model = combine.fitted(BY_HAND, "majority")
    f, g, h = combine.figures(BY_HAND, ("f", "g", "h"), model)
    assert (f["coverage"], f["overlap"], f["conflict"]) == (0.7, 0.6, 0.2)
    assert (g["coverage"], g["overlap"], g["conflict"]) == (0.8, 0.8, 0.2)
    assert (h["coverage"], h["overlap"], h["conflict"]) == (0.4, 0.4, 0.2)
    # rows times the probability of the vote; of a, b, a the majority says a with 2/3
    assert f["estimated_accuracy"] == pytest.approx((4 + 4 / 3 + 1) / 7)
    assert g["estimated_accuracy"] == pytest.approx((4 + 2 / 3 + 2) / 8)
    assert h["estimated_accuracy"] == pytest.approx((4 / 3 + 2) / 4)


def test_the_majority_labels_and_a_tie_goes_by_name() -> None:
    model = combine.fitted(Counter({("b", "a"): 1, ("b", "b"): 1}), "majority")
    assert model.label(("b", "b")) == ("b", 1.0)
    assert model.label(("b", "a")) == ("a", 0.5)
    assert model.label((None, None)) == (None, 0.0)


def planted(accuracies: list[float], rows: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """True classes [N], and votes [N, M] that are right as often as planted; one in five null."""
    rng = np.random.default_rng(0)
    truth = rng.choice(["x", "y"], rows, p=[0.6, 0.4])
    other = np.where(truth == "x", "y", "x")
    votes = np.stack([np.where(rng.random(rows) < a, truth, other) for a in accuracies], 1)
    return truth, np.where(rng.random(votes.shape) < 0.2, None, votes)


@pytest.mark.parametrize("rows", [6000, 60_000])  # the latter are more than the model is fitted on
def test_dawid_skene_finds_planted_accuracies_and_beats_the_majority(rows: int) -> None:
    accuracies = [0.95, 0.9, 0.55, 0.55, 0.55]
    truth, votes = planted(accuracies, rows)
    patterns = [tuple(row) for row in votes.tolist()]
    counts = Counter(patterns)
    right, error = {}, {}
    for method in ("majority", "dawid-skene"):
        model = combine.fitted(counts, method)
        found = np.array([model.label(pattern)[0] for pattern in patterns], dtype=object)
        right[method] = (found == truth).mean()
        figures = combine.figures(counts, tuple("abcde"), model)
        estimated = np.array([row["estimated_accuracy"] for row in figures])
        error[method] = abs(estimated - accuracies).max()
    assert right["dawid-skene"] > right["majority"] + 0.08
    assert error["dawid-skene"] < 0.03 < error["majority"]


def test_dawid_skene_refuses_functions_that_tell_it_nothing() -> None:
    counts = Counter({("a", None): 5, ("a", "b"): 3, ("a", "a"): 3})
    with pytest.raises(DataError, match="function 1 votes for one class only"):
        combine.fitted(counts, "dawid-skene")
    assert combine.fitted(counts, "majority").label(("a", "b")) == ("a", 0.5)


def test_one_class_is_nothing_to_learn() -> None:
    with pytest.raises(DataError, match="vote for 1 classes"):
        combine.fitted(Counter({("a", None): 3, (None, None): 1}), "majority")
