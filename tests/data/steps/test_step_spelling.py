"""Spellings: listed, by case, and near, against a plain longest common subsequence."""

from __future__ import annotations

from functools import lru_cache

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.data.steps import spelling
from ray_pipeline.job.steps import Spelling

STATES = ("California", "New York", "Nevada")


def spelled(found, **settings):
    apply = spelling.applying(Spelling(column="s", **settings))
    return apply(pa.table({"s": pa.array(found, pa.string())}))["s"]


def test_listed_then_case_then_near():
    found = spelled(
        ["CA", "california", "NEW  YORK", "Kalifornia", "Nevada", "Texas", None, "ca"],
        values={"CA": "California"},
        like=STATES,
        threshold=0.8,
    )
    assert found.values.to_pylist() == [
        *("California", "California", "New York", "California", "Nevada", "Texas", None),
        "California",
    ]
    assert found.kinds == {"listed": 1, "case": 3, "near": 1}


@pytest.mark.parametrize(("other", "wanted"), [("keep", "Texas"), ("missing", None)])
def test_what_is_none_of_them(other, wanted):
    found = spelled(["Texas", "nevada"], like=STATES, other=other)
    assert found.values.to_pylist() == [wanted, "Nevada"]
    assert found.faults is None


def test_what_is_none_of_them_may_go_to_quarantine():
    found = spelled(["Texas", "Nevada", None], like=STATES, other="quarantine")
    assert found.values.to_pylist() == ["Texas", "Nevada", None]
    assert found.faults.to_pylist() == [True, False, False]


def test_two_equally_near_are_no_answer():
    assert spelled(["ab"], like=["abx", "aby"], threshold=0.5).values.to_pylist() == ["ab"]


def test_without_folding_case_counts():
    assert spelled(["nevada"], like=STATES, fold=False).values.to_pylist() == ["nevada"]


def alike(one, other):
    """Twice the longest common subsequence, of both lengths together."""

    @lru_cache(None)
    def common(i, j):
        if i == len(one) or j == len(other):
            return 0
        if one[i] == other[j]:
            return 1 + common(i + 1, j + 1)
        return max(common(i + 1, j), common(i, j + 1))

    return 2 * common(0, 0) / (len(one) + len(other))


WORDS = st.text("abcd", min_size=1, max_size=7)


@given(WORDS, st.lists(WORDS, min_size=1, max_size=4, unique=True), st.sampled_from([0.5, 0.8]))
def test_the_nearest_is_the_most_alike(word, like, threshold):
    got = spelled([word], like=like, threshold=threshold).values[0].as_py()
    scores = sorted(((alike(word, right), right) for right in like), reverse=True)
    if scores[0][0] < threshold - 1e-9:
        assert got == word
    elif len(scores) == 1 or scores[0][0] > scores[1][0]:
        assert got == scores[0][1]
    else:
        assert got == word
