"""What two versions answered, and when the new one is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ray_pipeline.data.statistics import LabelStatistics
from ray_pipeline.deploy import tally
from ray_pipeline.job import Trial

QUIET = Trial(max_p99_ratio=None, max_distance=None)


def of(answers: int = 0, failures: int = 0, seconds: float = 0.01, outcomes=()) -> tally.Tally:
    made = tally.nothing()
    for _ in range(answers):
        tally.answered(made, seconds, [])
    for _ in range(failures):
        tally.failed(made, "ValueError")
    for outcome in outcomes:
        made["outcomes"][outcome] = made["outcomes"].get(outcome, 0) + 1
    return made


def setting(old, new, settings):
    refused = tally.refusal(old, new, settings)
    return refused and refused.where.removeprefix("serve.release.")


@pytest.mark.parametrize(
    ("answers", "failures", "refused"),
    [(0, 2, False), (0, 3, True), (97, 3, False), (96, 5, True), (9900, 100, False),
     (9800, 200, True)],
)  # fmt: skip
def test_failures_beyond_the_bound_and_chance(answers, failures, refused):
    found = setting(of(), of(answers, failures), QUIET)
    assert found == ("max_error_share" if refused else None)


def test_what_failed_is_said_with_its_number_and_bound():
    error = tally.refusal(of(), of(10, 5), QUIET)
    assert "5 of 15 answers failed (ValueError: 5)" in str(error)
    assert "at most 0.01" in str(error)
    assert error.exit_code == 3


def test_quantiles_are_within_five_percent_of_numpy():
    seconds = np.random.default_rng(3).lognormal(-4, 1, 5000)
    made = tally.nothing()
    for one in seconds:
        tally.answered(made, one, [])
    assert tally.p99(made) == pytest.approx(np.quantile(seconds, 0.99), rel=0.05)
    assert tally.p99(tally.nothing()) is None


def test_a_slow_version_is_refused_after_a_few_answers_and_a_slow_answer_is_not():
    old, bounded = of(1000), Trial(max_p99_ratio=3, max_distance=None)
    assert setting(old, of(4, seconds=0.5), bounded) == "max_p99_ratio"
    assert setting(of(99), of(4, seconds=0.5), bounded) is None, "too few to compare with"
    once = of(200)
    tally.add(once, of(2, seconds=0.5))
    assert setting(old, once, bounded) is None
    absolute = Trial(max_p99_ratio=None, max_p99_ms=100, max_distance=None)
    assert setting(of(), of(4, seconds=0.5), absolute) == "max_p99_ms"
    assert setting(of(), of(400, seconds=0.05), absolute) is None


def test_the_same_answers_are_seldom_called_different_and_others_soon():
    rng, settings = np.random.default_rng(5), Trial(max_distance=0.1)
    refused = 0
    for _ in range(300):
        old = of(outcomes=rng.choice(["a", "b", "c"], 2000, p=[0.7, 0.28, 0.02]).tolist())
        new = of(outcomes=rng.choice(["a", "b", "c"], 40, p=[0.7, 0.28, 0.02]).tolist())
        refused += tally.refusal(old, new, settings) is not None
    assert refused == 0
    other = of(outcomes=["b"] * 40)
    assert setting(old, other, settings) == "max_distance"


def test_the_distance_of_values_is_that_of_kolmogorov_and_smirnov():
    scipy = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(50, 20, 900), rng.normal(60, 20, 700)
    outcome = tally.outcomes_by(LabelStatistics(name="y", classes=None, mean=50, deviation=20))
    old = of(outcomes=map(outcome, ours.tolist()))
    new = of(outcomes=map(outcome, theirs.tolist()))
    assert tally.distance(old, new)[0] == pytest.approx(
        scipy.ks_2samp(ours, theirs).statistic, abs=0.03
    )


def test_outcomes_are_classes_or_tenths_of_a_deviation():
    outcome = tally.outcomes_by(LabelStatistics(name="y", classes=None, mean=50, deviation=20))
    assert [outcome(value) for value in (50.0, 52.0, 30.0, math.inf, math.nan, "no")] == [
        *(0, 1, -10, 1000, 1000, "no")
    ]
    assert tally.said({"label": "no", "probability": 0.9}) == "no"
    assert tally.said({"value": 3.5}) == 3.5
    assert tally.said({"vector": [1.0]}) == 0.0
    assert not tally.differ(3, 4)
    assert tally.differ(3, 5)
    assert tally.differ("yes", "no")


def test_rows_that_are_answered_otherwise_are_counted_in_shadow():
    settings = Trial(max_p99_ratio=None, max_distance=None, max_differing=0.05)
    new = of(outcomes=["a"] * 100)
    new["differing"] = 11
    assert setting(of(), new, settings) is None, "by chance"
    new["differing"] = 12
    assert setting(of(), new, settings) == "max_differing"
