"""Kappa and alpha against scikit-learn's and the krippendorff package's, with gaps and without."""

from __future__ import annotations

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import cohen_kappa_score

from ray_pipeline.data.labels import agreement

CODES = hnp.arrays(
    np.int64,
    st.tuples(st.integers(2, 5), st.integers(1, 12)),
    elements=st.integers(-1, 3),
)


@given(CODES)
def test_alpha_is_that_of_the_package(codes: np.ndarray) -> None:
    found = agreement.alpha(codes)
    paired = codes[:, (codes >= 0).sum(0) >= 2]
    if len(np.unique(paired[paired >= 0])) < 2:
        assert found is None  # nothing to tell agreement from chance by
        return
    known = np.where(codes < 0, np.nan, codes.astype(float))
    expected = krippendorff.alpha(reliability_data=known, level_of_measurement="nominal")
    assert found == pytest.approx(expected, abs=1e-9)


def test_alpha_of_the_papers_example() -> None:
    # Krippendorff (2011), section C: four observers, twelve units, alpha nominal 0.743
    codes = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, -1, -1, -1],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, -1, 3],
        [-1, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, -1],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, -1],
    ]
    assert agreement.alpha(np.array(codes)) == pytest.approx(0.743, abs=5e-4)


def test_kappa_is_of_the_rows_that_both_labelled() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 3, (3, 200))
    codes[2, 50:] = -1
    found = agreement.pairs(codes)
    assert found[0][:2] == (0, 1)  # most in common
    for pair in found:
        both = (codes[pair.first] >= 0) & (codes[pair.second] >= 0)
        one, other = codes[pair.first][both], codes[pair.second][both]
        assert pair.rows == both.sum()
        assert pair.alike == (one == other).mean()
        assert pair.kappa == pytest.approx(cohen_kappa_score(one, other))
    assert agreement.pairs(np.array([[0, 0], [0, 0], [-1, -1]]))[0].kappa is None
    assert len(agreement.pairs(np.array([[0, 0], [0, 0], [-1, -1]]))) == 1
