"""Permutation importance against scikit-learn's, of a model that is a known rule."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from judged_rows import sample
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.inspection import permutation_importance

from ray_pipeline.job import Importance
from ray_pipeline.model import importance
from ray_pipeline.model.sample import Sample, mean_interval

COLUMNS = ("age", "income", "town", "said")


class Rule(ClassifierMixin, BaseEstimator):
    def __init__(self, tried: Sample | None = None) -> None:
        self.tried = tried

    def fit(self, rows: pd.DataFrame, labels: np.ndarray) -> Rule:
        self.classes_ = np.unique(labels)
        return self

    def predict(self, rows: pd.DataFrame) -> np.ndarray:
        return self.tried.answers(pa.Table.from_pandas(rows)).argmax(1)


def test_drops_are_scikit_learns_within_the_noise_of_shuffling() -> None:
    tried = sample(1500)
    found = importance.importances(tried, COLUMNS, Importance(repeats=20))
    frame = tried.rows.to_pandas()
    expected = permutation_importance(
        Rule(tried).fit(frame, tried.labels), frame, tried.labels, n_repeats=20, random_state=0
    )
    for index, name in enumerate(COLUMNS):
        assert found[name]["drop"] == pytest.approx(expected.importances_mean[index], abs=0.01)
        assert found[name]["low"] <= found[name]["drop"] <= found[name]["high"]
    assert list(found)[:2] == ["age", "town"]
    assert found["income"] == {"drop": 0, "low": 0, "high": 0}
    assert found["age"]["low"] > 0.2


def test_the_report_shows_the_columns_that_matter_most() -> None:
    drops = {
        f"c{i}": {"drop": 1 / (i + 1), "low": 0.0, "high": 1.0}
        for i in range(importance._SHOWN + 5)
    }
    (section,) = importance.findings(drops, "accuracy", Importance(), 1000)
    assert len(section["plots"][0]["bars"]) == importance._SHOWN
    assert section["plots"][0]["bars"][0] == ["c0", 1.0, 0.0, 1.0]
    assert importance.findings({}, "accuracy", Importance(), 1000) == []


def test_a_mean_lies_in_its_interval_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        _, low, high = mean_interval(rng.exponential(size=200) - 1)
        held += low <= 0 <= high
    assert 0.91 < held / 400 < 0.98
