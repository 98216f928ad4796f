"""Rows unlike the training rows are flagged, and rows like them are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_bundles import CITIES, statistics_of

from ray_pipeline.data.statistics import LabelStatistics
from ray_pipeline.deploy.guard import ABOVE, ABSENT, BELOW, UNKNOWN, Flag, Guard

STATISTICS = statistics_of(LabelStatistics(name="y", classes=("a", "b"), counts=(1, 1)))
GUARD = Guard(STATISTICS)
ROW = {"age": 40.0, "hours a week": 38.0, "member": 1.0, "ville": "Paris", "job": "nurse"}


def flags(*changes, guard=GUARD):
    rows = [ROW | change for change in changes]
    kinds = {name: object if isinstance(value, str) else float for name, value in ROW.items()}
    return guard.flags({n: np.array([row[n] for row in rows], kinds[n]) for n in ROW})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"age": -0.5}, BELOW),
        ({"age": 99.5}, ABOVE),
        ({"age": float("nan")}, ABSENT),
        ({"ville": "nowhere"}, UNKNOWN),
        ({"job": ""}, ABSENT),
    ],
)
def test_a_value_that_training_had_not(change, why):
    assert flags({}, change, {}) == [Flag(1, next(iter(change)), why)]


@pytest.mark.parametrize(
    "change",
    [{}, {"age": 0}, {"age": 99}, {"hours a week": float("nan")}, {"ville": ""}, {"ville": "東京"}],
)
def test_what_training_had_is_not_flagged(change):
    assert flags(change) == []


def test_flags_come_by_row():
    found = flags({"job": "x", "age": 100}, {}, {"age": -1})
    assert [(flag.row, flag.column) for flag in found] == [(0, "age"), (0, "job"), (2, "age")]


numbers = st.none() | st.floats(-200, 200)


@given(st.lists(st.tuples(numbers, numbers, st.text(max_size=3) | st.sampled_from(CITIES))))
def test_columns_are_judged_as_each_value_is_alone(values):
    rows = [
        {
            "age": float("nan") if age is None else age,
            "hours a week": float("nan") if hours is None else hours,
            "ville": city,
        }
        for age, hours, city in values
    ]
    found = {(flag.row, flag.column) for flag in (flags(*rows) if rows else [])}
    expected = set()
    for index, row in enumerate(rows):
        if not 0 <= row["age"] <= 99:
            expected.add((index, "age"))
        if row["hours a week"] < 0 or row["hours a week"] > 99:
            expected.add((index, "hours a week"))
        if row["ville"] not in (*CITIES, ""):
            expected.add((index, "ville"))
    assert found == expected


def test_a_hashed_column_has_no_unknown_value():
    hashed = STATISTICS.categories[1].model_copy(
        update={"encode": "hash", "buckets": 4, "values": (), "counts": ()}
    )
    categories = (STATISTICS.categories[0], hashed)
    guard = Guard(STATISTICS.model_copy(update={"categories": categories}))
    assert flags({"job": "never seen"}, guard=guard) == []


def test_rows_like_the_training_rows_are_seldom_flagged():
    """Of n training rows, a number of another is outside their range with a chance of 2/(n + 1)."""
    rng = np.random.default_rng(0)
    n, rounds, outside = 200, 300, 0
    column = STATISTICS.numbers[0]
    for _ in range(rounds):
        seen, new = rng.normal(size=n), rng.normal(size=n)
        known = column.model_copy(update={"minimum": seen.min(), "maximum": seen.max()})
        guard = Guard(STATISTICS.model_copy(update={"numbers": (known,), "categories": ()}))
        outside += len(guard.flags({"age": new}))
    assert outside / (rounds * n) == pytest.approx(2 / (n + 1), rel=0.15)
